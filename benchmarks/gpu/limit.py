"""What the hardware allows: bytes that a decode step must read, operations of a prefill, and the measured speed of memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tokenwell.engine.models import registry
from tokenwell.engine.models.config import ModelFacts, Raw
from tokenwell.engine.weights.dummy import DummyCheckpoint

_MXFP4_BYTES = 17 / 32  # 16 bytes of codes and one of scale for 32 values
_COPY_BYTES = 1 << 30


def facts_of(config: Path) -> tuple[ModelFacts, Raw]:
    """A model's facts from its config.json."""
    checkpoint = DummyCheckpoint.open(config)
    raw = Raw(checkpoint.config)
    return registry.find(checkpoint.config).read(raw), raw


def step_bytes(
    config: Path, quantization: str, kv_bytes: float, batch: int, context: int, different: int | None = None, shared: int = 0
) -> int:
    """Bytes that a step of `batch` rows of `context` tokens must read: weights once, of experts those expected, K and V.

    `different`: rows that are not all alike, by default all of them; equal rows choose the same experts. `shared`: tokens
    that all rows begin with. Values are two bytes, or one where the weights are fp8; experts of MXFP4 checkpoints stay packed.
    """
    facts, raw = facts_of(config)
    wide = 4 if facts.dtype == "float32" else 2
    narrow = 1 if quantization == "fp8" else wide
    packed = "mxfp4" in json.dumps(raw.values.get("quantization_config") or {})
    text = raw.inner("text_config")
    per_layer = text.get("hidden_size_per_layer_input", default=0) if facts.architecture.startswith("Gemma4") else 0
    total = wide * facts.vocabulary * facts.dim
    if per_layer:
        total += wide * facts.dim * per_layer * len(facts.layers) * 3  # the model's projection, the layers' gates and projections
    for layer in facts.layers:
        own = layer.owner is None
        heads = 2 * layer.heads + (own * layer.kv_heads * (1 if layer.k_eq_v else 2))
        total += round(narrow * facts.dim * layer.head_dim * heads)
        total += narrow * 3 * facts.dim * layer.width
        if layer.experts and facts.experts is not None:
            missed = (1 - facts.experts.chosen / facts.experts.count) ** (batch if different is None else different)
            expected = facts.experts.count * (1 - missed)
            expert = 3 * facts.dim * facts.experts.width * (_MXFP4_BYTES if packed else narrow)
            total += round(expected * expert) + wide * facts.dim * facts.experts.count
        seen = batch * (context - shared) + shared if layer.window is None else batch * min(context, layer.window)
        total += round(seen * layer.kv_heads * layer.head_dim * kv_bytes * (1 if layer.k_eq_v else 2))
    return total


def prefill_flops(config: Path, length: int, prompts: int) -> float:
    """Multiplications and additions of a prefill of `prompts` prompts of `length` tokens.

    The head serves the last token of each, and so do layers behind the last one that has keys of its own.
    """
    facts, _ = facts_of(config)
    total = 2.0 * facts.dim * facts.vocabulary
    for layer in facts.layers:
        own = layer.owner is None
        each = 2 * facts.dim * layer.head_dim * (2 * layer.heads + 2 * layer.kv_heads * own)
        each += 6 * facts.dim * layer.width
        if layer.experts and facts.experts is not None:
            each += 6 * facts.dim * facts.experts.width * facts.experts.chosen
        window = min(layer.window or length, length)
        pairs = window * (window + 1) / 2 + (length - window) * window if own else window
        total += each * (length if own else 1) + 4 * layer.heads * layer.head_dim * pairs
    return prompts * total


def memory_bytes_per_second(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes, or a large sum reads, whichever is faster; the best of ten."""
    size = _COPY_BYTES if device.type != "cpu" else _COPY_BYTES >> 5
    source = torch.zeros(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    moved: tuple[tuple[int, Callable[[], object]], ...] = ((2 * size, partial(target.copy_, source)), (size, source.sum))
    best = 0.0
    for _ in range(10):
        for count, work in moved:
            _wait(device)
            started = time.perf_counter()
            for _ in range(4):
                work()
            _wait(device)
            best = max(best, 4 * count / (time.perf_counter() - started))
    return best


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def kv_value_bytes(kv_cache_dtype: str, config: Path) -> int:
    """Bytes of one number in the KV cache."""
    facts, _ = facts_of(config)
    return 1 if kv_cache_dtype == "fp8" else 4 if facts.dtype == "float32" else 2
