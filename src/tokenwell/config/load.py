"""Fills the settings tree from its four sources and remembers where each value came from. The only reader of os.environ.

Later sources win: defaults, one TOML file, TOKENWELL_* variables, flags. A value replaces the earlier one, lists too.
The file is the one that was named, else ./tokenwell.toml, else tokenwell/tokenwell.toml in the user's configuration folder.
Knows no setting by name: types and defaults are in `settings`, the allowed values in `allowed`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

import msgspec

from tokenwell.config.allowed import ALLOWED, shown
from tokenwell.config.settings import Settings
from tokenwell.wire.errors import SettingsError

_Given = TypeVar("_Given")

PREFIX = "TOKENWELL_"
FILE_NAME = "tokenwell.toml"
DEFAULT = "default"

# The settings that have a flag, and the flag as it is written on the command line.
FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "model.path": "MODEL",
        "server.host": "--host",
        "server.port": "--port",
        "server.api_key": "--api-key",
        "model.name": "--served-model-name",
        "model.chat_template": "--chat-template",
        "model.chat_format": "--chat-format",
        "engine.device": "--device",
        "engine.dtype": "--dtype",
        "engine.quantization": "--quantization",
        "engine.kv_cache_dtype": "--kv-cache-dtype",
        "engine.load_format": "--load-format",
        "engine.tp": "--tp",
        "engine.replicas": "--replicas",
        "engine.goal": "--goal",
        "engine.strict": "--strict",
        "engine.max_model_len": "--max-model-len",
        "engine.max_num_seqs": "--max-num-seqs",
        "engine.max_num_batched_tokens": "--max-num-batched-tokens",
        "engine.kv_cache_gib": "--kv-cache-gib",
        "engine.gpu_memory_utilization": "--gpu-memory-utilization",
        "engine.ple_offload": "--ple-offload",
        "engine.graphs": "--no-graphs",
        "engine.page_tokens": "--page-tokens",
        "engine.prefix_cache": "--no-prefix-cache",
        "engine.threads": "--threads",
        "scripted.tpot_ms": "--tpot-ms",
        "scripted.ttft_ms": "--ttft-ms",
        "scripted.die_after": "--die-after",
        "scripted.stall_after": "--stall-after",
        "scripted.garbage_after": "--garbage-after",
        "scripted.fault_once": "--fault-once",
        "log.level": "--log-level",
    }
)

# Kubernetes puts variables named after every service into every container; a service called "tokenwell" or
# "tokenwell-server" makes these. They are not settings, and one of them even has a setting's name.
_KUBERNETES_NAME = re.compile(r"TOKENWELL(_\w+)?_(SERVICE_(HOST|PORT)|PORT_[0-9]+_(TCP|UDP|SCTP))(_\w+)?")
_KUBERNETES_URL = re.compile(r"(tcp|udp|sctp)://.*")


@dataclass(frozen=True)
class Loaded:
    """A settings tree and the origin of each of its values."""

    settings: Settings
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        """Where "section.field" was set: "default", "tokenwell.toml:12", "TOKENWELL_SERVER_PORT" or "--port".

        Raises SettingsError when there is no such setting.
        """
        if key not in self.origins:
            raise SettingsError(f"there is no setting {key}{_suggestion(key, self.origins)}")
        return self.origins[key]

    def __iter__(self) -> Iterator[tuple[str, object, str]]:
        """(key, value, origin) of every setting in the tree's order."""
        for key in self.origins:
            section, field = key.split(".")
            yield key, getattr(getattr(self.settings, section), field), self.origins[key]


def load(flags: Mapping[str, object], toml: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Settings from all sources.

    `flags` maps keys such as "server.port" to what was given on the command line (text, or a value of the setting's type).
    `toml` is the file to read; None searches for one. `environ` stands in for the process's environment.
    Raises SettingsError naming the setting, its value, where it was set and what is allowed.
    """
    environ = os.environ if environ is None else environ
    tree, origins = _defaults()
    for key, value, origin in (*_from_file(toml, environ), *_from_environ(environ), *_from_flags(flags)):
        section, field = key.split(".")
        tree[section][field] = value
        origins[key] = origin
    return Loaded(msgspec.convert(tree, Settings), MappingProxyType(origins))


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where files may be kept that can be made again: $XDG_CACHE_HOME/tokenwell or ~/.cache/tokenwell.

    Raises SettingsError when there is no home folder either. Source: XDG Base Directory Specification 0.8.
    """
    folder = _user_folder("XDG_CACHE_HOME", ".cache", os.environ if environ is None else environ)
    if folder is None:
        raise SettingsError("there is no folder for the cache: set HOME or XDG_CACHE_HOME to an absolute path")
    return folder


def state_folder(environ: Mapping[str, str] | None = None) -> Path | None:
    """Where files may be kept that should outlive a restart: $XDG_STATE_HOME/tokenwell or ~/.local/state/tokenwell.

    None when there is no home folder either. Source: XDG Base Directory Specification 0.8.
    """
    return _user_folder("XDG_STATE_HOME", ".local/state", os.environ if environ is None else environ)


def _defaults() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    tree = cast("dict[str, dict[str, Any]]", msgspec.to_builtins(Settings()))
    return tree, {f"{section}.{field}": DEFAULT for section, fields in tree.items() for field in fields}


def _allowed(key: str, given: object, origin: str) -> object:
    """The value that was given with its own type."""
    return _by_rule(key, given, origin, ALLOWED[key].check)


def _read(key: str, given: str, origin: str) -> object:
    """The value that text stands for."""
    return _by_rule(key, given, origin, ALLOWED[key].read)


def _by_rule(key: str, given: _Given, origin: str, rule: Callable[[_Given], object]) -> object:
    try:
        return rule(given)
    except ValueError:
        what = "empty" if given == "" else repr(shown(key, given))
        raise SettingsError(f"{key} is {what} (set by {origin}), but must be {ALLOWED[key].says}") from None


# ---------------------------------------------------------------- flags


def _from_flags(flags: Mapping[str, object]) -> Iterator[tuple[str, object, str]]:
    for key, given in flags.items():
        if key not in FLAGS:
            raise SettingsError(f"no flag sets {key}{_suggestion(key, FLAGS)}")
        value = _read(key, given, FLAGS[key]) if isinstance(given, str) else _allowed(key, given, FLAGS[key])
        yield key, value, FLAGS[key]


# ---------------------------------------------------------------- variables


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    names = {PREFIX + key.replace(".", "_").upper(): key for key in ALLOWED}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or _set_by_kubernetes(name, environ[name]):
            continue
        if name not in names:
            raise SettingsError(f"the variable {name} is no setting; unset it or mend its name{_suggestion(name, names)}")
        yield names[name], _read(names[name], environ[name], name), name


def _set_by_kubernetes(name: str, value: str) -> bool:
    return bool(_KUBERNETES_NAME.fullmatch(name)) or (name.endswith("_PORT") and bool(_KUBERNETES_URL.fullmatch(value)))


# ---------------------------------------------------------------- the file


def _from_file(named: Path | None, environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    path = named or _find_file(environ)
    if path is None:
        return
    text = _read_text(path)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    sections = {key.split(".")[0] for key in ALLOWED}
    for section, fields in content.items():
        where = _line_of(path, text, section)
        if section not in sections:
            what = "section" if isinstance(fields, dict) else "setting"
            raise SettingsError(f"{where}: there is no {what} {section}{_suggestion(section, [*sections, *ALLOWED])}")
        if not isinstance(fields, dict):
            raise SettingsError(f"{where}: {section} is a section: write [{section}] and its settings below it")
        for field, value in fields.items():
            key, where = f"{section}.{field}", _line_of(path, text, section, field)
            if key not in ALLOWED:
                raise SettingsError(f"{where}: there is no setting {key}{_suggestion(key, ALLOWED)}")
            yield key, _allowed(key, value, where), where


def _find_file(environ: Mapping[str, str]) -> Path | None:
    user_folder = _user_folder("XDG_CONFIG_HOME", ".config", environ)
    candidates = [Path(FILE_NAME)] + ([user_folder / FILE_NAME] if user_folder else [])
    return next((path for path in candidates if os.path.lexists(path)), None)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except FileNotFoundError:
        raise SettingsError(f"there is no settings file {path}: check the path, or leave --config out") from None
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not TOML: its byte {error.start} is not UTF-8") from None


def _line_of(path: Path, text: str, *names: str) -> str:
    """ "file:line" of what gives the dotted name its value: itself, or the nearest table around it (tomllib keeps no lines)."""
    first: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[([^\[\]]+)\]", line)
        if header:
            table = _dotted(header[1])
            first.setdefault(table, number)
        elif "=" in line:
            first.setdefault(table + _dotted(line.split("=", 1)[0]), number)
    for length in range(len(names), 0, -1):
        if names[:length] in first:
            return f"{path}:{first[names[:length]]}"
    return f"{path} ({'.'.join(names)})"


def _dotted(name: str) -> tuple[str, ...]:
    return tuple(part.strip(" \t\"'") for part in name.split("."))


# ---------------------------------------------------------------- both


def _user_folder(variable: str, below_home: str, environ: Mapping[str, str]) -> Path | None:
    """The user's folder for Tokenwell; None without a home. The specification says that relative paths are to be ignored."""
    base = Path(environ.get(variable, ""))
    if not base.is_absolute():
        try:
            base = Path(environ.get("HOME") or Path.home()) / below_home
        except RuntimeError:  # neither HOME nor an entry in the password file
            return None
    return base / "tokenwell"


def _suggestion(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, as the end of a message."""
    names = {candidate.lower(): candidate for candidate in known}
    fields = {candidate.rpartition(".")[2]: candidate for candidate in names}
    typed = name.lower()
    field = typed.rpartition(".")[2]
    if field in fields:  # the right setting in the wrong section, or in none
        return f"; did you mean {names[fields[field]]}?"
    if close := difflib.get_close_matches(typed, names, 1):
        return f"; did you mean {names[close[0]]}?"
    if close := difflib.get_close_matches(field, fields, 1):
        return f"; did you mean {names[fields[close[0]]]}?"
    return '; "tokenwell config show" lists what there is'


def preset_environment(name: str, value: str) -> None:
    """Set a variable that a library reads when it is imported, unless the user has set it."""
    os.environ.setdefault(name, value)


def process_environment(names: Iterable[str], prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """The variables of this process that have one of these names, or begin with one of these prefixes."""
    wanted = frozenset(names)
    return {name: value for name, value in os.environ.items() if name in wanted or (prefixes and name.startswith(prefixes))}
