"""Which values each setting may have: one literal table, and how text becomes such a value.

Knows nothing of files, variables and flags, nor of what the values are used for.
"""

from __future__ import annotations

import ipaddress
import os.path
import re
from dataclasses import dataclass
from typing import Protocol

AUTO = "auto"  # how None ("fitted to the machine") is written for numbers

_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})


class Allowed(Protocol):
    """A rule for one setting. `read` and `check` raise ValueError, with an explanation or without, on anything else."""

    @property
    def says(self) -> str:
        """The rule in words, to follow "must be"."""
        ...

    def read(self, text: str) -> object:
        """The value that a variable's or a flag's text stands for."""
        ...

    def check(self, value: object) -> object:
        """The value itself, as the settings tree wants it, when it is allowed."""
        ...


@dataclass(frozen=True)
class Whole:
    """An integer from `low` to `high`, both included; with `auto` also the word auto, which is None."""

    low: int
    high: int
    auto: bool = False

    @property
    def says(self) -> str:
        return f"a whole number from {self.low} to {self.high}" + (f', or "{AUTO}"' if self.auto else "")

    def read(self, text: str) -> int | None:
        if self.auto and text == AUTO:
            return None
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):  # int() would also take "1_0" and other digits than 0 to 9
            raise ValueError
        return self.check(int(text))

    def check(self, value: object) -> int | None:
        if self.auto and value == AUTO:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, both included; with `auto` also the word auto, which is None."""

    low: float
    high: float
    auto: bool = False

    @property
    def says(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}" + (f', or "{AUTO}"' if self.auto else "")

    def read(self, text: str) -> float | None:
        if self.auto and text == AUTO:
            return None
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):  # nor "nan", "inf" and "1_0"
            raise ValueError
        return self.check(float(text))

    def check(self, value: object) -> float | None:
        if self.auto and value == AUTO:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError
        return float(value)


@dataclass(frozen=True)
class Switch:
    """On or off."""

    says: str = "true or false (as text also 1, 0, yes, no)"

    def read(self, text: str) -> bool:
        word = text.lower()
        if word not in _TRUE | _FALSE:
            raise ValueError
        return word in _TRUE

    def check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value


@dataclass(frozen=True)
class Text:
    """Text that matches `pattern` as a whole."""

    pattern: str
    says: str

    def read(self, text: str) -> str:
        return self.check(text)

    def check(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise ValueError
        return value


@dataclass(frozen=True)
class Host:
    """An address or a host name to listen on, without scheme and port."""

    says: str = "an address or a host name without scheme and port, such as 127.0.0.1, ::1 or localhost"

    def read(self, text: str) -> str:
        return self.check(text)

    def check(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        if ":" in value:
            ipaddress.IPv6Address(value)  # its AddressValueError is a ValueError
        elif re.fullmatch(r"[0-9.]+", value):
            ipaddress.IPv4Address(value)
        elif not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?", value):
            raise ValueError
        return value


@dataclass(frozen=True)
class File:
    """A path; a leading ~ is the home folder. Whether it exists is for its reader to say."""

    says: str = "a path"

    def read(self, text: str) -> str:
        return self.check(text)

    def check(self, value: object) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError
        return os.path.expanduser(value)


@dataclass(frozen=True)
class Words:
    """A list of texts that each match `pattern` as a whole; written with commas where it is one text."""

    pattern: str
    each: str

    @property
    def says(self) -> str:
        return f'a list of texts, each {self.each}; in a file ["a", "b"], in a variable a,b'

    def read(self, text: str) -> list[str]:
        return self.check([item.strip() for item in text.split(",")])

    def check(self, value: object) -> list[str]:
        if not isinstance(value, list | tuple):
            raise ValueError
        if not all(isinstance(item, str) and re.fullmatch(self.pattern, item) for item in value):
            raise ValueError
        return list(dict.fromkeys(value))  # a key or a name given twice is one


def _one_of(*words: str) -> Text:
    return Text("|".join(map(re.escape, words)), "one of " + ", ".join(words))


_MOST = 2**31 - 1  # positions and token counts are 32-bit integers on the device

ALLOWED: dict[str, Allowed] = {
    "server.host": Host(),
    "server.port": Whole(0, 65535),  # 0: any free port
    "server.api_key": Words(r"[!-+\--~]+", "of visible ASCII characters without blanks and commas"),
    "server.max_body_mib": Whole(1, 4096),
    "server.max_queue": Whole(0, 1_000_000),
    "server.keep_alive_s": Number(0.05, 3600),
    "server.drain_s": Number(0, 86_400),
    "server.reasoning_field": _one_of("both", "reasoning_content", "reasoning"),
    "model.path": File(),
    "model.name": Words(r"[^\s,\x00-\x1f]+", "without blanks and commas"),
    "model.chat_template": File(),
    "model.chat_format": Text(r"[a-z][a-z0-9_]*", "the name of a chat format in small letters, or auto"),
    "model.keep_nonces": Words(r"[a-z-]+", "in small letters and hyphens"),
    "engine.device": Text(r"auto|cpu|(cuda|xpu)(:[0-9]{1,3})?", "auto, cpu, cuda, cuda:N, xpu or xpu:N"),
    "engine.dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "engine.quantization": _one_of("auto", "none", "fp8", "mxfp4"),
    "engine.kv_cache_dtype": _one_of("auto", "bf16", "fp8"),
    "engine.load_format": _one_of("auto", "dummy"),
    "engine.tp": Whole(1, 64, auto=True),
    "engine.replicas": Whole(1, 64, auto=True),
    "engine.goal": _one_of("agents", "latency", "throughput", "context"),
    "engine.strict": Switch(),
    "engine.max_model_len": Whole(1, _MOST, auto=True),
    "engine.max_num_seqs": Whole(1, 65_536, auto=True),
    "engine.max_num_batched_tokens": Whole(1, _MOST, auto=True),
    "engine.kv_cache_gib": Number(1e-9, 65_536, auto=True),
    "engine.gpu_memory_utilization": Number(0.01, 1.0, auto=True),
    "engine.ple_offload": _one_of("auto", "on", "off"),
    "engine.graphs": Switch(),
    "engine.page_tokens": Whole(1, 4096),
    "engine.prefix_cache": Switch(),
    "engine.threads": Whole(1, 4096, auto=True),
    "engine.heartbeat_timeout_s": Number(1.5, 3600),  # the engine beats once a second
    "engine.step_timeout_s": Number(0.5, 86_400),
    "scripted.tpot_ms": Number(0, 600_000),
    "scripted.ttft_ms": Number(0, 600_000),
    "scripted.die_after": Whole(0, _MOST, auto=True),
    "scripted.stall_after": Whole(0, _MOST, auto=True),
    "scripted.garbage_after": Whole(0, _MOST, auto=True),
    "scripted.fault_once": Switch(),
    "store.folder": File(),
    "store.max_mib": Whole(0, 1_048_576),
    "store.max_responses": Whole(1, 10_000_000),
    "log.level": _one_of("debug", "info", "warning", "error"),
    "log.json": Switch(),
}

SECRET = frozenset({"server.api_key"})  # never shown in full


def shown(key: str, value: object) -> object:
    """The value as it may be printed: of a secret at most the first four characters, and only of a long one."""
    if key not in SECRET:
        return value
    if isinstance(value, list | tuple):
        return [shown(key, item) for item in value]
    text = str(value)
    return f"{text[:4] if len(text) >= 16 else ''}... ({len(text)} characters)"
