"""/v1/responses: create, stream, retrieve, cancel, delete, list input items, count tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tokenwell.api.answering import Begun, accept, begin, event_stream, read, render, unenforced, whole_answer
from tokenwell.api.errors import ApiError, bad_request, internal_error, translate
from tokenwell.api.exchange import Exchange, exchange_of
from tokenwell.api.responses.answer import Answer, response_id, stem_of
from tokenwell.api.responses.conversation import Understood, not_found, understand
from tokenwell.api.responses.envelope import Envelope
from tokenwell.api.responses.items import kept
from tokenwell.api.responses.requests import CountRequest, CreateRequest, Json
from tokenwell.api.responses.store import ResponseStore, Stored
from tokenwell.chat.events import Event
from tokenwell.service.gateway import Gateway

NOUN = "input"
_SEALED = "reasoning.encrypted_content"
_MAX_PAGE = 100

_create = msgspec.json.Decoder(CreateRequest)
_count = msgspec.json.Decoder(CountRequest)
_encode = msgspec.json.Encoder().encode


class Responses:
    """The endpoints, and the streams that can be cancelled by their id."""

    def __init__(self, gateway: Gateway, store: ResponseStore) -> None:
        self._gateway = gateway
        self._store = store
        self._running: dict[str, _Making] = {}

    async def create(self, request: Request) -> Response:
        """Answer one request, streaming or not."""
        gateway = self._gateway
        wanted, name = await accept(request, gateway, _create)
        if wanted.background:
            raise bad_request(
                "`background` is not supported: stream the response, and cancel it by its id.", "background", "unsupported_value"
            )
        understood = await understand(wanted, self._store)
        exchange = exchange_of(request)
        exchange.warn(understood.warnings)
        if wanted.top_logprobs or "message.output_text.logprobs" in (wanted.include or ()):
            exchange.warn(["logprobs are not told on this endpoint"])
        begun = await begin(
            request,
            gateway,
            understood.conversation,
            wanted,
            noun=NOUN,
            max_tokens=wanted.max_output_tokens,
            stream=bool(wanted.stream),
        )
        stores = wanted.store is not False and self._store.stores
        envelope = Envelope(wanted, name, gateway.model, stores)
        making = _Making(wanted, understood, begun, envelope, self._store if stores else None, exchange)
        if wanted.stream:
            return event_stream(
                request,
                gateway,
                begun.generation,
                making.frames(self._running),
                keep_alive=making.keep_alive,
                error_frames=making.error_frames,
                noun=NOUN,
            )
        return await whole_answer(request, making.whole(), NOUN)

    async def retrieve(self, request: Request) -> Response:
        """A stored response, or one that is being streamed, as it stands."""
        id: str = request.path_params["id"]
        if request.query_params.get("stream", "false").lower() == "true":
            raise bad_request("A stored response cannot be streamed again.", "stream", "unsupported_value")
        making = self._running.get(id)
        return _json(making.answer.response() if making is not None else (await self._stored(id)).response)

    async def delete(self, request: Request) -> Response:
        """Forget a response."""
        id: str = request.path_params["id"]
        if not await self._store.delete(id):
            raise not_found(id)
        return _json({"id": id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """End a stream that somebody else reads; a response that has ended stays as it is."""
        id: str = request.path_params["id"]
        making = self._running.get(id)
        if making is None:
            return _json((await self._stored(id)).response)
        return _json(await making.cancel())

    async def input_items(self, request: Request) -> Response:
        """What a response was made from, a page at a time; the newest first unless asked otherwise."""
        id: str = request.path_params["id"]
        making = self._running.get(id)
        items = list(making.items if making is not None else (await self._stored(id)).items)
        query = request.query_params
        order, after = query.get("order", "desc"), query.get("after")
        if order not in ("asc", "desc"):
            raise bad_request("`order` must be `asc` or `desc`.", "order", "invalid_value")
        if order == "desc":
            items.reverse()
        if after is not None:
            place = next((index for index, item in enumerate(items) if item.get("id") == after), None)
            if place is None:
                raise bad_request(f"There is no item '{after[:80]}' to list from.", "after", "invalid_value")
            items = items[place + 1 :]
        limit = _limit(query.get("limit", "20"))
        page = items[:limit]
        return _json(
            {
                "object": "list",
                "data": page,
                "first_id": page[0].get("id") if page else None,
                "last_id": page[-1].get("id") if page else None,
                "has_more": len(items) > limit,
            }
        )

    async def input_tokens(self, request: Request) -> Response:
        """How many tokens a request's prompt has."""
        gateway = self._gateway
        wanted = await read(request, gateway, _count)
        gateway.catalogue.resolve(wanted.model)
        understood = await understand(wanted, self._store)
        exchange_of(request).warn(understood.warnings)
        prompt = await render(request, gateway, understood.conversation, NOUN)
        return _json({"object": "response.input_tokens", "input_tokens": len(prompt.tokens)})

    async def _stored(self, id: str) -> Stored:
        stored = await self._store.get(id)
        if stored is None:
            raise not_found(id)
        return stored


class _Making:
    """One response on its way: its answer, its generation and its place in the store."""

    def __init__(
        self,
        wanted: CreateRequest,
        understood: Understood,
        begun: Begun,
        envelope: Envelope,
        store: ResponseStore | None,
        exchange: Exchange,
    ) -> None:
        self._prompt = begun.prompt
        self._generation = begun.generation
        self._envelope = envelope
        self._events: list[Event] = []  # if they are checked at the end
        self._unenforced: Json = {}
        self._store = store
        self._exchange = exchange
        self._last_words: bytes | None = None  # frames that somebody else than the generation ended the stream with
        self._on_disk = asyncio.Lock()
        options = wanted.reasoning
        stem = stem_of(begun.generation.requests[0].id)
        self.items = [*understood.history, *kept(understood.given, stem)]
        self.answer = Answer(
            stem,
            understood.box,
            self._response,
            summarised=options is not None and (options.summary or options.generate_summary) not in (None, "none"),
            sealed=_SEALED in (wanted.include or ()),
        )

    def _response(self, answer: Answer) -> Json:
        return self._envelope.around(answer, self._generation.usage()) | self._unenforced

    async def whole(self) -> bytes:
        """The complete response as JSON."""
        with self._generation as generation:
            [whole] = await generation.collect()
        self._unenforced = dict(await unenforced(self._prompt, [whole.events]))
        self.answer.feed(whole.events)
        self.answer.end(whole.finish)
        self._exchange.finish = whole.finish
        await self._keep()
        return _encode(self.answer.response())

    async def frames(self, running: dict[str, _Making]) -> AsyncGenerator[bytes, None]:
        """The events as they come; b"" after a bare wake-up. Listed in `running` meanwhile if it is to be stored."""
        answer, id = self.answer, response_id(self.answer.stem)
        if self._store is not None:
            running[id] = self
        try:
            with self._generation as generation:
                yield _frames(answer.begin())
                while not generation.done and not answer.ended:
                    out: list[Json] = []
                    finish = None
                    for piece in await generation.next():
                        if answer.ended:  # cancelled while this was on its way
                            break
                        out += answer.feed(piece.events)
                        if self._prompt.checks:
                            self._events += piece.events
                        finish = piece.finish or finish
                    if finish is not None:
                        self._unenforced = dict(await unenforced(self._prompt, [self._events]))
                    if finish is not None and not answer.ended:
                        out += answer.end(finish)
                        self._exchange.finish = finish
                        await self._keep()  # before the client is told: it may go on from this response at once
                    if out or not answer.ended:  # a bare wake-up may bring a keep-alive, and the end must come last
                        yield _frames(out)
            if self._last_words is not None:
                yield self._last_words
        except Exception as error:
            if not answer.ended:
                self._last_words = _frames(answer.fail(translate(error, NOUN) or internal_error()))
                await self._keep()
            raise
        finally:
            if not answer.ended:  # the client left
                answer.end("cancelled")
                await self._keep()
            running.pop(id, None)

    async def cancel(self) -> Json:
        """End the stream from outside and return the response."""
        if not self.answer.ended:
            self._last_words = _frames(self.answer.end("cancelled"))
            self._exchange.finish = "cancelled"
            self._generation.wake()
            await self._keep()
        return self.answer.response()

    def keep_alive(self) -> bytes:
        """A frame for a silent stream."""
        return _frames([self.answer.keep_alive()])

    def error_frames(self, error: ApiError) -> bytes:
        """The frames that end a stream that failed."""
        return self._last_words or _frames(self.answer.fail(error))

    async def _keep(self) -> None:
        if self._store is not None:
            stored = Stored(self.answer.response(), self.items)
            async with self._on_disk:
                await self._store.put(response_id(self.answer.stem), stored)


def _frames(events: Iterable[Json]) -> bytes:
    return b"".join(b"event: " + event["type"].encode() + b"\ndata: " + _encode(event) + b"\n\n" for event in events)


def _json(value: object) -> Response:
    return Response(_encode(value), media_type="application/json")


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= _MAX_PAGE):
        raise bad_request(f"`limit` must be a whole number from 1 to {_MAX_PAGE}.", "limit", "invalid_value")
    return int(text)
