"""Plain weights of a loaded model into 4 bits, by rounding to the nearest: what an unquantised original can be compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tokenwell.engine.layers.linear import Linear, PlainWeight
from tokenwell.engine.layers.moe import Experts
from tokenwell.engine.layers.per_layer import PerLayerGate
from tokenwell.engine.layers.quantised import Int4Weight
from tokenwell.engine.layers.router import Router
from tokenwell.engine.weights import mxfp4
from tokenwell.engine.weights.experts import ExpertMatrix, empty_mxfp4
from tokenwell.engine.weights.quant.int4 import Int4Matrix, pack, span

_GROUP = 128  # columns of int4 that share a scale and a zero
_GRID = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of E2M1


def pack_linears(model: Any) -> None:
    """The layers' projections into int4; routers and small gates stay."""
    for linear in _within(model.layers, Linear, (Router, PerLayerGate)):
        if isinstance(linear.weight, PlainWeight):
            linear.weight = Int4Weight(to_int4(linear.weight.matrix))


def pack_experts(model: Any) -> None:
    """The layers' experts into MXFP4, where there are kernels for it."""
    for experts in _within(model.layers, Experts, ()):
        if experts.kind is not None:
            experts.gate_up, experts.down = to_mxfp4(experts.gate_up), to_mxfp4(experts.down)


def to_int4(matrix: torch.Tensor, group: int = _GROUP) -> Int4Matrix:
    """[out, in], each group of columns between its least and its largest number."""
    group = group if matrix.shape[1] % group == 0 else 0
    wide = matrix.float().unflatten(1, (-1, group or matrix.shape[1]))
    low, high = wide.amin(-1).clamp(max=0), wide.amax(-1).clamp(min=0)
    scales = ((high - low) / 15).clamp_min(1e-8).to(matrix.dtype)
    zeros = (-low / scales.float()).round().clamp(0, 15)
    codes = ((wide / scales.float()[..., None]).round() + zeros[..., None]).clamp(0, 15).flatten(1)
    return Int4Matrix(pack(codes, span(group, matrix.shape[1])), scales, zeros.to(torch.uint8), group)


def to_mxfp4(stack: ExpertMatrix) -> ExpertMatrix:
    """A stack in a float dtype, each block of 32 with the power of two that its largest number asks for (OCP MX v1.0, 6.3)."""
    packed = empty_mxfp4(stack.codes.device, stack.experts, stack.rows, stack.columns, stack.bias)
    assert packed.scales is not None
    grid = torch.tensor(_GRID, device=stack.codes.device)
    between = (grid[1:] + grid[:-1]) / 2
    for expert in range(stack.experts):
        blocks = stack.codes[expert].float().unflatten(1, (-1, mxfp4.BLOCK))
        largest = blocks.abs().amax(-1).clamp_min(2.0**-40)
        exponent = (largest.log2().floor() - 2 + 127).clamp(*mxfp4.PACKED_SCALES)
        scaled = blocks * torch.exp2(127 - exponent)[..., None]
        codes = torch.bucketize(scaled.abs(), between).to(torch.uint8) | (scaled < 0).to(torch.uint8) << 3
        pairs = codes.unflatten(-1, (-1, 2))
        packed.codes[expert] = mxfp4.words(pairs[..., 0] | pairs[..., 1] << 4)
        packed.scales[expert, :, : exponent.shape[1]] = exponent.to(torch.uint8)
    return packed


def _within(thing: Any, kind: type, not_in: tuple[type, ...], seen: set[int] | None = None) -> Iterator[Any]:
    """Everything of a kind inside lists of layers, once each."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, not_in):
        return
    seen.add(id(thing))
    if isinstance(thing, kind):
        yield thing
    elif isinstance(thing, list | tuple):
        for inner in thing:
            yield from _within(inner, kind, not_in, seen)
    elif type(thing).__module__.startswith("tokenwell.engine."):
        for inner in vars(thing).values() if hasattr(thing, "__dict__") else ():
            yield from _within(inner, kind, not_in, seen)
