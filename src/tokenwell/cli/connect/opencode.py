"""opencode: ~/.config/opencode/opencode.json, a provider through @ai-sdk/openai-compatible."""

from __future__ import annotations

from tokenwell.cli.connect.plan import PROVIDER, Configuration, Plan, Service

_FOLDER = ".config/opencode"


def plan(service: Service) -> Plan:
    """Without `limit` opencode takes the window for unknown and never compacts."""
    provider = ("provider", PROVIDER)
    model = (*provider, "models", service.model)
    values: dict[tuple[str, ...], object] = {
        ("$schema",): "https://opencode.ai/config.json",
        (*provider, "npm"): "@ai-sdk/openai-compatible",
        (*provider, "name"): "Tokenwell",
        (*provider, "options", "baseURL"): service.openai_url,
        (*provider, "options", "apiKey"): service.any_key,
        (*model, "name"): service.model,
        (*model, "tool_call"): True,
        (*model, "reasoning"): service.reasons,
        (*model, "limit"): {"context": service.window_tokens, "output": service.output_tokens},
        ("model",): f"{PROVIDER}/{service.model}",
        ("small_model",): f"{PROVIDER}/{service.model}",  # titles; otherwise a model of another provider writes them
    }
    places = (f"{_FOLDER}/opencode.json", f"{_FOLDER}/opencode.jsonc", f"{_FOLDER}/config.json")
    return Plan((Configuration(places, "json5", values),), least_window_tokens=16_000)
