"""The endpoint that a command talks to: the one that was named, else the service that these settings would start."""

from __future__ import annotations

from tokenwell.agent.endpoint import Endpoint, base_of
from tokenwell.cli.connect.command import own_url
from tokenwell.config.settings import ServerSettings


def endpoint_at(server: ServerSettings, url: str | None, key: str | None, model: str | None) -> Endpoint:
    """The endpoint, with a model chosen. Raises SettingsError for a bad address, EndpointError when nobody answers there."""
    own = base_of(own_url(server))
    base = own if url is None else base_of(url)
    if key is None:  # our own keys are told to nobody else
        key = next(iter(server.api_key), "") if base.replace("//localhost:", "//127.0.0.1:") == own else ""
    endpoint = Endpoint(base, key)
    endpoint.choose(model)
    return endpoint
