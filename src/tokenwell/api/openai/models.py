"""GET /v1/models: what is served, with the enforced context window under every name that clients look for.

One answer serves OpenAI's clients and Anthropic's: their fields do not collide.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
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
        names = self._gateway.catalogue.names
        return _json({"object": "list", "data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})

    async def get(self, request: Request) -> Response:
        """One name. Raises UnknownModel (404)."""
        return _json(self._card(self._gateway.catalogue.resolve(request.path_params["name"])))

    def _card(self, name: str) -> dict[str, Any]:
        window, model = self._gateway.window_tokens, self._gateway.model
        return {
            "id": name,
            "object": "model",
            "type": "model",
            "display_name": name,
            "created_at": datetime.fromtimestamp(self._created, UTC).isoformat().replace("+00:00", "Z"),
            "lifecycle": "active",
            "max_input_tokens": window,
            "created": self._created,
            "owned_by": "tokenwell",
            "root": self._gateway.settings.model.path,
            "parent": None,
            "max_model_len": window,
            "context_length": window,
            "context_window": window,
            "max_context_length": window,
            "capabilities": {"tools": model.reads_tools, "reasoning": model.may_reason},
            "meta": {"n_ctx": window, "n_vocab": self._gateway.vocab_size},
        }


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
