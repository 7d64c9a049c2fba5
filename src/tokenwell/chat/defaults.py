"""What a checkpoint says about generating with it: sampling values, the tokens that end an answer, the window.

Only what the files say; requests and settings come on top elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenwell.chat.metadata import read_json
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.wire.errors import CheckpointError

# Tokens that end a turn in the chat formats of Qwen and other ChatML models, Llama 3, Gemma 2 to 4 and gpt-oss. Some
# generation_config.json files leave them out. `</s>` and `<|endoftext|>` are not here: they end a turn only where they are
# an eos token, which the files then say, and elsewhere they are ordinary vocabulary.
END_OF_TURN = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|return|>",
    "<|call|>",
)


@dataclass(frozen=True)
class Defaults:
    """Neutral values where the files say nothing.

    `do_sample: false` in generation_config.json does not make a server greedy (vLLM reads it so too): it is the library's
    default that authors leave in place, beside a temperature that they mean.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    stop_ids: tuple[int, ...] = ()  # ascending
    context_length: int | None = None  # tokens, prompt and answer together; what the engine enforces may be less
    suppress_tokens: tuple[int, ...] = ()  # ids that must never be sampled

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> Defaults:
        """Read generation_config.json and config.json. Raises CheckpointError naming the file and the field that is wrong."""
        fields = _Fields(folder / "generation_config.json")
        config = _Fields(folder / "config.json")
        text = config.nested("text_config")
        stop_ids = {*fields.ids("eos_token_id"), *config.ids("eos_token_id"), *text.ids("eos_token_id")}
        if tokenizer.eos_token is not None and (id := tokenizer.id_of(tokenizer.eos_token)) is not None:
            stop_ids.add(id)
        # Only as added tokens: the same letters in the ordinary vocabulary are text.
        stop_ids |= {tokenizer.added[name] for name in END_OF_TURN if name in tokenizer.added}
        return cls(
            temperature=fields.number("temperature", 1.0, 0.0, 1e6),
            top_p=fields.number("top_p", 1.0, 0.0, 1.0) or 1.0,
            top_k=max(0, fields.integer("top_k", -1) or 0),
            min_p=fields.number("min_p", 0.0, 0.0, 1.0),
            repetition_penalty=fields.number("repetition_penalty", 1.0, 0.0, 1e6) or 1.0,
            max_new_tokens=fields.integer("max_new_tokens", 1),
            stop_ids=tuple(sorted(stop_ids)),
            # The tokenizer's model_max_length is left alone: a setting of training scripts, often stale.
            context_length=text.integer("max_position_embeddings", 1) or config.integer("max_position_embeddings", 1),
            suppress_tokens=tuple(sorted(set(fields.ids("suppress_tokens")))),
        )


class _Fields:
    """One JSON object with typed access; null and absent are the same."""

    def __init__(self, path: Path, values: dict[str, Any] | None = None) -> None:
        self._path = path
        self._values = read_json(path) if values is None else values

    def nested(self, name: str) -> _Fields:
        return _Fields(self._path, self._get(name, dict) or {})

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self._get(name, int, float)
        if value is None:
            return default
        if not low <= value <= high:  # false for NaN too
            raise self._wrong(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, low: int) -> int | None:
        value = self._get(name, int)
        if value is not None and value < low:
            raise self._wrong(name, value, f"an integer of at least {low}")
        return None if value is None else int(value)

    def ids(self, name: str) -> list[int]:
        value = self._get(name, int, list)
        ids = value if isinstance(value, list) else [value] if value is not None else []
        if not all(isinstance(id, int) and not isinstance(id, bool) and id >= 0 for id in ids):
            raise self._wrong(name, value, "a token id or a list of token ids")
        return ids

    def _get(self, name: str, *kinds: type) -> Any:
        value = self._values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise self._wrong(name, value, " or ".join(kind.__name__ for kind in kinds))
        return value

    def _wrong(self, name: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {name} is {value!r}, expected {expected}; correct it or remove it")
