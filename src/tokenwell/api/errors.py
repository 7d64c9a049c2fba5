"""Errors as clients see them: OpenAI's shape unless a dialect has its own, a stable code, never a traceback.

Knows how each kind of failure maps to a status.
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from tokenwell.chat.conversation import ChatError
from tokenwell.service.catalogue import UnknownModel
from tokenwell.service.job import RequestFailed
from tokenwell.service.window import OVERFLOW_CODE
from tokenwell.wire.errors import RequestError

# RequestError.code -> (HTTP status, OpenAI error type)
_STATUS: dict[str, tuple[int, str]] = {
    OVERFLOW_CODE: (400, "invalid_request_error"),
    "invalid_request": (400, "invalid_request_error"),
    "model_not_found": (404, "invalid_request_error"),
    "queue_full": (429, "server_overloaded"),
    "draining": (503, "server_error"),
    "engine_failed": (503, "server_error"),
    "cancelled": (503, "server_error"),
}


class ApiError(Exception):
    """An answer that is an error. `param` is the path of the field at fault, as in `messages[0].role`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> bytes:
        """`{"error": {message, type, param, code}}` as JSON."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def response(self, body: bytes | None = None) -> Response:
        """The whole HTTP answer; `body`: a dialect's own instead of OpenAI's."""
        return Response(self.body() if body is None else body, self.status, self.headers, media_type="application/json")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, message, param=param, code=code)


def from_failure(error: RequestError, retry_after_s: float | None = None, param: str | None = None) -> ApiError:
    """The answer for a failure that the service or the engine reported as data."""
    status, kind = _STATUS.get(error.code, (500, "server_error"))
    headers = {} if retry_after_s is None else {"retry-after": str(max(1, round(retry_after_s)))}
    return ApiError(status, error.message, kind=kind, param=param, code=error.code, headers=headers)


def translate(error: Exception, noun: str = "messages") -> ApiError | None:
    """The answer for an exception of a lower layer, or None when it is none that a client may be told about.

    `noun`: the request's field for what is put to the model, blamed when nothing smaller is at fault.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestFailed):
        overflow = error.error.code == OVERFLOW_CODE
        return from_failure(error.error, error.retry_after_s, noun if overflow else None)
    if isinstance(error, UnknownModel):
        return from_failure(error.error, param="model")
    if isinstance(error, ChatError):
        if error.param is not None:
            return bad_request(str(error), error.param, "invalid_value")
        return bad_request(f"The conversation cannot be rendered for this model: {error}", noun, "invalid_conversation")
    return None


def internal_error() -> ApiError:
    """What is told when something unexpected went wrong; the details are in the log only."""
    return ApiError(
        500, "Something went wrong inside the service. The log has the details.", kind="server_error", code="internal_error"
    )
