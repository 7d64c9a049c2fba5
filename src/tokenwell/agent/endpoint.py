"""Asks any endpoint that speaks the OpenAI Chat API, and reads its answers while they are written.

Forgiving about what servers do differently: keep-alive chunks, two names for thinking, answers that are not streamed or do not
say why they end, calls without numbers or ids. Knows neither tools nor terminals.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal
from urllib.parse import urlsplit

from tokenwell.wire.errors import SettingsError, TokenwellError

Message = dict[str, Any]
Piece = tuple[Literal["thinking", "text", "call", "arguments"], str]

_CONNECT_S = 5.0
_SILENCE_S = 600.0  # a long prompt on a slow machine takes its time
_THINKING = ("reasoning_content", "reasoning")  # some send both, with the same text
_FASTEST_S = 1e-4  # of a token; what comes faster was held back and sent at once
_SAID = 500  # characters that are told of what an endpoint says of its failure


class EndpointError(TokenwellError):
    """The endpoint is not there, refuses, or breaks off; says what to do."""


@dataclass
class Call:
    """One call as the model wrote it; `arguments` should be JSON, but nobody has looked yet.

    mark: the id and the number that the endpoint gave it.
    """

    id: str
    name: str
    arguments: str = ""
    mark: tuple[str, object] = ("", None)


def address(url: str, where: str = "") -> str:
    """A URL with its scheme and without slashes at its end. Raises SettingsError, which begins with `where`, for what is none."""
    given = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        good = good and (parts.port is None or parts.port > 0) and not any(character.isspace() for character in given)
    except ValueError:
        good = False
    if not good:
        raise SettingsError(f"{where}{url!r} is not an address such as http://127.0.0.1:8000")
    return given.rstrip("/")


def base_of(url: str) -> str:
    """The address below which the API's paths are: one without a path gets /v1. Raises SettingsError for what is no address."""
    given = address(url)
    return given + ("" if urlsplit(given).path.strip("/") else "/v1")


class Endpoint:
    """One endpoint, its key and the model that is asked there; `base` is from `base_of`. Several threads may ask at once."""

    def __init__(self, base: str, key: str = "") -> None:
        """Raises SettingsError for a key that cannot be sent, and for a proxy of the environment that cannot be used."""
        import httpx2

        if not (key.isascii() and key.isprintable()):
            raise SettingsError("the API key has characters that cannot be sent")
        self.base = base
        self.model = ""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S)
        # One client for all requests: making one takes longer than a small model's first token.
        try:
            self._http = httpx2.Client(headers=headers, timeout=timeout, trust_env=not _is_near(base))
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise SettingsError(f"the proxy that the environment names cannot be used: {error}") from error

    def close(self) -> None:
        """Close the connections that are kept for the next request."""
        self._http.close()

    def models(self) -> list[str]:
        """The names of the models there, in the endpoint's order. Raises EndpointError when it lists none."""
        import httpx2

        try:
            answer = self._http.get(f"{self.base}/models", timeout=_CONNECT_S * 2)
            if answer.status_code != 200:
                raise EndpointError(_refusal(self.base, answer.status_code, answer.headers.get("location"), answer.content))
            names = [str(card["id"]) for card in json.loads(answer.content.decode("utf-8", "replace"))["data"]]
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            raise EndpointError(self._absent(error)) from error
        except (ValueError, KeyError, TypeError, RecursionError):
            names = []
        if not names:
            raise EndpointError(f"what answers at {self.base} lists no models; check the address, or name one with --model")
        return names

    def choose(self, model: str | None) -> None:
        """Ask `model` from now on, or the first that the endpoint lists. A name that is not listed is tried all the same."""
        self.model = model or self.models()[0]

    def ask(self, messages: list[Message], tools: Iterable[Message] = (), temperature: float | None = None) -> Reply:
        """The answer to a conversation, which begins when the reply is iterated."""
        request: dict[str, Any] = {"model": self.model, "messages": messages}
        request |= {"stream": True, "stream_options": {"include_usage": True}}
        if declared := list(tools):
            request["tools"] = declared
        if temperature is not None:
            request["temperature"] = temperature
        return Reply(self, request)

    def read(self, request: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        """The chunks of an answer, or the one object of an answer that is not streamed; None when it says that it is complete.

        Raises EndpointError.
        """
        import httpx2

        # Halves of characters, as from a name that is no UTF-8, cannot be sent.
        content = json.dumps(request, ensure_ascii=False).encode("utf-8", "replace")
        headers = {"content-type": "application/json"}
        try:
            with self._http.stream("POST", f"{self.base}/chat/completions", content=content, headers=headers) as answer:
                if answer.status_code != 200:
                    said = answer.read()
                    raise EndpointError(_refusal(self.base, answer.status_code, answer.headers.get("location"), said))
                for body in _bodies(answer.iter_bytes()):
                    yield None if body is None else _chunk(body, self.base)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.InvalidURL, UnicodeError) as error:
            raise EndpointError(self._absent(error)) from error
        except httpx2.HTTPError as error:
            raise EndpointError(f"the answer from {self.base} broke off ({error or type(error).__name__})") from error

    def _absent(self, error: Exception) -> str:
        return f"no service answers at {self.base} ({error or type(error).__name__}). Start one with: tokenwell serve"


class Reply:
    """One answer. Iterating gives its pieces as they come; then the whole is there.

    A "call" piece has a tool's name and begins a call, "arguments" pieces go on with the last one that began.
    """

    def __init__(self, endpoint: Endpoint, request: dict[str, Any]) -> None:
        self.text = ""
        self.thinking = ""
        self.calls: list[Call] = []
        self.finish: str | None = None  # "stop", "tool_calls", "length" ...; None while it is not complete
        self.prompt_tokens = 0  # 0: the endpoint did not say
        self.tokens = 0
        self.seconds = self.first_s = 0.0  # since it was asked: to the last piece, and to the first
        self._thinking_name = ""
        self._at = self._shown = 0  # the call whose pieces are being given, and how many of its characters were
        self._begun = False  # whether its name was
        self._source = (endpoint, request)

    def __iter__(self) -> Iterator[Piece]:
        """Raises EndpointError."""
        endpoint, request = self._source
        started = time.monotonic()
        for chunk in endpoint.read(request):
            if chunk is None:
                self.finish = self.finish or ("stop" if self.first_s else None)
                break
            try:
                pieces = list(self._taken(chunk))
            except (AttributeError, KeyError, TypeError) as error:
                raise EndpointError(_unknown(endpoint.base)) from error
            if pieces:
                self.seconds = time.monotonic() - started
                self.first_s = self.first_s or self.seconds
            yield from pieces
        yield from self._call_pieces(last=True)
        self.seconds = self.seconds or time.monotonic() - started
        if self.finish is None:
            raise EndpointError(f"the answer from {endpoint.base} ended in the middle")

    def message(self) -> Message:
        """The answer as a message of the conversation. Arguments that are no JSON object are left out: templates fail on them."""
        message: Message = {"role": "assistant", "content": self.text}
        if self._thinking_name:
            message[self._thinking_name] = self.thinking
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments if is_object(call.arguments) else "{}"},
                }
                for call in self.calls
            ]
        return message

    @property
    def tokens_per_s(self) -> float | None:
        """How fast tokens followed the first one; None when that is not known."""
        each = per_token_s(self.tokens, self.first_s, self.seconds)
        return None if each is None else 1 / each

    def _taken(self, chunk: dict[str, Any]) -> Iterator[Piece]:
        """Raises AttributeError, KeyError or TypeError for a chunk of another form."""
        if isinstance(usage := chunk.get("usage"), dict):
            self.prompt_tokens = _whole_number(usage.get("prompt_tokens")) or self.prompt_tokens
            self.tokens = _whole_number(usage.get("completion_tokens")) or self.tokens
        for choice in (chunk.get("choices") or [])[:1]:
            yield from self._pieces(choice.get("delta") or choice.get("message") or {})
            self.finish = choice.get("finish_reason") or self.finish

    def _pieces(self, delta: dict[str, Any]) -> Iterator[Piece]:
        for name in _THINKING:
            if piece := _text(delta.get(name)):
                self.thinking += piece
                self._thinking_name = self._thinking_name or name
                yield "thinking", piece
                break
        if piece := _text(delta.get("content")):
            self.text += piece
            yield "text", piece
        for part in delta.get("tool_calls") or []:
            self._add(part, part.get("function") or {})
            yield from self._call_pieces()

    def _add(self, part: dict[str, Any], function: dict[str, Any]) -> None:
        """Take a part of a call."""
        name, arguments = _text(function.get("name")), function.get("arguments")
        mark = id, _ = str(part.get("id") or ""), part.get("index")
        if not isinstance(arguments, str):
            arguments = "" if arguments is None else json.dumps(arguments, ensure_ascii=False)
        call = self._known(*mark)
        # Some endpoints give every call the same number, no id, or no number at all.
        if call and name and call.name and (name != call.name or (arguments.strip() and is_object(call.arguments))):
            call = None
        if call is None:
            used = {each.id for each in self.calls}
            call = Call(id if id and id not in used else f"call_{len(self.calls) + 1}", "", mark=mark)
            self.calls.append(call)
        call.name = call.name or name
        call.arguments += _text(arguments)

    def _known(self, id: str, number: object) -> Call | None:
        """The call that a part goes on with; None when it begins one."""
        for call in reversed(self.calls):
            if call.mark[0] == id if id else number is None or number == call.mark[1]:
                return call
        return None

    def _call_pieces(self, last: bool = False) -> Iterator[Piece]:
        """What is new of the calls, one call after the other, even where an endpoint writes several at once."""
        while self._at < len(self.calls):
            call = self.calls[self._at]
            if not self._begun and (call.name or call.arguments or last):
                self._begun = True
                yield "call", call.name
            if piece := call.arguments[self._shown :]:
                self._shown += len(piece)
                yield "arguments", piece
            if not last and (self._at == len(self.calls) - 1 or not is_object(call.arguments)):
                return
            self._at, self._shown, self._begun = self._at + 1, 0, False


def per_token_s(tokens: int, first_s: float, seconds: float) -> float | None:
    """Between two tokens of an answer; None where that is not known, as when it came all at once."""
    each = (seconds - first_s) / (tokens - 1) if tokens > 1 else 0.0
    return each if each >= _FASTEST_S else None


def is_object(arguments: str) -> bool:
    """Whether a call's arguments are a JSON object."""
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _text(piece: object) -> str:
    """A text, or the texts of a list of parts, without halves of characters, which nothing can show or send on."""
    if isinstance(piece, list):
        return "".join(_text(part.get("text")) for part in piece)
    return piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(piece, str) else ""


def _whole_number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _bodies(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    """The data of every event of a stream, or all of what is none; None when it is complete. Headers are often wrong."""
    begin = b""
    for block in blocks:
        begin += block
        if begin.strip():
            break
    if begin.lstrip()[:1] in (b"{", b"[", b"<"):
        yield b"".join((begin, *blocks))
        yield None
    else:
        yield from _events(chain((begin,), blocks, (b"\n",)))


def _events(blocks: Iterable[bytes]) -> Iterator[bytes | None]:
    """The data of server-sent events; None at [DONE]. Only \\n ends a line: JSON may have other line ends in its texts."""
    rest: list[bytes] = []
    for block in blocks:
        rest.append(block)
        if b"\n" not in block:
            continue  # to join what is there again and again would take long for a long line
        *lines, last = b"".join(rest).split(b"\n")
        rest = [last]
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    yield None
                    return
                yield data


def _chunk(body: bytes, base: str) -> dict[str, Any]:
    try:
        chunk = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        chunk = None
    if not isinstance(chunk, dict):
        raise EndpointError(_unknown(base))
    if chunk.get("error") or ("choices" not in chunk and _said(chunk)):
        raise EndpointError(f"the endpoint gave up: {_said(chunk)}")
    return chunk


def _unknown(base: str) -> str:
    return f"what answers at {base} does not speak the OpenAI Chat API; check the address"


def _refusal(base: str, status: int, location: str | None, body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    try:
        said = _said(json.loads(text))
    except (ValueError, RecursionError):
        said = "" if text.startswith("<") else _said(text)
    if status in (401, 403):
        words = f". It says: {said}" if said else ""
        return f"the service at {base} wants another API key; give one that it accepts with --api-key{words}"
    if location and 300 <= status < 400:
        there = location.removesuffix("/chat/completions").removesuffix("/models")
        return f"the service at {base} has moved to {there}; give that address"
    if status in (404, 405) and not said:
        said = "check the address"
    return f"the service at {base} refused with {status}{': ' if said else ''}{said}"


def _said(body: Any) -> str:
    """The message of an error in any of the usual forms, on one line."""
    error = body.get("error") or body.get("message") or body.get("detail") or "" if isinstance(body, dict) else body
    said = " ".join(str(error.get("message") or error if isinstance(error, dict) else error).split())
    return said if len(said) <= _SAID else f"{said[:_SAID]} ..."


def _is_near(base: str) -> bool:
    """Whether the address is of this machine or this house, to which no proxy leads."""
    host = urlsplit(base).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host
