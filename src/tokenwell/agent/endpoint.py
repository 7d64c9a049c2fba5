"""Asks any endpoint that speaks the OpenAI Chat API, and reads its answers while they are written.

Forgiving about what servers do differently: keep-alive chunks, two names for thinking, answers that are not streamed, calls
without numbers or ids. Knows neither tools nor terminals.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from tokenwell.wire.errors import SettingsError, TokenwellError

Message = dict[str, Any]
Piece = tuple[Literal["thinking", "text", "call", "arguments"], str]

_CONNECT_S = 5.0
_SILENCE_S = 600.0  # a long prompt on a slow machine takes its time
_THINKING = ("reasoning_content", "reasoning")  # some send both, with the same text


class EndpointError(TokenwellError):
    """The endpoint is not there, refuses, or breaks off; says what to do."""


@dataclass
class Call:
    """One call as the model wrote it; `arguments` should be JSON, but nobody has looked yet."""

    id: str
    name: str
    arguments: str = ""


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
        """Raises SettingsError for a key that cannot be sent."""
        import httpx2

        if not (key.isascii() and key.isprintable()):
            raise SettingsError("the API key has characters that cannot be sent")
        self.base = base
        self.model = ""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S)
        # One client for all requests: making one takes longer than a small model's first token.
        self._http = httpx2.Client(headers=headers, timeout=timeout, trust_env=not _is_near(base))

    def close(self) -> None:
        """Close the connections that are kept for the next request."""
        self._http.close()

    def models(self) -> list[str]:
        """The names of the models there, in the endpoint's order. Raises EndpointError when it lists none."""
        import httpx2

        try:
            answer = self._http.get(f"{self.base}/models", timeout=_CONNECT_S * 2)
            if answer.status_code != 200:
                raise EndpointError(_refusal(self.base, answer.status_code, answer.content))
            names = [str(card["id"]) for card in json.loads(answer.content)["data"]]
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            raise EndpointError(self._absent(error)) from error
        except (ValueError, KeyError, TypeError):
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

    def read(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of an answer, or the one object of an answer that is not streamed. Raises EndpointError."""
        import httpx2

        try:
            with self._http.stream("POST", f"{self.base}/chat/completions", json=request) as answer:
                if answer.status_code != 200:
                    raise EndpointError(_refusal(self.base, answer.status_code, answer.read()))
                streamed = "json" not in answer.headers.get("content-type", "")
                bodies = _events(answer.iter_bytes()) if streamed else iter((answer.read(),))
                for body in bodies:
                    yield _chunk(body, self.base)
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
        self._numbers: list[object] = []  # of each call, as the endpoint counts them
        self._source = (endpoint, request)

    def __iter__(self) -> Iterator[Piece]:
        """Raises EndpointError."""
        endpoint, request = self._source
        started = time.monotonic()
        for chunk in endpoint.read(request):
            self._count(chunk.get("usage"))
            for choice in (chunk.get("choices") or [])[:1]:
                for piece in self._pieces(choice.get("delta") or choice.get("message") or {}):
                    self.seconds = time.monotonic() - started
                    self.first_s = self.first_s or self.seconds
                    yield piece
                self.finish = choice.get("finish_reason") or self.finish
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
        return (self.tokens - 1) / (self.seconds - self.first_s) if self.tokens > 1 and self.seconds > self.first_s else None

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.tokens = int(usage.get("completion_tokens") or 0)

    def _pieces(self, delta: dict[str, Any]) -> Iterator[Piece]:
        for name in _THINKING:
            if (piece := delta.get(name)) and isinstance(piece, str):
                self.thinking += piece
                self._thinking_name = self._thinking_name or name
                yield "thinking", piece
                break
        if (piece := delta.get("content")) and isinstance(piece, str):
            self.text += piece
            yield "text", piece
        for part in delta.get("tool_calls") or []:
            yield from self._call_pieces(part)

    def _call_pieces(self, part: dict[str, Any]) -> Iterator[Piece]:
        function = part.get("function") or {}
        call = self._known(part)
        if call is None:
            call = Call(part.get("id") or f"call_{len(self.calls) + 1}", function.get("name") or "")
            self.calls.append(call)
            self._numbers.append(part.get("index"))
            yield "call", call.name
        if piece := function.get("arguments"):
            piece = piece if isinstance(piece, str) else json.dumps(piece, ensure_ascii=False)
            call.arguments += piece
            yield "arguments", piece

    def _known(self, part: dict[str, Any]) -> Call | None:
        """The call that a part goes on with; None when it begins one. Some endpoints give every call the number 0."""
        number, id = part.get("index"), part.get("id")
        for known, call in zip(reversed(self._numbers), reversed(self.calls), strict=True):
            if id:
                if call.id == id:
                    return call
            elif number is None or number == known:
                return call
        return None


def is_object(arguments: str) -> bool:
    """Whether a call's arguments are a JSON object."""
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False


def _events(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The data of server-sent events until [DONE]. Only \\n ends a line: JSON may have other line ends in its texts."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield data


def _chunk(body: bytes, base: str) -> dict[str, Any]:
    try:
        chunk = json.loads(body)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise EndpointError(f"what answers at {base} does not speak the OpenAI Chat API; check the address")
    if chunk.get("error"):
        raise EndpointError(f"the endpoint gave up: {_said(chunk)}")
    return chunk


def _refusal(base: str, status: int, body: bytes) -> str:
    try:
        said = _said(json.loads(body))
    except ValueError:
        said = ""
    if status in (401, 403):
        return f"the service at {base} wants another API key; give one that it accepts with --api-key"
    return f"the service at {base} refused with {status}{': ' if said else ''}{said}"


def _said(body: Any) -> str:
    """The message of an error in any of the usual forms."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error or (body.get("message") or body.get("detail") or "" if isinstance(body, dict) else ""))


def _is_near(base: str) -> bool:
    """Whether the address is of this machine or this house, to which no proxy leads."""
    host = urlsplit(base).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host
