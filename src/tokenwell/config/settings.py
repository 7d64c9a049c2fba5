"""The settings tree: one typed place for everything a person can set. `config.load` fills it and remembers each value's origin.

Sources, later ones win: defaults below, `tokenwell.toml`, `TOKENWELL_*` (e.g. TOKENWELL_SERVER_PORT), command line flags.
None means "fitted to the machine"; what was chosen is logged with its reason.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where and how clients reach the service."""

    host: str = "127.0.0.1"  # loopback needs no key; any other address requires one
    port: int = 8000
    api_key: list[str] = []  # accepted keys; empty on a non-loopback host: one is generated and printed
    max_body_mib: int = 64  # larger request bodies are answered with 413
    max_queue: int = 256  # requests that wait beyond this are answered with 429
    keep_alive_s: float = 5.0  # wall-clock interval of data keep-alives while nothing else is sent
    drain_s: float = 30.0  # how long SIGTERM lets running requests finish
    reasoning_field: Literal["both", "reasoning_content", "reasoning"] = "both"  # chat: under which name thoughts are sent


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is served and under which name."""

    path: str | None = None  # checkpoint folder; None: the bundled default
    name: list[str] = []  # names that clients may use; empty: the folder's name
    chat_template: str | None = None  # file with a Jinja template that replaces the checkpoint's
    chat_format: str = "auto"
    keep_nonces: list[str] = []  # rules of docs/agents.md that are not applied to system prompts and tools


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the engine may use. The fields of wire.spec.EngineSpec that a person can set."""

    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "auto"
    kv_cache_dtype: str = "auto"
    load_format: str = "auto"
    tp: int | None = None
    replicas: int | None = None
    goal: str = "agents"  # what the plan's layout is chosen for
    strict: bool = False  # refuse what would otherwise be cut down
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_gib: float | None = None
    gpu_memory_utilization: float | None = None
    ple_offload: str = "auto"
    graphs: bool = True
    page_tokens: int = 16
    prefix_cache: bool = True
    threads: int | None = None
    heartbeat_timeout_s: float = 5.0  # a silent engine is unhealthy after this, and replaced
    step_timeout_s: float = 300.0  # one step longer than this counts as a stall


class ScriptedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the scripted engine behaves: its pace, and faults that happen after so many tokens of an answer."""

    tpot_ms: float = 0.0  # between two tokens of an answer
    ttft_ms: float = 0.0  # from a request's arrival to its first token
    die_after: int | None = None  # the engine's process exits
    stall_after: int | None = None  # the engine hangs
    garbage_after: int | None = None  # the rest of the answer is random tokens
    fault_once: bool = False  # a fault happens once, not in every answer that is long enough


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where responses are kept that clients go on from by their id (`previous_response_id`); the oldest go first."""

    folder: str | None = None  # None: below the user's folder for state, ~/.local/state/tokenwell
    max_mib: int = 256  # 0: nothing is kept
    max_responses: int = 10_000


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is printed on stderr."""

    level: str = "info"
    json: bool = False


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole tree; the field names are the sections of tokenwell.toml."""

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    scripted: ScriptedSettings = ScriptedSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
