"""Asks the running service, then prints or writes a client's configuration."""

from __future__ import annotations

import ipaddress
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tokenwell.agent.endpoint import address
from tokenwell.cli.connect import aider, claude_code, codex, open_webui, openclaw, opencode
from tokenwell.cli.connect.json5 import NotReadable, plain_with_values, with_values
from tokenwell.cli.connect.lines import env_with_values, toml_with_values, yaml_with_values
from tokenwell.cli.connect.plan import Configuration, Plan, Service
from tokenwell.config.settings import ServerSettings
from tokenwell.wire.errors import SettingsError, TokenwellError

CLIENTS = {
    "openclaw": openclaw.plan,
    "claude-code": claude_code.plan,
    "codex": codex.plan,
    "opencode": opencode.plan,
    "open-webui": open_webui.plan,
    "aider": aider.plan,
}
_EDITS = {
    "json": plain_with_values,
    "json5": with_values,
    "toml": toml_with_values,
    "yaml": yaml_with_values,
    "env": env_with_values,
}
_PATIENCE_S = 10.0


class ConnectError(TokenwellError):
    """The service or the client's file is not as it has to be; says what to do."""


def connect(
    client: str, server: ServerSettings, *, url: str | None, key: str | None, model: str | None, write: bool, home: Path
) -> None:
    """Print the configuration of `client`, or write it below `home`. The configuration goes to stdout, words to stderr.

    Without `url` and `key`: what `server` says. Raises SettingsError for bad arguments, ConnectError for everything else.
    """
    if client not in CLIENTS:
        raise SettingsError(f"connect: {client!r} is not a client that is known; choose one of {', '.join(CLIENTS)}")
    base = checked_url(url) if url is not None else own_url(server)
    if key is None:  # our own keys are told to nobody else
        key = next(iter(server.api_key), "") if base == own_url(server) else ""
    service = ask(base, key, model)
    plan = CLIENTS[client](service)
    if write:
        write_plan(plan, home)
    else:
        print(printed(plan), end="")
    for note in _notes(client, plan, service):
        print(note, file=sys.stderr)


def own_url(server: ServerSettings) -> str:
    """Where a service with these settings is reached from this machine."""
    host = server.host
    try:
        if ipaddress.ip_address(host).is_unspecified:
            host = "127.0.0.1" if ipaddress.ip_address(host).version == 4 else "::1"
    except ValueError:
        pass  # a name
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}"


def checked_url(url: str) -> str:
    """The service's address without the path of an API. Raises SettingsError."""
    return address(url, "--url: ").removesuffix("/v1").rstrip("/")


def ask(url: str, key: str, model: str | None) -> Service:
    """What the service at `url` says of itself. Raises ConnectError when it is not there, not ready, or not Tokenwell."""
    import httpx2  # here, because it takes longer to import than the rest of the command line

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        # Not through a proxy: the service is on this machine or in this house.
        with httpx2.Client(timeout=_PATIENCE_S, trust_env=False) as http:
            answer = http.get(f"{url}/v1/models", headers=headers)
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
        raise ConnectError(
            f"no service answers at {url} ({error or type(error).__name__}). Start one with `tokenwell serve MODEL`, "
            "or say where it is with --url."
        ) from error
    if answer.status_code in (401, 403):
        raise ConnectError(f"the service at {url} wants another API key; give one that it accepts with --api-key")
    card = _card(answer.content if answer.status_code == 200 else b"", url, model)
    window = card.get("max_model_len")
    if not isinstance(window, int):
        raise ConnectError(f"the service at {url} does not know its context window yet: wait until its model is loaded")
    abilities = card.get("capabilities")
    reasons = isinstance(abilities, dict) and abilities.get("reasoning") is True
    return Service(url, str(card["id"]), window, key, reasons)


def _card(body: bytes, url: str, model: str | None) -> dict[str, Any]:
    try:
        cards: dict[str, dict[str, Any]] = {str(card["id"]): card for card in json.loads(body)["data"]}
    except (ValueError, KeyError, TypeError):
        cards = {}
    if not cards:
        raise ConnectError(f"what answers at {url} is not a model service (GET /v1/models says nothing useful); check --url")
    if model is None:
        return next(iter(cards.values()))
    if model not in cards:
        raise ConnectError(f"the service at {url} has no model {model!r}; it serves {', '.join(cards)}")
    return cards[model]


def printed(plan: Plan) -> str:
    """The files as they would be where there are none; several are told apart by a line with the name."""
    texts = [_EDITS[file.format]("", file.values) for file in plan.files]
    if len(texts) == 1:
        return texts[0]
    return "\n".join(f"# ~/{file.places[0]}\n{text}" for file, text in zip(plan.files, texts, strict=True))


def write_plan(plan: Plan, home: Path) -> None:
    """Write every file, or none when one cannot be changed. What a file held before stays beside it."""
    changes = [(path, *_changed(path, file)) for file in plan.files for path in [_place(file, home)]]
    for path, old, new in changes:
        if old == new:
            print(f"{path}: already so")
            continue
        try:
            backup = _replaced(path, new)
        except OSError as error:
            raise ConnectError(f"{path} cannot be written: {error.strerror}") from error
        print(f"{path}: written" + (f"; what it was is kept in {backup.name}" if backup else ""))


def _place(file: Configuration, home: Path) -> Path:
    places = [home / place for place in file.places]
    return next((place for place in places if place.exists()), places[0])


def _changed(path: Path, file: Configuration) -> tuple[str, str]:
    try:
        old = path.read_bytes().decode() if path.exists() else ""
        return old, _EDITS[file.format](old, file.values)
    except (NotReadable, UnicodeDecodeError) as error:
        raise ConnectError(
            f"{path} cannot be changed safely: {error}. Mend it, or run the command without --write and merge what it prints."
        ) from error
    except OSError as error:
        raise ConnectError(f"{path} cannot be read: {error.strerror}") from error


def _replaced(path: Path, text: str) -> Path | None:
    """Put `text` there in one step; returns the copy of what was there. New files are for their owner only: keys are in them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()  # a link into somebody's dotfiles stays a link
    backup = None
    if target.exists():
        stem = f"{target.name}.bak-{time.strftime('%Y%m%d-%H%M%S')}"
        backup = target.with_name(stem)
        number = 1
        while backup.exists():
            number += 1
            backup = target.with_name(f"{stem}-{number}")
        shutil.copy2(target, backup)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=target.parent, delete=False) as draft:
        draft.write(text)
    if backup is not None:
        shutil.copymode(backup, draft.name)
    Path(draft.name).replace(target)
    return backup


def _notes(client: str, plan: Plan, service: Service) -> list[str]:
    told = ", ".join(f"~/{file.places[0]}" for file in plan.files)
    notes = [
        f"{client}: {service.model} at {service.url}, window {service.window_tokens} tokens, "
        f"answers up to {service.output_tokens} ({told})"
    ]
    if service.window_tokens < plan.least_window_tokens:
        notes.append(
            f"warning: {client} needs a window of about {plan.least_window_tokens} tokens at least; this service has "
            f"{service.window_tokens}. Serve with a larger --max-model-len, or a model that has one."
        )
    return notes + list(plan.notes)
