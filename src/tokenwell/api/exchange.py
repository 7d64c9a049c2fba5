"""One HTTP exchange from the outside: its id, its error answer, its log line and its metrics.

Knows no dialect's fields, only whose errors a client expects.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenwell.api.anthropic.errors import error_body, expects_this
from tokenwell.api.errors import ApiError, internal_error, translate
from tokenwell.service.generation import Generation
from tokenwell.service.promise import Promise
from tokenwell.telemetry.log import log_request
from tokenwell.telemetry.metrics import Metrics

CLIENT_GONE = 499  # for log and metrics only: nobody is there to read it
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_QUIET_ROUTES = frozenset({"/", "/health", "/metrics", "/plan", "/version"})

_WARNING = "x-tokenwell-warning"

_log = logging.getLogger("tokenwell.api")


class ClientGone(Exception):  # noqa: N818
    """The client left before its answer was complete."""


@dataclass(slots=True)
class Exchange:
    """What is known about one request for its log line. Endpoints fill in the generation's part."""

    id: str
    method: str
    started: float = field(default_factory=time.monotonic)
    route: str = "unknown"  # the route's pattern, never the raw path: labels must stay few
    status: int = 0
    finish: str | None = None
    generation: Generation | None = None
    headers: dict[str, str] = field(default_factory=dict)  # added to the answer's, if set before it starts

    def warn(self, warnings: Iterable[str]) -> None:
        """Tell the client, in a header, what was not done as it asked."""
        told = [self.headers[_WARNING]] if _WARNING in self.headers else []
        if told := [*told, *warnings]:
            self.headers[_WARNING] = "; ".join(told)


def exchange_of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    exchange: Exchange = request.scope["tokenwell.exchange"]
    return exchange


class Front:
    """The outermost ASGI layer: gives every answer an x-request-id and turns every exception into an answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, promise: Promise | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._promise = promise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request; other protocols are not spoken here."""
        if scope["type"] != "http":
            return
        exchange = Exchange(_request_id(scope), scope["method"])
        scope["tokenwell.exchange"] = exchange
        scope["app"] = self  # tells the router to raise for unknown routes and methods instead of answering in plain text
        anthropic = expects_this(scope)
        if anthropic:
            exchange.headers["request-id"] = exchange.id  # the name that Anthropic's clients look for
        header = (b"x-request-id", exchange.id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                if exchange.generation is not None and (verdict := exchange.generation.cache_verdict()):
                    exchange.headers["x-tokenwell-cache"] = verdict
                more = [(name.encode(), _header_value(value)) for name, value in exchange.headers.items()]
                message["headers"] = [*message.get("headers", ()), header, *more]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except (ClientGone, ClientDisconnect):
            exchange.status = CLIENT_GONE
        except Exception as error:
            answer = _answer(error, exchange)
            if not exchange.status:
                body = error_body(answer, exchange.id) if anthropic else None
                await answer.response(body)(scope, receive, send_with_id)
        finally:
            self._tell(exchange, scope)

    def _tell(self, exchange: Exchange, scope: Scope) -> None:
        """The log line and the numbers of a finished exchange."""
        route = scope.get("route")
        exchange.route = getattr(route, "path", "unknown")
        ended = time.monotonic()
        fields: dict[str, object] = {
            "id": exchange.id,
            "route": f"{exchange.method} {exchange.route}",
            "status": exchange.status or CLIENT_GONE,
        }
        generation = exchange.generation
        if generation is not None:
            usage = generation.usage()
            fields |= {"prompt": usage.prompt_tokens, "cached": usage.cached_tokens, "completion": usage.completion_tokens}
            if usage.cache_lost is not None:
                fields["cache"] = usage.cache_lost
            first, last = generation.first_token_at, generation.last_token_at
            if first is not None and last is not None:
                ttft_s = first - exchange.started
                steps = usage.completion_tokens / len(generation.requests) - 1
                tpot_s = (last - first) / steps if steps > 0 else None
                self._metrics.observe_generation(ttft_s=ttft_s, tpot_s=tpot_s, e2e_s=ended - exchange.started)
                if self._promise is not None:
                    self._promise.answered(
                        computed_tokens=usage.prompt_tokens - usage.cached_tokens,
                        context_tokens=usage.prompt_tokens + usage.completion_tokens // 2,
                        rows=generation.rows,
                        ttft_s=ttft_s if generation.alone else None,
                        tpot_s=tpot_s,
                    )
                fields["ttft_ms"] = round(1000 * ttft_s, 1)
                if tpot_s is not None:
                    fields["tpot_ms"] = round(1000 * tpot_s, 2)
        if exchange.finish is not None:
            fields["finish"] = exchange.finish
        fields["ms"] = round(1000 * (ended - exchange.started), 1)
        self._metrics.count_request(exchange.route, exchange.status or CLIENT_GONE)
        log_request(fields, quiet=exchange.route in _QUIET_ROUTES)


def log_unexpected(exchange: Exchange, error: Exception) -> None:
    """The traceback of what should not have happened; the client is told none of it."""
    _log.error("request %s failed", exchange.id, exc_info=error)


def _answer(error: Exception, exchange: Exchange) -> ApiError:
    known = translate(error)
    if known is not None:
        return known
    if isinstance(error, HTTPException):
        return _routing_error(error, exchange)
    log_unexpected(exchange, error)
    return internal_error()


def _routing_error(error: HTTPException, exchange: Exchange) -> ApiError:
    if error.status_code == 404:
        return ApiError(404, "There is no such route. GET / lists what this service offers.", code="unknown_route")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return ApiError(
            405,
            f"The method {exchange.method} is not allowed here; use {allowed}.",
            code="method_not_allowed",
            headers={"allow": allowed},
        )
    return ApiError(error.status_code, error.detail)


def _header_value(text: str) -> bytes:
    """`text` as a header can carry it: one line of visible ASCII, at most 1000 characters."""
    line = " ".join(text.encode("ascii", "backslashreplace").decode().split())
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", line)[:1000].encode()


def _request_id(scope: Scope) -> str:
    """The client's own x-request-id when it is one sane word, else a fresh one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            given: str = value.decode("ascii")
            return given
    return "req_" + secrets.token_hex(12)
