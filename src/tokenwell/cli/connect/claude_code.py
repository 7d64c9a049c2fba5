"""Claude Code: the `env` object of ~/.claude/settings.json."""

from __future__ import annotations

from tokenwell.cli.connect.plan import Configuration, Plan, Service

_MODEL_VARIABLES = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",  # of versions before the three above
    "CLAUDE_CODE_SUBAGENT_MODEL",
)


def plan(service: Service) -> Plan:
    """It takes every unknown model for one of 200,000 tokens, so both window variables are needed."""
    environment = {
        "ANTHROPIC_BASE_URL": service.url,  # it adds /v1/messages itself
        "ANTHROPIC_AUTH_TOKEN": service.any_key,
        **dict.fromkeys(_MODEL_VARIABLES, service.model),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(service.output_tokens),
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(service.window_tokens),
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(service.window_tokens),
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",  # a line of the system prompt that changes with every request
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "API_TIMEOUT_MS": "3000000",
    }
    values: dict[tuple[str, ...], object] = {("env", name): text for name, text in environment.items()}
    notes = (
        "If ANTHROPIC_API_KEY is set in your shell, unset it: Claude Code would ask which key to use.",
        "Close and start Claude Code again; it reads settings.json when it starts.",
    )
    return Plan((Configuration((".claude/settings.json",), "json", values),), notes, least_window_tokens=32_000)
