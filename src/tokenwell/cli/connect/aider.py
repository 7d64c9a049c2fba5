"""aider: ~/.aider.conf.yml for the connection, ~/.aider.model.metadata.json for the window."""

from __future__ import annotations

from tokenwell.cli.connect.plan import Configuration, Plan, Service


def plan(service: Service) -> Plan:
    """The prefix openai/ chooses the protocol; metadata must carry the same name."""
    name = f"openai/{service.model}"
    connection: dict[tuple[str, ...], object] = {
        ("openai-api-base",): service.openai_url,
        ("openai-api-key",): service.any_key,
        ("model",): name,
        ("weak-model",): name,
    }
    metadata: dict[tuple[str, ...], object] = {
        (name, "max_tokens"): service.output_tokens,
        (name, "max_input_tokens"): service.window_tokens,
        (name, "max_output_tokens"): service.output_tokens,
        (name, "input_cost_per_token"): 0,
        (name, "output_cost_per_token"): 0,
        (name, "litellm_provider"): "openai",
        (name, "mode"): "chat",
    }
    return Plan(
        (
            Configuration((".aider.conf.yml",), "yaml", connection),
            Configuration((".aider.model.metadata.json",), "json5", metadata),
        )
    )
