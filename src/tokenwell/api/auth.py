"""Who may speak: API keys. Loopback without configured keys is open; every other address needs one.

Knows nothing of users or limits.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets

from starlette.types import ASGIApp, Receive, Scope, Send

from tokenwell.api.errors import ApiError

# Probes of orchestrators and clients come without a key; these answers tell nothing worth one.
OPEN_PATHS = frozenset({"/", "/health"})


def is_loopback(host: str) -> bool:
    """True when only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def keys_for(host: str, configured: list[str]) -> tuple[list[str], str | None]:
    """The accepted keys (none: everybody may speak) and the one that was generated because none was configured."""
    if configured or is_loopback(host):
        return list(configured), None
    key = "tw-" + secrets.token_urlsafe(24)
    return [key], key


class KeyCheck:
    """ASGI layer: lets a request through when it carries one of `keys` as Bearer token or `x-api-key`."""

    def __init__(self, app: ASGIApp, keys: list[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or hand on."""
        if scope["type"] == "http" and self._digests and scope["path"] not in OPEN_PATHS and not self._allows(scope):
            raise ApiError(
                401,
                "A valid API key is required: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        await self._app(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                if scheme.lower() != b"bearer":
                    continue
            elif name == b"x-api-key":
                given = value
            else:
                continue
            if self._known(given.strip()):
                return True
        return False

    def _known(self, given: bytes) -> bool:
        """Compare with every key, in time that depends on none of them."""
        digest = _digest(given)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, not up to the first
        return any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
