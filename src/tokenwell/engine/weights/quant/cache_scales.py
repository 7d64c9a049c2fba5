"""What the numbers of an 8-bit KV cache stand for, where a checkpoint says so: one scale a layer for keys and one for values.

Names as compressed-tensors and vLLM's llm-compressor write them: `self_attn.k_scale`, or beside the projection that makes them.
"""

from __future__ import annotations

import re

import torch

from tokenwell.engine.weights.source import Source

_NAME = re.compile(r".*layers\.(\d+)\.self_attn\.(?:attn\.|k_proj\.|v_proj\.)?([kv])_scale")


def read_cache_scales(source: Source) -> dict[int, tuple[float, float]]:
    """By layer, what stored keys and values are multiplied with; layers of which nothing is said are left out."""
    found: dict[int, dict[str, float]] = {}
    for name in list(source.checkpoint.names):
        if (match := _NAME.fullmatch(name)) is not None:
            scale = source.tensor(name, source.shape(name), dtype=torch.float32).flatten()
            found.setdefault(int(match[1]), {})[match[2]] = float(scale[0])
    return {layer: (scales.get("k", 1.0), scales.get("v", 1.0)) for layer, scales in found.items()}


def skip_cache_scales(source: Source) -> None:
    """Leave them out."""
    source.skip(_NAME.pattern, "scales of an 8-bit KV cache, which this one is not (--kv-cache-dtype fp8)")
