"""GET /v1/models: what is served, with the enforced context window under every name that clients look for."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tokenwell.service.gateway import Gateway


class Models:
    """The endpoints. The window is null until an engine has been ready: a wrong number would be remembered by clients."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._created = int(time.time())

    async def list(self, request: Request) -> Response:
        """Every name."""
        data = [self._card(name) for name in self._gateway.catalogue.names]
        return _json({"object": "list", "data": data})

    async def get(self, request: Request) -> Response:
        """One name. Raises UnknownModel (404)."""
        return _json(self._card(self._gateway.catalogue.resolve(request.path_params["name"])))

    def _card(self, name: str) -> dict[str, Any]:
        window = self._gateway.window_tokens
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "tokenwell",
            "root": self._gateway.settings.model.path,
            "parent": None,
            "max_model_len": window,
            "context_length": window,
            "context_window": window,
            "max_context_length": window,
            "meta": {"n_ctx": window, "n_vocab": self._gateway.vocab_size},
        }


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
