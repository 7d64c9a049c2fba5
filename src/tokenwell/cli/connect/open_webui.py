"""Open WebUI: environment variables, in a file for `docker run --env-file` or a shell."""

from __future__ import annotations

from tokenwell.cli.connect.plan import Configuration, Plan, Service

_PLACE = ".config/open-webui/tokenwell.env"


def plan(service: Service) -> Plan:
    """The window needs no setting: Open WebUI sends what there is, and the service refuses what is too long."""
    values: dict[tuple[str, ...], object] = {
        ("ENABLE_OPENAI_API",): "True",
        ("OPENAI_API_BASE_URL",): service.openai_url,
        ("OPENAI_API_KEY",): service.any_key,
        ("DEFAULT_MODELS",): service.model,
    }
    notes = (
        f"Use it with: docker run --env-file ~/{_PLACE} …   or   set -a; . ~/{_PLACE}; open-webui serve",
        "From inside a container 127.0.0.1 is the container: use --url with the host's address, and serve on that address.",
        "Open WebUI keeps the connection of its first start in its database; change it later in Admin Settings > Connections.",
        f"The context window is {service.window_tokens} tokens; a good max_tokens for the model is {service.output_tokens}.",
    )
    return Plan((Configuration((_PLACE,), "env", values),), notes)
