"""Health, version, metrics and the front page: what probes and people ask, in no dialect."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

import tokenwell
from tokenwell.api.errors import ApiError
from tokenwell.service.gateway import Gateway
from tokenwell.service.keeper import Health
from tokenwell.telemetry.metrics import CONTENT_TYPE, EngineNumbers
from tokenwell.wire.messages import Stats


class Status:
    """The endpoints. `offered` is the front page's list of routes."""

    def __init__(self, gateway: Gateway, offered: list[str]) -> None:
        self._gateway = gateway
        self._offered = offered
        gateway.metrics.watch_engine(self._numbers, self._by_replica)
        if gateway.promise is not None:
            gateway.metrics.watch_plan(gateway.promise.compared)

    async def root(self, request: Request) -> Response:
        """The front page."""
        return _json({"service": "tokenwell", "version": tokenwell.__version__, "routes": self._offered})

    async def health(self, request: Request) -> Response:
        """200 only when a request would be computed now; else 503 with the state and the reason."""
        health = self._gateway.health()
        answer: dict[str, object] = {
            "status": health.state,
            "reason": health.reason,
            "model": self._gateway.catalogue.name,
            "heartbeat_age_s": health.heartbeat_age_s,
            "engine_restarts": health.restarts,
        }
        replicas = self._gateway.supervisor.replicas()
        if len(replicas) > 1:
            answer["replicas"] = [
                {
                    "name": one.name,
                    "status": one.health.state,
                    "reason": one.health.reason,
                    "device": one.device,
                    "heartbeat_age_s": one.health.heartbeat_age_s,
                    "engine_restarts": one.health.restarts,
                    "open_sequences": one.open_sequences,
                    "load_tokens": one.load_tokens,
                }
                for one in replicas
            ]
        return _json(answer, 200 if health.healthy else 503)

    async def version(self, request: Request) -> Response:
        """The version of this service."""
        return _json({"version": tokenwell.__version__})

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return Response(self._gateway.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def plan(self, request: Request) -> Response:
        """What was planned beside what was measured; 404 where nothing was."""
        promise = self._gateway.promise
        if promise is None:
            raise ApiError(404, "Nothing was planned for this engine.", code="no_plan")
        return _json(promise.told())

    def _numbers(self) -> EngineNumbers:
        supervisor = self._gateway.supervisor
        return _numbers(supervisor.stats(), supervisor.health(), supervisor.open_sequences)

    def _by_replica(self) -> dict[str, EngineNumbers]:
        """The same for each replica, by its name; empty where there is one engine."""
        replicas = self._gateway.supervisor.replicas()
        if len(replicas) == 1:
            return {}
        return {one.name: _numbers(one.stats, one.health, one.open_sequences) for one in replicas}


def _numbers(stats: Stats, health: Health, open_sequences: int) -> EngineNumbers:
    free = max(0, stats.pages_total - stats.pages_active - stats.pages_cached)
    return EngineNumbers(
        gauges={
            "requests_running": stats.running,
            "requests_waiting": max(stats.waiting, open_sequences - stats.running),
            "kv_usage_ratio": stats.pages_active / stats.pages_total if stats.pages_total else 0.0,
            "engine_up": float(health.healthy),
        },
        counters={
            "prompt_tokens": stats.prompt_tokens,
            "generation_tokens": stats.generated_tokens,
            "cached_prompt_tokens": stats.cached_tokens,
            "preemptions": stats.preemptions,
            "engine_steps": stats.steps,
            "engine_step_seconds": stats.step_seconds,
            "engine_model_seconds": stats.model_seconds,
            "engine_restarts": health.restarts,
        },
        kv_pages={"active": stats.pages_active, "cached": stats.pages_cached, "free": free},
    )


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
