"""Log-probabilities in the shapes of the dialect: chat's `content` list, the legacy completion object, vLLM's prompt list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.wire.messages import TokenLogprob

# JSON has no infinity; OpenAI writes impossible tokens like this.
IMPOSSIBLE = -9999.0

Json = dict[str, Any]


class TokenNames:
    """How tokens are written: as their text or, on request, as `token_id:N`, which is never ambiguous."""

    def __init__(self, tokenizer: Tokenizer, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def text(self, token: int) -> str:
        """The name of one token."""
        return f"token_id:{token}" if self._as_ids else self._tokenizer.token_text(token)

    def raw(self, token: int) -> list[int]:
        """The bytes of one token."""
        return list(self._tokenizer.token_bytes(token))


def chat_logprobs(tokens: Sequence[int], logprobs: Sequence[TokenLogprob], top: int, names: TokenNames) -> list[Json]:
    """Entries of `logprobs.content`."""
    return [
        {
            **_entry(token, known.logprob, names),
            "top_logprobs": [_entry(other, value, names) for other, value in known.top[:top]],
        }
        for token, known in zip(tokens, logprobs, strict=True)
    ]


def _entry(token: int, logprob: float, names: TokenNames) -> Json:
    return {"token": names.text(token), "logprob": _finite(logprob), "bytes": names.raw(token)}


class LegacyLogprobs:
    """The completion object's `logprobs`, piece by piece. `text_offset` runs on over all pieces of a choice."""

    def __init__(self, top: int, names: TokenNames) -> None:
        self._top = top
        self._names = names
        self._offset = 0

    def add(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob | None]) -> Json:
        """The object for these tokens; None stands for a token that nothing predicts, the prompt's first."""
        texts = [self._names.text(token) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "text_offset": offsets,
            "token_logprobs": [None if known is None else _finite(known.logprob) for known in logprobs],
            "tokens": texts,
            "top_logprobs": [
                None if known is None else self._alternatives(token, known) for token, known in zip(tokens, logprobs, strict=True)
            ]
            if self._top
            else None,
        }

    def _alternatives(self, token: int, known: TokenLogprob) -> dict[str, float]:
        """Text to logprob, the chosen token included. Of tokens with the same text the likeliest counts."""
        found: dict[str, float] = {}
        for other, value in [*known.top[: self._top], (token, known.logprob)]:
            text = self._names.text(other)
            found[text] = max(found.get(text, IMPOSSIBLE), _finite(value))
        return found


def prompt_logprobs(prompt: Sequence[int], logprobs: Sequence[TokenLogprob], names: TokenNames) -> list[Json | None]:
    """vLLM's `prompt_logprobs`: null, then for each token a map from token id to logprob, rank (if known) and text."""
    rows: list[Json | None] = [None]
    for token, known in zip(prompt[1:], logprobs, strict=True):
        ranked = {other: (value, rank) for rank, (other, value) in enumerate(known.top, 1)}
        ranked.setdefault(token, (known.logprob, 0))
        rows.append(
            {
                str(other): {"logprob": _finite(value), "rank": rank or None, "decoded_token": names.text(other)}
                for other, (value, rank) in ranked.items()
            }
        )
    return rows


def _finite(logprob: float) -> float:
    return max(IMPOSSIBLE, logprob)
