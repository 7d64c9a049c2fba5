"""Errors in Anthropic's shape. Knows which requests expect it, and which of Anthropic's types a status has."""

from __future__ import annotations

import msgspec
from starlette.types import Scope

from tokenwell.api.errors import ApiError
from tokenwell.service.window import OVERFLOW_CODE, overflow_figures

_ROOT = "/v1/messages"
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",  # clients try again on this one; the engine is being started anew or the service leaves
    504: "timeout_error",
    529: "overloaded_error",
}


def expects_this(scope: Scope) -> bool:
    """Whether a request is an Anthropic client's: by its path, or by the header that all of them send."""
    path: str = scope["path"]
    if path == _ROOT or path.startswith(_ROOT + "/"):
        return True
    return any(name == b"anthropic-version" for name, _ in scope["headers"])


def error_body(error: ApiError, request_id: str) -> bytes:
    """`{"type": "error", "error": {type, message}, "request_id"}` as JSON."""
    kind = _KINDS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    body = {"type": "error", "error": {"type": kind, "message": _message(error)}, "request_id": request_id}
    return msgspec.json.encode(body)


def _message(error: ApiError) -> str:
    """The message; for a prompt that is too long in the words by which clients know that they must compact it."""
    figures = overflow_figures(error.message) if error.code == OVERFLOW_CODE else None
    if figures is None:
        return error.message
    prompt_tokens, window_tokens = figures
    return f"prompt is too long: {prompt_tokens} tokens > {window_tokens} maximum"
