"""The route table and the layers around it. Knows which endpoint has which path, and nothing else."""

from __future__ import annotations

from starlette.routing import Route, Router
from starlette.types import ASGIApp

from tokenwell.api.anthropic.messages import Messages
from tokenwell.api.auth import KeyCheck
from tokenwell.api.exchange import Front
from tokenwell.api.openai.chat import ChatCompletions
from tokenwell.api.openai.completions import Completions
from tokenwell.api.openai.models import Models
from tokenwell.api.openai.tokenize import Tokens
from tokenwell.api.responses.endpoint import Responses
from tokenwell.api.responses.store import open_store
from tokenwell.api.status import Status
from tokenwell.service.gateway import Gateway


def build(gateway: Gateway, keys: list[str]) -> ASGIApp:
    """The ASGI application. `keys` empty: everybody who can reach it may speak."""
    models, tokens = Models(gateway), Tokens(gateway)
    messages = Messages(gateway)
    responses = Responses(gateway, open_store(gateway.settings.store))
    routes = [
        Route("/v1/chat/completions", ChatCompletions(gateway).create, methods=["POST"]),
        Route("/v1/completions", Completions(gateway).create, methods=["POST"]),
        Route("/v1/messages", messages.create, methods=["POST"]),
        Route("/v1/messages/count_tokens", messages.count_tokens, methods=["POST"]),
        Route("/v1/responses", responses.create, methods=["POST"]),
        Route("/v1/responses/input_tokens", responses.input_tokens, methods=["POST"]),
        Route("/v1/responses/{id}", responses.retrieve, methods=["GET"]),
        Route("/v1/responses/{id}", responses.delete, methods=["DELETE"]),
        Route("/v1/responses/{id}/cancel", responses.cancel, methods=["POST"]),
        Route("/v1/responses/{id}/input_items", responses.input_items),
        Route("/v1/models", models.list),
        Route("/v1/models/{name:path}", models.get),
        Route("/tokenize", tokens.tokenize, methods=["POST"]),
        Route("/detokenize", tokens.detokenize, methods=["POST"]),
    ]
    status = Status(gateway, [route.path for route in routes])
    routes += [
        Route("/health", status.health),
        Route("/version", status.version),
        Route("/metrics", status.metrics),
        Route("/plan", status.plan),
        Route("/", status.root),
    ]
    return Front(KeyCheck(Router(routes, redirect_slashes=False), keys), gateway.metrics, gateway.promise)
