"""The frozen order that starts an engine: `python -m tokenwell.engine --spec '<json>'` can be repeated by hand."""

from __future__ import annotations

import msgspec

from tokenwell.wire.errors import SettingsError


class EngineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything an engine process needs to know. None means: the engine fits it to the machine and says so."""

    checkpoint: str  # folder with config.json and safetensors
    commands: str  # ZMQ endpoint that the engine pulls ToEngine messages from
    events: str  # ZMQ endpoint that the engine pushes FromEngine messages to
    device: str = "auto"  # "auto" | "cpu" | "cuda" | "cuda:1" | "xpu"
    dtype: str = "auto"  # "auto" | "float32" | "bfloat16" | "float16"
    quantization: str = "auto"  # "auto" (as stored) | "none" | "fp8" | "mxfp4"
    kv_cache_dtype: str = "auto"  # "auto" (as computed in) | "bf16" | "fp8"
    load_format: str = "auto"  # "auto" | "dummy": random weights of the shapes that config.json tells
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_gib: float | None = None
    kv_plan_bytes: int | None = None  # what a plan gave the KV cache on each rank: taken if it is there, else cut and told
    gpu_memory_utilization: float | None = None  # share of a card's memory that may be used, weights included
    ple_offload: str = "auto"  # per-layer embedding tables in host memory: "auto" (if the card is too small) | "on" | "off"
    graphs: bool = True  # record decode steps once and replay them, on devices that can
    tp: int = 1  # cards that share every layer (tensor parallel)
    first_card: int = 0  # the first of the engine's cards, counted from `device`
    sharers: int = 1  # processes of this service that compute side by side: on the CPU they share its threads and memory
    page_tokens: int = 16  # tokens a page of the most expensive group holds
    prefix_cache: bool = True
    threads: int | None = None  # CPU threads for tensor work
    parent_pid: int | None = None  # the engine leaves when this process is gone
    log_level: str = "info"


def encode_spec(spec: EngineSpec) -> str:
    """The spec as one JSON line for a command line."""
    return msgspec.json.encode(spec).decode()


def decode_spec(text: str) -> EngineSpec:
    """Read what `encode_spec` wrote. Raises SettingsError naming the field that is wrong."""
    try:
        return msgspec.json.decode(text, type=EngineSpec)
    except msgspec.MsgspecError as error:
        raise SettingsError(f"--spec is not an engine spec: {error}") from error
