"""Which backend serves which layer: the first in order that has no reason against it."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from tokenwell.engine.attention.cpu import CpuAttention
from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.attention.sdpa import SdpaAttention
from tokenwell.engine.attention.spec import AttentionSpec, Backend
from tokenwell.engine.attention.trial import disagreement, try_out
from tokenwell.engine.attention.triton import TritonAttention
from tokenwell.wire.messages import Choice

_IN_ORDER: tuple[Backend, ...] = (CpuAttention(), TritonAttention(), SdpaAttention(), ReferenceAttention())


def try_first(specs: Iterable[AttentionSpec], device: torch.device) -> None:
    """Compare what layers like `specs` would get with the reference, side by side: kernels take long to compile."""
    if device.type == "cpu":
        return
    firsts = [(next(backend for backend in _IN_ORDER if backend.reason_not(spec, device) is None), spec) for spec in specs]
    try_out([(backend, spec) for backend, spec in firsts if backend.name != "reference"], device)


def choose_backend(spec: AttentionSpec, device: torch.device) -> tuple[Backend, Choice]:
    """The backend for layers like `spec` on `device`, and the reason in words. The reference serves everything."""
    against: list[str] = []
    kind = "full" if spec.window is None else f"sliding-{spec.window}"
    for backend in _IN_ORDER:
        reason = backend.reason_not(spec, device)
        if reason is None and device.type != "cpu" and backend.name != "reference":  # on CPUs tests have shown it
            reason = disagreement(backend, spec, device)
        if reason is None:
            why = "; ".join(against) or "first in order"
            return backend, Choice(f"attention of {kind} layers, head size {spec.head_dim}", backend.name, why)
        against.append(f"not {backend.name}: {reason}")
    raise AssertionError("the reference backend declines nothing")
