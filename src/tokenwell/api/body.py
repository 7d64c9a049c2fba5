"""From body bytes to a typed request: size bound, tolerant JSON, errors that name the field. Knows no dialect."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from tokenwell.api.errors import ApiError, bad_request

T = TypeVar("T")

_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
# Escaped backslashes and proper surrogate pairs are matched first, so that what is left in group 1 is a lone surrogate.
_SURROGATE = re.compile(rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})")


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises ApiError 413 without reading on when it is larger than `limit_bytes`."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        pieces.append(piece)
    return b"".join(pieces)


def parse(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as a typed request, whatever its content type says. Raises ApiError 400 that names the field at fault."""
    if body.startswith(b"\xef\xbb\xbf"):
        body = body[3:]
    if not body.strip():
        raise bad_request("The request body is empty; a JSON object is expected.", code="invalid_json")
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Agents cut tool output in the middle of an emoji; half a surrogate pair is legal JSON but no text.
            mended, count = _without_lone_surrogates(body)
            if not count:
                raise
            return decoder.decode(mended)
    except msgspec.ValidationError as error:
        raise invalid_field(error) from error
    except UnicodeDecodeError as error:
        raise bad_request(
            f"The request body is not valid UTF-8 (byte 0x{error.object[error.start]:02x}).", code="invalid_json"
        ) from error
    except msgspec.DecodeError as error:
        raise bad_request(f"The request body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise bad_request("The request body is nested too deeply.", code="invalid_json") from error


def invalid_field(error: msgspec.ValidationError) -> ApiError:
    """A 400 from msgspec's message, with the field's path as `param`."""
    match = _PATH.match(str(error))
    assert match is not None  # the pattern matches every string
    path = (match["path"] or "").lstrip(".") or None
    where = f"`{path}`" if path else "the request body"
    return bad_request(f"Invalid value for {where}: {match['what']}.", path, "invalid_value")


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than {limit_bytes // 2**20} MiB (server.max_body_mib).",
        code="request_too_large",
        headers={"connection": "close"},  # the rest of the body is not read
    )


def _without_lone_surrogates(body: bytes) -> tuple[bytes, int]:
    """The JSON text with every lone surrogate escape replaced by U+FFFD, and how many there were."""
    count = 0

    def mend(match: re.Match[bytes]) -> bytes:
        nonlocal count
        if match[1] is None:
            return match[0]
        count += 1
        return b"\\ufffd"

    return _SURROGATE.sub(mend, body), count
