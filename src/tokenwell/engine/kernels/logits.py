"""Logits of many rows on accelerators: from the head's product to float32 and under the soft cap, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.platform import accelerator

_BLOCK = 4096


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    """tanh in float32; of small numbers by its series, because little of them is left beside a one."""
    return tl.where(tl.abs(x) < 0.03, x - x * x * x / 3.0, 2.0 * tl.sigmoid(2.0 * x) - 1.0)


@triton.jit
def _capped(x_at, y_at, count, softcap, BLOCK: tl.constexpr, PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    y = tl.load(x_at + at, mask=at < count, other=0.0).to(tl.float32)
    tl.store(y_at + at, softcap * tanh(y / softcap), mask=at < count)


def capped(logits: torch.Tensor, softcap: float) -> torch.Tensor:
    """softcap * tanh(logits / softcap): contiguous, of any shape -> float32."""
    y = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    count = logits.numel()
    if count:
        launch = accelerator.launch(logits.device)
        _capped[(triton.cdiv(count, _BLOCK),)](logits, y, count, softcap, _BLOCK, **launch)
    return y


def reference(logits: torch.Tensor, softcap: float) -> torch.Tensor:
    """`capped` in plain torch."""
    return torch.tanh(logits.to(torch.float32) / softcap) * softcap
