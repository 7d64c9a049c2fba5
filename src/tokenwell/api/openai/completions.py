"""POST /v1/completions: texts or token ids in, texts out, the prompt's own log-probabilities included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tokenwell.api.answering import accept, check_window, expand, unenforced, whole_answer
from tokenwell.api.errors import bad_request
from tokenwell.api.exchange import exchange_of
from tokenwell.api.openai.constraints import check_together, output_of
from tokenwell.api.openai.envelope import DONE, Envelope, chunk_stream, encode, usage_of, wants_usage
from tokenwell.api.openai.logprobs import Json, LegacyLogprobs, TokenNames, prompt_logprobs
from tokenwell.api.openai.requests import CompletionRequest
from tokenwell.api.sampling import check_token_ids, sampling_of, stop_rules
from tokenwell.api.sse import while_connected
from tokenwell.chat.events import Content, Event, Reasoning
from tokenwell.chat.grammar.constraint import Constraint
from tokenwell.chat.model import ChatModel
from tokenwell.service.gateway import Gateway
from tokenwell.service.generation import Generation, Piece, Whole
from tokenwell.wire.messages import TokenLogprob

DEFAULT_MAX_TOKENS = 16
MAX_SEQUENCES = 4096  # choices of all prompts together

_decoder = msgspec.json.Decoder(CompletionRequest)


@dataclass(frozen=True)
class _Prompt:
    """One prompt. `text` is None when the client sent ids."""

    tokens: list[int]
    text: str | None


class Completions:
    """The endpoint."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def create(self, request: Request) -> Response:
        """Answer one request, streaming or not."""
        gateway = self._gateway
        wanted, model = await accept(request, gateway, _decoder)
        check_together(wanted)
        _check(wanted)
        given = _split(wanted.prompt)
        if len(given) * (wanted.n or 1) > MAX_SEQUENCES:
            raise bad_request(f"More than {MAX_SEQUENCES} sequences in one request.", "prompt", "invalid_value")
        prompts = await while_connected(request.receive, asyncio.to_thread(self._tokenise, wanted, given))
        # In a thread like the tokeniser: a client's schema or grammar may be large.
        output = output_of(wanted)
        constraint = await while_connected(request.receive, asyncio.to_thread(gateway.model.constrain_text, output))
        exchange_of(request).warn(constraint.warnings)
        generation = self._generation(wanted, prompts, constraint.grammar)
        exchange_of(request).generation = generation
        answer = _Answer(gateway.model, wanted, prompts, constraint, generation, model)
        if wanted.stream:
            return chunk_stream(request, gateway, generation, answer.envelope, answer.frames(request), "prompt")
        return await whole_answer(request, answer.whole(request), "prompt")

    def _tokenise(self, wanted: CompletionRequest, given: Sequence[str | list[int]]) -> list[_Prompt]:
        prompts = []
        for index, prompt in enumerate(given):
            if isinstance(prompt, str):
                tokens = self._gateway.model.encode(prompt, add_special_tokens=wanted.add_special_tokens is not False)
                prompts.append(_Prompt(tokens, prompt))
            else:
                check_token_ids(prompt, self._gateway.vocab_size, "prompt")
                prompts.append(_Prompt(prompt, None))
            if not prompts[-1].tokens:
                raise bad_request(f"Prompt {index} is empty; a prompt has at least one token.", "prompt", "invalid_value")
        return prompts

    def _generation(self, wanted: CompletionRequest, prompts: list[_Prompt], grammar: str | None) -> Generation:
        gateway = self._gateway
        asked = [k for k in (wanted.logprobs if wanted.echo else None, wanted.prompt_logprobs) if k is not None]
        sampling = sampling_of(
            wanted,
            gateway.model,
            gateway.vocab_size,
            max_tokens=DEFAULT_MAX_TOKENS if wanted.max_tokens is None else min(wanted.max_tokens, 2**31 - 1),
            logprobs=wanted.logprobs,
            prompt_logprobs=max(asked) if asked else None,
            grammar=grammar,
        )
        choices = wanted.n or 1
        requests = expand([prompt.tokens for prompt in prompts], sampling, choices)
        check_window(requests, gateway, "prompt")
        return gateway.generation(
            requests,
            choices=choices,
            noun="prompt",
            prompt=None,
            stop=stop_rules(wanted),
            skip_special_tokens=wanted.skip_special_tokens is not False,
            eager=bool(wanted.stream),
            every_token=wanted.logprobs is not None or bool(wanted.return_token_ids),
        )


class _Answer:
    """Turns one generation into texts or into chunks."""

    def __init__(
        self,
        model: ChatModel,
        wanted: CompletionRequest,
        prompts: list[_Prompt],
        constraint: Constraint,
        generation: Generation,
        name: str,
    ) -> None:
        self.envelope = Envelope("cmpl-", "text_completion", name)
        self._model = model
        self._wanted = wanted
        self._prompts = prompts
        self._constraint = constraint
        self._generation = generation
        self._per_prompt = wanted.n or 1
        names = TokenNames(model.tokenizer, bool(wanted.return_tokens_as_token_ids))
        self._names = names
        self._legacy = [LegacyLogprobs(wanted.logprobs or 0, names) for _ in generation.requests]
        self._usage_field, self._continuous = wants_usage(wanted)

    async def whole(self, request: Request) -> bytes:
        """The complete answer as JSON."""
        with self._generation as generation:
            wholes = await generation.collect()
        exchange_of(request).finish = ",".join(sorted({whole.finish for whole in wholes}))
        choices = [self._choice(index, whole) for index, whole in enumerate(wholes)]
        more = await unenforced(self._constraint, [whole.events for whole in wholes])
        return self.envelope.whole(choices, generation.usage(), **more)

    async def frames(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The chunks as they come; b"" after a bare wake-up."""
        count = len(self._generation.requests)
        heads = [self.envelope.opening(b'[{"index":%d,"text":' % index) for index in range(count)]
        tail = b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null}\n\n' if self._usage_field else b"}\n\n")
        plain = not (self._wanted.logprobs is not None or self._wanted.return_token_ids or self._continuous)
        finishes: set[str] = set()
        kept: list[list[Event]] = [[] for _ in range(count)]  # events, if they are checked at the end
        with self._generation as generation:
            yield b"".join(self._first_chunks())
            while not generation.done:
                out: list[bytes] = []
                for piece in await generation.next():
                    if self._constraint.checks:
                        kept[piece.index] += piece.events
                    if plain and piece.finish is None:
                        out.append(heads[piece.index] + encode(_text(piece.events)) + tail)
                    else:
                        out.append(self._chunk(piece))
                    if piece.finish is not None:
                        finishes.add(piece.finish)
                yield b"".join(out)
            exchange_of(request).finish = ",".join(sorted(finishes))
            more = await unenforced(self._constraint, kept)
            yield self.envelope.chunk([], usage=usage_of(generation.usage()), **more) + DONE

    def _first_chunks(self) -> list[bytes]:
        """What needs no engine: repeated prompts without logprobs, and the prompts' ids."""
        chunks = []
        for index in range(len(self._generation.requests)):
            choice: Json = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
            if self._wanted.echo and self._wanted.logprobs is None:
                choice["text"] = self._prompt_text(index)
            if self._wanted.return_token_ids:
                choice |= {"prompt_token_ids": self._prompt(index).tokens, "token_ids": []}
            elif not choice["text"]:
                continue
            chunks.append(self.envelope.chunk([choice], **self._usage()))
        return chunks

    def _chunk(self, piece: Piece) -> bytes:
        text = _text(piece.events)
        if piece.prompt_logprobs is not None and self._wanted.echo and self._wanted.logprobs is not None:
            text = self._prompt_text(piece.index) + text
        choice: Json = {
            "index": piece.index,
            "text": text,
            "logprobs": self._logprobs(piece.index, piece),
            "finish_reason": piece.finish,
            "stop_reason": piece.stop_reason,
        }
        if self._wanted.return_token_ids:
            choice["token_ids"] = piece.tokens
        return self.envelope.chunk([choice], **self._usage())

    def _choice(self, index: int, whole: Whole) -> Json:
        prompt = self._prompt(index)
        choice: Json = {
            "index": index,
            "text": (self._prompt_text(index) if self._wanted.echo else "") + _text(whole.events),
            "logprobs": self._logprobs(index, whole),
            "finish_reason": whole.finish,
            "stop_reason": whole.stop_reason,
        }
        if self._wanted.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(prompt.tokens, whole.prompt_logprobs or [], self._names)
        if self._wanted.return_token_ids:
            choice |= {"prompt_token_ids": prompt.tokens, "token_ids": whole.tokens}
        return choice

    def _logprobs(self, index: int, part: Piece | Whole) -> Json | None:
        """The legacy object; the prompt's tokens come first when the client wants them repeated."""
        if self._wanted.logprobs is None:
            return None
        tokens = part.tokens
        known: list[TokenLogprob | None] = [*(part.logprobs or ())]
        if self._wanted.echo and part.prompt_logprobs is not None:
            tokens = self._prompt(index).tokens + tokens
            known = [None, *part.prompt_logprobs, *known]
        return self._legacy[index].add(tokens, known)

    def _prompt(self, index: int) -> _Prompt:
        return self._prompts[index // self._per_prompt]

    def _prompt_text(self, index: int) -> str:
        prompt = self._prompt(index)
        return self._model.tokenizer.decode(prompt.tokens, skip_special_tokens=False) if prompt.text is None else prompt.text

    def _usage(self) -> Json:
        if self._continuous:
            return {"usage": usage_of(self._generation.usage())}
        return {"usage": None} if self._usage_field else {}


def _check(wanted: CompletionRequest) -> None:
    """Fields that only make sense together."""
    if wanted.suffix:
        raise bad_request("`suffix` is not supported: this model completes at the end only.", "suffix", "unsupported_parameter")
    if wanted.best_of is not None and wanted.best_of != (wanted.n or 1):
        raise bad_request("`best_of` is supported only when it equals `n`.", "best_of", "unsupported_parameter")
    if wanted.max_tokens == 0 and not wanted.echo and wanted.prompt_logprobs is None:
        raise bad_request("`max_tokens` must be at least 1, or 0 together with `echo`.", "max_tokens", "invalid_value")


def _split(prompt: str | list[str | int | list[int]]) -> Sequence[str | list[int]]:
    """The prompts of a request: a text, texts, ids, or lists of ids. Raises ApiError 400 for an empty or mixed list."""
    if isinstance(prompt, str):
        return [prompt]
    ids = [item for item in prompt if isinstance(item, int)]
    if prompt and len(ids) == len(prompt):
        return [ids]
    texts = [item for item in prompt if isinstance(item, str)]
    if prompt and len(texts) == len(prompt):
        return texts
    lists = [item for item in prompt if isinstance(item, list)]
    if prompt and len(lists) == len(prompt):
        return lists
    what = "mixes texts, ids and lists of ids" if prompt else "is an empty list"
    raise bad_request(f"`prompt` {what}.", "prompt", "invalid_value")


def _text(events: Sequence[Event]) -> str:
    if len(events) == 1 and type(event := events[0]) is Content:
        return event.text
    return "".join(event.text for event in events if isinstance(event, Content | Reasoning))
