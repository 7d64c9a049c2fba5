"""Llama 2 and 3.x (LlamaForCausalLM), also the distillations that reuse it."""

from __future__ import annotations

from functools import partial

from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import LayerFacts, ModelFacts, Raw
from tokenwell.engine.models.decoder import Decoder, Style, dense


def read(raw: Raw) -> ModelFacts:
    """Facts from config.json."""
    return standard_facts(raw, "LlamaForCausalLM", [None] * raw.size("num_hidden_layers"))


def build(build: Build, raw: Raw) -> Decoder:
    """Load the model."""
    bias = bool(raw.get("attention_bias", default=False))
    mlp = partial(dense, bias=bool(raw.get("mlp_bias", default=False)))
    return Decoder(build, Style(qkv_bias=bias, o_bias=bias, feed_forward=mlp))


def standard_facts(raw: Raw, architecture: str, windows: list[int | None], *, eps: float = 1e-6) -> ModelFacts:
    """The facts of a decoder whose layers differ at most in their window (one entry a layer)."""
    heads, kv_heads, head_dim = raw.heads()
    rope = raw.rope(head_dim)
    width = raw.size("intermediate_size")
    layers = tuple(LayerFacts(heads, kv_heads, head_dim, window, rope, head_dim**-0.5, width) for window in windows)
    return ModelFacts(
        architecture=architecture, vocabulary=raw.size("vocab_size"), dim=raw.size("hidden_size"), layers=layers,
        norm_eps=raw.number("rms_norm_eps", eps), tied=raw.tied(False), window=raw.size("max_position_embeddings", default=2048),
        activation=str(raw.get("hidden_act", "hidden_activation", default="silu")), dtype=raw.dtype(),
    )  # fmt: skip
