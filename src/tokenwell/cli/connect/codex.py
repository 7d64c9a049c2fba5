"""Codex CLI: ~/.codex/config.toml, a model provider that speaks Responses."""

from __future__ import annotations

from tokenwell.cli.connect.plan import PROVIDER, Configuration, Plan, Service


def plan(service: Service) -> Plan:
    """Codex has no output limit of its own: the limit for compaction keeps that much of the window free."""
    provider = ("model_providers", PROVIDER)
    values: dict[tuple[str, ...], object] = {
        ("model",): service.model,
        ("model_provider",): PROVIDER,
        ("model_context_window",): service.window_tokens,
        ("model_auto_compact_token_limit",): service.compact_tokens,
        (*provider, "name"): "Tokenwell",
        (*provider, "base_url"): service.openai_url,
        (*provider, "wire_api"): "responses",
        (*provider, "requires_openai_auth"): False,
        (*provider, "stream_idle_timeout_ms"): 600_000,
    }
    if service.key:
        values[(*provider, "experimental_bearer_token")] = service.key
    notes = ("Codex warns that it has no metadata for the model: it knows only its own. It takes the window from this file.",)
    return Plan((Configuration((".codex/config.toml",), "toml", values),), notes, least_window_tokens=16_000)
