"""Rotary position embedding (Su et al. 2021), half-split pairs (i, i + dim/2), angles in float32.

Scaling rules: `llama3` as in Meta's Llama 3.1 model card, `yarn` as in Peng et al. 2023, `proportional` as in Gemma 4
(exponents over the whole head, only the first part of the angles is non-zero), `linear` as in Chen et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tokenwell.engine.kernels import cpu_elementwise
from tokenwell.wire.errors import CheckpointError


@dataclass(frozen=True)
class RopeSpec:
    """One kind of rotary embedding in a model."""

    kind: str
    theta: float
    head_dim: int
    rotated: float = 1.0  # share of head_dim that rotates
    scaling: tuple[tuple[str, Any], ...] = ()  # the checkpoint's own words, hashable

    def get(self, key: str, default: Any = None) -> Any:
        """A scaling parameter by the name that checkpoints use."""
        return dict(self.scaling).get(key, default)

    def need(self, key: str) -> float:
        """The same for one that the rule cannot do without."""
        value = self.get(key)
        if value is None:
            raise CheckpointError(f"config.json: rope type {self.kind!r} needs {key!r}, which is missing")
        return float(value)


def spec_of(rope: Mapping[str, Any], theta: float, head_dim: int, max_position: int) -> RopeSpec:
    """A spec from a checkpoint's rope dictionary (`rope_parameters` or `rope_scaling`, old or new keys)."""
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    # For text the three position streams of `mrope` are equal; `dynamic` scales beyond `max_position`, where no context gets.
    if kind in ("mrope", "dynamic"):
        kind = "default"
    if kind not in _RULES:
        raise CheckpointError(f"config.json: rope type {kind!r} is not supported; known are {', '.join(sorted(_RULES))}")
    scaling = {key: value for key, value in rope.items() if isinstance(value, int | float | bool)}
    old_window = scaling.setdefault("original_max_position_embeddings", max_position)
    if kind == "yarn":  # DeepSeek-style files leave the factor out
        scaling.setdefault("factor", max_position / old_window)
    return RopeSpec(
        kind=kind,
        theta=float(rope.get("rope_theta", theta)),
        head_dim=head_dim,
        rotated=float(rope.get("partial_rotary_factor", 1.0)),
        scaling=tuple(sorted(scaling.items())),
    )


class Rotary:
    """Rotates q and k. One object for each distinct spec of a model; `angles` once a step, `rotate` once a layer."""

    def __init__(self, spec: RopeSpec, device: torch.device, dtype: torch.dtype) -> None:
        self.spec = spec
        frequencies, self.factor = _RULES[spec.kind](spec)
        self.frequencies = frequencies.to(device)  # [rotated dim / 2], radians per position
        self.dim = 2 * frequencies.numel()
        self.turning = int(torch.count_nonzero(frequencies))  # pairs that turn at all; the others stand behind them
        self.dtype = dtype

    def angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and signed sin for `positions` [tokens]: two tensors [tokens, 1, dim], the first half of sin negated."""
        angle = positions.to(torch.float32)[:, None] * self.frequencies  # [tokens, dim / 2]
        cos, sin = angle.cos() * self.factor, angle.sin() * self.factor
        cos = torch.cat((cos, cos), dim=-1)[:, None, :]
        sin = torch.cat((-sin, sin), dim=-1)[:, None, :]
        return cos.to(self.dtype), sin.to(self.dtype)

    def turns(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of the pairs that turn, for `positions` [tokens] on an accelerator: two float32 [tokens, turning]."""
        from tokenwell.engine.kernels import front

        return front.angles(positions, self.frequencies[: self.turning], self.factor)

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[tokens, heads, head_dim] -> the same shape, the first `dim` channels rotated; x may be overwritten."""
        if cpu_elementwise.rope_reason_not(self.dim, x.dtype, x.device) is None:
            return cpu_elementwise.rope_(cpu_elementwise.prepare("rope"), x, cos, sin)
        if self.dim == x.shape[-1]:
            return torch.addcmul(x * cos, x.roll(self.dim // 2, -1), sin)
        turned, passed = x[..., : self.dim], x[..., self.dim :]
        turned = torch.addcmul(turned * cos, turned.roll(self.dim // 2, -1), sin)
        return torch.cat((turned, passed), dim=-1)


def _powers(theta: float, dim: int) -> torch.Tensor:
    """theta ** (-2i / dim) for i < dim / 2."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.int64).to(torch.float32) / dim)


def _default(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    return _powers(spec.theta, int(spec.head_dim * spec.rotated)), 1.0


def _linear(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    frequencies, factor = _default(spec)
    return frequencies / float(spec.get("factor", 1.0)), factor


def _proportional(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    angles = int(spec.rotated * spec.head_dim // 2)
    turning = _powers(spec.theta, spec.head_dim)[:angles] / float(spec.get("factor", 1.0))
    return torch.cat((turning, torch.zeros(spec.head_dim // 2 - angles))), 1.0


def _llama3(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    frequencies, factor = _default(spec)
    scale = spec.need("factor")
    low, high = spec.need("low_freq_factor"), spec.need("high_freq_factor")
    old = spec.need("original_max_position_embeddings")
    wavelength = 2 * math.pi / frequencies
    blend = (old / wavelength - low) / (high - low)
    between = (1 - blend) * frequencies / scale + blend * frequencies
    scaled = torch.where(wavelength > old / low, frequencies / scale, frequencies)
    middle = (wavelength >= old / high) & (wavelength <= old / low)
    return torch.where(middle, between, scaled), factor


def _yarn(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    dim = int(spec.head_dim * spec.rotated)
    scale = spec.need("factor")
    old = spec.need("original_max_position_embeddings")
    mscale, mscale_all = spec.get("mscale"), spec.get("mscale_all_dim")

    def attention(weight: float) -> float:
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    factor = spec.get("attention_factor")
    if factor is None:
        factor = attention(float(mscale)) / attention(float(mscale_all)) if mscale and mscale_all else attention(1.0)

    def index_of(rotations: float) -> float:
        """The (real-valued) channel pair that turns `rotations` times within the old window."""
        return dim * math.log(old / (rotations * 2 * math.pi)) / (2 * math.log(spec.theta))

    low, high = index_of(float(spec.get("beta_fast") or 32)), index_of(float(spec.get("beta_slow") or 1))
    if spec.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a ramp of zero width would divide by zero
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    frequencies = _powers(spec.theta, dim)
    return frequencies / scale * ramp + frequencies * (1 - ramp), float(factor)


_RULES: dict[str, Callable[[RopeSpec], tuple[torch.Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "proportional": _proportional,
    "llama3": _llama3,
    "yarn": _yarn,
}
