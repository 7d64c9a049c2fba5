"""A model's facts, normalised once from config.json. Hub files and files written by transformers use different keys for
the same thing, nested or not; architecture files read them through `Raw`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenwell.engine.layers.rotary import RopeSpec, spec_of
from tokenwell.wire.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One decoder layer."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None  # None: full attention
    rope: RopeSpec
    scale: float  # of the attention scores
    width: int  # of the dense feed-forward block; 0 without one
    experts: bool = False  # whether the layer has a mixture of experts
    owner: int | None = None  # the layer whose K and V this one reads; None: its own
    k_eq_v: bool = False  # V is the key projection, before norm and rotation


@dataclass(frozen=True, slots=True)
class ExpertFacts:
    """The mixture of experts of a model's layers."""

    count: int
    chosen: int
    width: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A decoder."""

    architecture: str
    vocabulary: int
    dim: int
    layers: tuple[LayerFacts, ...]
    norm_eps: float
    tied: bool
    window: int  # longest context that the model knows, in tokens
    activation: str
    dtype: str  # of the checkpoint, as config.json says it
    experts: ExpertFacts | None = None
    softcap: float | None = None  # of the logits
    sinks: bool = False  # of attention: one extra logit a head that only enlarges the denominator


class Raw:
    """config.json with errors that name the key."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values = values
        self.where = where

    def inner(self, key: str) -> Raw:
        """The nested config under `key`, or this one when there is none."""
        nested = self.values.get(key)
        return Raw(nested, f"{self.where}, {key}") if isinstance(nested, dict) else self

    def get(self, *keys: str, default: Any = None) -> Any:
        """The first of `keys` that is there and not null."""
        for key in keys:
            if self.values.get(key) is not None:
                return self.values[key]
        return default

    def size(self, *keys: str, default: int | None = None) -> int:
        """A positive whole number. Raises CheckpointError naming the key."""
        value = self.get(*keys, default=default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise CheckpointError(f"{self.where}: {' or '.join(keys)} must be a positive whole number, it is {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        """A number. Raises CheckpointError naming the key."""
        value = self.get(key, default=default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self.where}: {key} must be a number, it is {value!r}")
        return float(value)

    def heads(self) -> tuple[int, int, int]:
        """Attention heads, KV heads and head size; the latter two have the usual defaults."""
        heads = self.size("num_attention_heads")
        kv_heads = self.size("num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise CheckpointError(f"{self.where}: {heads} attention heads cannot share {kv_heads} key heads evenly")
        return heads, kv_heads, self.size("head_dim", default=self.size("hidden_size") // heads)

    def rope(self, head_dim: int, theta: float = 10_000.0) -> RopeSpec:
        """The rotary embedding, from `rope_parameters` (new files) or `rope_theta` and `rope_scaling` (old ones)."""
        rope = self.get("rope_parameters", "rope_scaling", default={})
        rope = {"partial_rotary_factor": self.get("partial_rotary_factor", default=1.0), **rope}
        window = self.size("max_position_embeddings", default=2048)
        return spec_of(rope, self.number("rope_theta", theta), head_dim, window)

    def layer_types(self, count: int, default: list[str]) -> list[str]:
        """Which layers are "full_attention" and which "sliding_attention"."""
        types = self.get("layer_types", default=default)
        if not isinstance(types, list) or len(types) != count:
            raise CheckpointError(f"{self.where}: layer_types must list {count} layers")
        unknown = set(types) - {"full_attention", "sliding_attention"}
        if unknown:
            raise CheckpointError(f"{self.where}: layer types {sorted(unknown)} are not supported")
        return types

    def tied(self, default: bool) -> bool:
        """Whether the output head shares the embedding."""
        return bool(self.get("tie_word_embeddings", default=default))

    def dtype(self) -> str:
        """The dtype that the checkpoint says it was trained in."""
        return str(self.get("dtype", "torch_dtype", default="float32")).removeprefix("torch.")
