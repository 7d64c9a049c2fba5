"""POST /v1/chat/completions: conversations in, messages or chunks out."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tokenwell.api.answering import Begun, accept, begin, unenforced, whole_answer
from tokenwell.api.errors import bad_request
from tokenwell.api.exchange import exchange_of
from tokenwell.api.openai.constraints import check_together
from tokenwell.api.openai.conversation import conversation_of
from tokenwell.api.openai.envelope import DONE, Envelope, chunk_stream, encode, usage_of, wants_usage
from tokenwell.api.openai.logprobs import Json, TokenNames, chat_logprobs, prompt_logprobs
from tokenwell.api.openai.message import delta_of, message_of
from tokenwell.api.openai.requests import ChatRequest
from tokenwell.chat.events import Content, Event
from tokenwell.service.gateway import Gateway
from tokenwell.service.generation import Piece, Whole

_decoder = msgspec.json.Decoder(ChatRequest)


class ChatCompletions:
    """The endpoint."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def create(self, request: Request) -> Response:
        """Answer one request, streaming or not."""
        gateway = self._gateway
        wanted, model = await accept(request, gateway, _decoder)
        check_together(wanted)
        if wanted.top_logprobs and not wanted.logprobs:
            raise bad_request("`top_logprobs` needs `logprobs` to be true.", "top_logprobs", "invalid_value")
        conversation, warnings = conversation_of(wanted)
        exchange_of(request).warn(warnings)
        begun = await begin(
            request,
            gateway,
            conversation,
            wanted,
            noun="messages",
            max_tokens=_max_tokens(wanted),
            stream=bool(wanted.stream),
            logprobs=(wanted.top_logprobs or 0) if wanted.logprobs else None,
            prompt_logprobs=wanted.prompt_logprobs,
            every_token=bool(wanted.logprobs or wanted.return_token_ids),
        )
        answer = _Answer(gateway, wanted, begun, model)
        if wanted.stream:
            return chunk_stream(request, gateway, begun.generation, answer.envelope, answer.frames(request), "messages")
        return await whole_answer(request, answer.whole(request), "messages")


class _Answer:
    """Turns one generation into a message or into chunks."""

    def __init__(self, gateway: Gateway, wanted: ChatRequest, begun: Begun, model: str) -> None:
        kind = "chat.completion.chunk" if wanted.stream else "chat.completion"
        self.envelope = Envelope("chatcmpl-", kind, model)
        self._wanted = wanted
        self._prompt = begun.prompt
        self._generation = begun.generation
        self._choices = wanted.n or 1
        field = gateway.settings.server.reasoning_field
        # Clients read one name or the other.
        self._reasoning_fields = ("reasoning_content", "reasoning") if field == "both" else (field,)
        self._names = TokenNames(gateway.model.tokenizer, bool(wanted.return_tokens_as_token_ids))
        self._usage_field, self._continuous = wants_usage(wanted)

    async def whole(self, request: Request) -> bytes:
        """The complete answer as JSON."""
        with self._generation as generation:
            wholes = await generation.collect()
        exchange_of(request).finish = ",".join(sorted({whole.finish for whole in wholes}))
        more: Json = {}
        if self._wanted.return_token_ids:
            more["prompt_token_ids"] = self._prompt.tokens
        if self._wanted.prompt_logprobs is not None:
            more["prompt_logprobs"] = prompt_logprobs(self._prompt.tokens, wholes[0].prompt_logprobs or [], self._names)
        choices = [self._choice(index, whole) for index, whole in enumerate(wholes)]
        more |= await unenforced(self._prompt, [whole.events for whole in wholes])
        return self.envelope.whole(choices, generation.usage(), **more)

    async def frames(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The chunks as they come; b"" after a bare wake-up."""
        heads = [self.envelope.opening(b'[{"index":%d,"delta":{"content":' % index) for index in range(self._choices)]
        tail = b'},"logprobs":null,"finish_reason":null}]' + (b',"usage":null}\n\n' if self._usage_field else b"}\n\n")
        plain = not (self._wanted.logprobs or self._wanted.return_token_ids or self._continuous)
        finishes: set[str] = set()
        kept: list[list[Event]] = [[] for _ in range(self._choices)]  # events, if they are checked at the end
        with self._generation as generation:
            yield self._first_chunks()
            while not generation.done:
                out: list[bytes] = []
                for piece in await generation.next():
                    events = piece.events
                    if self._prompt.checks:
                        kept[piece.index] += events
                    if plain and len(events) == 1 and type(event := events[0]) is Content:
                        out.append(heads[piece.index] + encode(event.text) + tail)
                    elif events or piece.tokens:
                        out.append(self._delta_chunk(piece))
                    if piece.finish is not None:
                        out.append(self._finish_chunk(piece))
                        finishes.add(piece.finish)
                yield b"".join(out)
            exchange_of(request).finish = ",".join(sorted(finishes))
            more = await unenforced(self._prompt, kept)
            yield self.envelope.chunk([], usage=usage_of(generation.usage()), **more) + DONE

    def _first_chunks(self) -> bytes:
        """The role of every choice, and what the client wants repeated."""
        delta: Json = {"role": "assistant", "content": self._echoed()}
        choices: list[Json] = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} for index in range(self._choices)
        ]
        more: Json = {}
        if self._wanted.return_token_ids:
            more["prompt_token_ids"] = self._prompt.tokens
            choices = [{**choice, "prompt_token_ids": self._prompt.tokens} for choice in choices]
        return b"".join(self.envelope.chunk([choice], **more, **self._usage()) for choice in choices)

    def _delta_chunk(self, piece: Piece) -> bytes:
        choice: Json = {
            "index": piece.index,
            "delta": delta_of(piece.events, self._reasoning_fields) or {"content": ""},
            "logprobs": self._logprobs(piece),
            "finish_reason": None,
        }
        if self._wanted.return_token_ids:
            choice["token_ids"] = piece.tokens
        return self.envelope.chunk([choice], **self._usage())

    def _finish_chunk(self, piece: Piece) -> bytes:
        choice = {
            "index": piece.index,
            "delta": {},
            "logprobs": None,
            "finish_reason": piece.finish,
            "stop_reason": piece.stop_reason,
        }
        return self.envelope.chunk([choice], **self._usage())

    def _choice(self, index: int, whole: Whole) -> Json:
        message = message_of(whole.events, self._reasoning_fields)
        if message["content"] is not None:
            message["content"] = self._echoed() + message["content"]
        choice: Json = {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(whole),
            "finish_reason": whole.finish,
            "stop_reason": whole.stop_reason,
        }
        if self._wanted.return_token_ids:
            choice |= {"prompt_token_ids": self._prompt.tokens, "token_ids": whole.tokens}
        return choice

    def _logprobs(self, part: Piece | Whole) -> Json | None:
        if not self._wanted.logprobs:
            return None
        content = chat_logprobs(part.tokens, part.logprobs or [], self._wanted.top_logprobs or 0, self._names)
        return {"content": content, "refusal": None}

    def _usage(self) -> Json:
        if self._continuous:
            return {"usage": usage_of(self._generation.usage())}
        return {"usage": None} if self._usage_field else {}

    def _echoed(self) -> str:
        """The message that is being continued, when the client wants it repeated in front of the answer."""
        if not (self._wanted.echo and self._wanted.continue_final_message):
            return ""
        content = self._wanted.messages[-1].content
        return content if isinstance(content, str) else "\n".join(part.text or "" for part in content or ())


def _max_tokens(wanted: ChatRequest) -> int | None:
    """The newer name wins."""
    name = "max_tokens" if wanted.max_completion_tokens is None else "max_completion_tokens"
    given: int | None = getattr(wanted, name)
    if given == 0:
        raise bad_request(f"`{name}` must be at least 1.", name, "invalid_value")
    return given
