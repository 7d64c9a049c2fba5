"""Storing into the paged cache and attention of single queries out of it, for every instruction set that this machine can run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.kernels.threads import at_once

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.kernels import cpu_paged

_made: dict[object, cpu_paged.Kernels] = {}
CPU = torch.device("cpu")


def kernels_for(isa: object, head_dim: int, group: int) -> cpu_paged.Kernels:
    key = (isa, head_dim, group)
    if key not in _made:
        _made[key] = cpu_paged.kernels_for(isa, head_dim, group)
    return _made[key]


class Case:
    """Rows of random lengths in a pool of shuffled pages."""

    def __init__(self, rows: int, heads: int, kv_heads: int, dim: int, page_tokens: int, longest: int) -> None:
        width = -(-longest // page_tokens)
        pool = torch.randn(rows * width + 1, 2, page_tokens, kv_heads, dim).bfloat16()
        table = (torch.randperm(rows * width) + 1).view(rows, width).int()
        self.pages = cpu_paged.Pages(LayerCache(pool[:, 0], pool[:, 1]), table, page_tokens, torch.randperm(rows).int())
        self.lengths = torch.randint(1, longest + 1, (rows,)).int()
        self.q = torch.randn(rows, heads + 1, dim).bfloat16()[:, :heads]
        self.longest, self.group = longest, heads // kv_heads

    def keys(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What a row sees without a window: [keys, heads, head_dim] each, float64."""
        pages = self.pages.table[self.pages.slots[row]].long()
        length = int(self.lengths[row])
        cache = self.pages.cache
        k, v = (half[pages].flatten(0, 1)[:length].double().repeat_interleave(self.group, 1) for half in (cache.k, cache.v))
        return k, v

    def attend(self, isa: object, window: int | None, sinks: torch.Tensor | None) -> torch.Tensor:
        out = torch.empty(self.q.shape, dtype=self.q.dtype)
        kernels = kernels_for(isa, self.q.shape[2], self.group)
        cpu_paged.attend(kernels, self.pages, self.q, self.lengths, self.longest, 0.1, window, sinks, out)
        return out

    def expected(self, row: int, window: int | None, sinks: torch.Tensor | None) -> torch.Tensor:
        k, v = self.keys(row)
        first = 0 if window is None else max(0, len(k) - window)
        scores = torch.einsum("hd,khd->hk", self.q[row].double(), k[first:]) * 0.1
        if sinks is not None:
            scores = torch.cat((scores, sinks.double()[:, None]), 1)
        return torch.einsum("hk,khd->hd", scores.softmax(-1)[:, : len(k) - first], v[first:])


CASES = [
    (1, 6, 2, 64, 16, None, False, 40), (3, 6, 2, 64, 16, 7, False, 40), (5, 8, 2, 32, 32, 17, True, 100),
    (2, 4, 1, 256, 16, None, True, 300), (4, 4, 4, 64, 48, 20, False, 33), (9, 6, 2, 64, 16, 512, False, 1500),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "heads", "kv_heads", "dim", "page_tokens", "window", "sunk", "longest"), CASES)
def test_attention(isa: object, rows: int, heads: int, kv_heads: int, dim: int, page_tokens: int, window: Any, sunk: bool,
                   longest: int) -> None:  # fmt: skip
    torch.manual_seed(rows)
    case = Case(rows, heads, kv_heads, dim, page_tokens, longest)
    sinks = torch.randn(heads) if sunk else None
    out = case.attend(isa, window, sinks)
    for row in range(rows):
        expected = case.expected(row, window, sinks)
        assert ((out[row].double() - expected).abs() <= expected.abs() * 2**-8 + 1e-3).all()


def test_threads_change_nothing(isa: object) -> None:
    torch.manual_seed(1)
    case = Case(6, 6, 2, 64, 16, 1500)
    expected = case.attend(isa, None, None)

    def work() -> None:
        assert torch.equal(case.attend(isa, None, None), expected)

    at_once(work)


def test_store(isa: object) -> None:
    case = Case(3, 4, 2, 64, 16, 90)
    rows = torch.tensor([0, 1, 1, 2]).int()
    positions = torch.tensor([15, 16, 17, 89])
    qkv = torch.randn(4, 9, 64).bfloat16()
    before = case.pages.cache.k.clone(), case.pages.cache.v.clone()
    cpu_paged.store(kernels_for(isa, 64, 2), case.pages, qkv[:, 2:4], qkv[:, 6:8], rows, positions)
    for old, new, given in zip(before, (case.pages.cache.k, case.pages.cache.v), (qkv[:, 2:4], qkv[:, 6:8]), strict=True):
        pages = case.pages.table[case.pages.slots[rows.long()].long(), positions // 16].long()
        old[pages, positions % 16] = given
        assert torch.equal(new, old)


def test_what_does_not_fit_is_refused(best: list[object]) -> None:
    for isa in best:
        case, kernels = Case(2, 4, 2, 64, 16, 40), kernels_for(isa, 64, 2)
        out = torch.empty(2, 4, 64).bfloat16()
        with pytest.raises(ValueError, match="does not fit a cache"):
            cpu_paged.attend(kernels, case.pages, case.q.float(), case.lengths, 40, 0.1, None, None, out)
        with pytest.raises(ValueError, match="is not like q"):
            cpu_paged.attend(kernels, case.pages, case.q, case.lengths, 40, 0.1, None, None, out[:1])
        with pytest.raises(ValueError, match="do not fit 2 tokens"):
            cpu_paged.store(kernels, case.pages, case.q[:, :2], case.q[:, :2], torch.zeros(2), torch.zeros(2).long())


def test_reasons(best: list[object]) -> None:
    spec = AttentionSpec(4, 2, 64, 1.0, torch.bfloat16)
    assert "float32" in str(cpu_paged.reason_not(AttentionSpec(4, 2, 64, 1.0), 16, CPU))
    for _ in best:
        assert cpu_paged.reason_not(spec, 16, CPU) is None
        assert "multiple" in str(cpu_paged.reason_not(spec, 12, CPU))
        assert "head of 48" in str(cpu_paged.reason_not(AttentionSpec(4, 2, 48, 1.0, torch.bfloat16), 16, CPU))
        assert "cap" in str(cpu_paged.reason_not(AttentionSpec(4, 2, 64, 1.0, torch.bfloat16, softcap=5.0), 16, CPU))
