"""e4m3 as bytes, for cards whose compiler does not know it: what kernels make of it is what they make of e4m3 itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from tests.engine.kernels import rounding, test_front
from tests.engine.kernels.interpreter import complete

from tokenwell.engine.attention import trial
from tokenwell.engine.attention.spec import FP8, AttentionSpec
from tokenwell.engine.attention.triton import TritonAttention
from tokenwell.engine.kernels import e4m3, experts_few, experts_many, fp8, gemv
from tokenwell.engine.kernels.heads import Heads
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.experts import ExpertMatrix

rounding.correct()
if not torch.cuda.is_available():
    complete()


@triton.jit
def _both_ways(x_at, codes_at, y_at, count: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, count)
    codes = e4m3.encoded(tl.load(x_at + at))
    tl.store(codes_at + at, codes)
    tl.store(y_at + at, e4m3.decoded(codes).to(tl.float32))


def test_numbers_both_ways(gpu: torch.device) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    exact = codes.view(FP8).float()
    exact = exact[exact.isfinite()]
    between = (exact.sort().values[:-1] + exact.sort().values[1:]) / 2
    random = torch.randn(4096) * torch.exp2(torch.randint(-12, 8, (4096,)).float())
    x = torch.cat([exact, between, between.nextafter(torch.tensor(9e9)), random, torch.zeros(1)]).clamp(-448, 448)
    x = torch.nn.functional.pad(x, (0, 8192 - len(x))).to(gpu)
    bytes_, back = torch.empty(8192, dtype=torch.uint8, device=gpu), torch.empty(8192, device=gpu)
    _both_ways[(1,)](x, bytes_, back, 8192)
    assert torch.equal(bytes_, x.to(FP8).view(torch.uint8))
    assert torch.equal(back, x.to(FP8).float())


def alike(work: Callable[[], torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading e4m3 itself and as bytes gives the same."""
    known = []
    for knows in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(accelerator, "knows_e4m3", lambda device, knows=knows: knows)
            known.append(work())
    assert torch.equal(*known)


def codes(*shape: int, device: torch.device) -> torch.Tensor:
    return (64 * torch.randn(shape, device=device)).clamp(-448, 448).to(FP8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products(gpu: torch.device, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, scales = codes(96, 128, device=gpu), torch.rand(96, device=gpu)
    for tokens in (1, 5):
        x = torch.randn(tokens, 128, device=gpu).to(dtype)
        alike(lambda x=x: gemv.linear(x, weight, scales=scales), monkeypatch)  # type: ignore[misc]
    alike(lambda: fp8.dequantise(weight, scales, 0, dtype), monkeypatch)


def test_experts(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    gate_up = ExpertMatrix(codes(4, 64, 64, device=gpu), torch.rand(4, 64, device=gpu) / 64)
    down = ExpertMatrix(codes(4, 64, 32, device=gpu), torch.rand(4, 64, device=gpu) / 64)
    x = torch.randn(6, 64, device=gpu).bfloat16()
    chosen, share = torch.randint(0, 4, (6, 2), device=gpu), torch.rand(6, 2, device=gpu)
    for work in (experts_few.experts_few, experts_many.experts_many):
        alike(lambda work=work: work(x, chosen, share, gate_up, down, "silu"), monkeypatch)  # type: ignore[misc, operator]


@pytest.mark.parametrize("folded", [False, True])
def test_attention(gpu: torch.device, folded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AttentionSpec(4, 2, 32, 0.2, torch.bfloat16, None, sinks=False, kv_dtype=FP8, folded=folded)
    rows = ((30, 1), (5, 20), (0, 7))
    monkeypatch.setattr(accelerator, "kernels_reason_not", lambda device: None)
    for knows in (True, False):
        monkeypatch.setattr(accelerator, "knows_e4m3", lambda device, knows=knows: knows)
        assert trial._error(TritonAttention(), spec, gpu, rows, 1) < trial.TOLERANCE[torch.bfloat16]


def test_what_is_written_before_attention(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "knows_e4m3", lambda device: False)
    heads = Heads(4, 2, 32, half=16, turning=16)
    test_front.run(gpu, heads, [5, 1], 4, torch.bfloat16, FP8, scale=0.5)
