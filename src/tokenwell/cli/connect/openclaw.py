"""OpenClaw: ~/.openclaw/openclaw.json (JSON5), a provider of its own and the default model."""

from __future__ import annotations

from tokenwell.cli.connect.plan import PROVIDER, Configuration, Plan, Service


def plan(service: Service) -> Plan:
    """The chat API: it reuses more of the cache than Responses, which loses tool results at each new user turn."""
    provider = ("models", "providers", PROVIDER)
    model = {
        "id": service.model,
        "name": service.model,
        "reasoning": service.reasons,
        "input": ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": service.window_tokens,
        "maxTokens": service.output_tokens,
        # It sends usage options to local addresses only unless told that they are understood.
        "compat": {"supportsPromptCacheKey": True, "supportsUsageInStreaming": True},
    }
    values: dict[tuple[str, ...], object] = {
        (*provider, "baseUrl"): service.openai_url,
        (*provider, "apiKey"): service.any_key,
        (*provider, "api"): "openai-completions",
        (*provider, "timeoutSeconds"): 600,
        (*provider, "models"): [model],
        ("agents", "defaults", "model", "primary"): f"{PROVIDER}/{service.model}",
    }
    return Plan((Configuration((".openclaw/openclaw.json",), "json5", values),), least_window_tokens=16_000)
