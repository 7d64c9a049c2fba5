"""Which backend serves which layer: the first in order that has no reason against it."""

from __future__ import annotations

import torch

from tokenwell.engine.attention.cpu import CpuAttention
from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.attention.sdpa import SdpaAttention
from tokenwell.engine.attention.spec import AttentionSpec, Backend
from tokenwell.engine.attention.trial import disagreement
from tokenwell.engine.attention.triton import TritonAttention
from tokenwell.wire.messages import Choice

_IN_ORDER: tuple[Backend, ...] = (CpuAttention(), TritonAttention(), SdpaAttention(), ReferenceAttention())


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
