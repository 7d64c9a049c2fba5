"""Qwen2, Qwen2.5 and the R1 distillations of them (Qwen2ForCausalLM): Llama with biases on q, k and v."""

from __future__ import annotations

from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ModelFacts, Raw
from tokenwell.engine.models.decoder import Decoder, Style
from tokenwell.engine.models.llama import standard_facts


def read(raw: Raw) -> ModelFacts:
    """Facts from config.json."""
    return standard_facts(raw, "Qwen2ForCausalLM", windows(raw))


def build(build: Build, raw: Raw) -> Decoder:
    """Load the model."""
    return Decoder(build, Style(qkv_bias=True))


def windows(raw: Raw) -> list[int | None]:
    """Each layer's window: none unless `use_sliding_window`, then from layer `max_window_layers` on or as listed."""
    count = raw.size("num_hidden_layers")
    if not raw.get("use_sliding_window", default=False) or raw.get("sliding_window") is None:
        return [None] * count
    window = raw.size("sliding_window")
    full = raw.get("max_window_layers", default=28)
    types = raw.layer_types(count, ["full_attention" if index < full else "sliding_attention" for index in range(count)])
    return [window if kind == "sliding_attention" else None for kind in types]
