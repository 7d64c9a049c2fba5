"""Backends are compared with the reference before they are used; one that is wrong is passed over, with words."""

from __future__ import annotations

import logging

import pytest
import torch

from tokenwell.engine.attention import choose
from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.attention.sdpa import SdpaAttention
from tokenwell.engine.attention.spec import FP8, AttentionSpec, LayerCache
from tokenwell.engine.attention.trial import disagreement, sharing_disagreement, try_out
from tokenwell.engine.run.batch import Batch

CPU = torch.device("cpu")


class Wrong(ReferenceAttention):
    """Right for prompts, wrong by `factor` for rows that decode."""

    name = "wrong"

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        out = super().attend(spec, q, cache, batch, group, sinks)
        out[: batch.singles] *= self.factor
        return out


class Broken(ReferenceAttention):
    """Fails as a compiler does."""

    name = "broken"

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        raise RuntimeError("out of registers\nand more")


@pytest.mark.parametrize("window", [None, 7, 1024])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 16**-0.5), (torch.bfloat16, 1.0)])
def test_a_right_backend_agrees(window: int | None, dtype: torch.dtype, scale: float) -> None:
    spec = AttentionSpec(4, 2, 16, scale, dtype, window)
    assert disagreement(SdpaAttention(), spec, CPU) is None


@pytest.mark.parametrize("extra", [{"sinks": True}, {"softcap": 5.0}, {"kv_dtype": FP8}, {"folded": True}])
def test_what_the_reference_serves_is_compared(extra: dict[str, object]) -> None:
    spec = AttentionSpec(4, 2, 16, 0.25, torch.bfloat16, **extra)  # type: ignore[arg-type]
    assert disagreement(ReferenceAttention(), spec, CPU) is None
    assert disagreement(Wrong(1.1), spec, CPU) is not None


def test_a_wrong_backend_is_passed_over_loudly(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    spec = AttentionSpec(4, 2, 16, 0.25)
    chain = (Broken(), Wrong(float("nan")), Wrong(1.01), ReferenceAttention())
    monkeypatch.setattr(choose, "_IN_ORDER", chain)
    backend, choice = choose.choose_backend(spec, CPU)
    assert backend is chain[0], "nothing is compared on a CPU"
    monkeypatch.setattr(choose, "disagreement", lambda backend, spec, device: disagreement(backend, spec, CPU))
    with caplog.at_level(logging.WARNING):
        backend, choice = choose.choose_backend(spec, torch.device("meta"))
    assert backend is chain[-1]
    assert "RuntimeError: out of registers" in choice.reason
    assert "off by nan" in choice.reason
    assert "off by 0.0" in choice.reason
    assert sum("is not used" in record.message for record in caplog.records) == 3


def test_several_kinds_of_layers_are_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [AttentionSpec(4, 2, 16, 0.25, window=window) for window in (None, 5)]
    wrong, right = Wrong(1.01), SdpaAttention()
    try_out([(wrong, specs[0]), (right, specs[0]), (right, specs[1]), (right, specs[1])], CPU)
    assert disagreement(wrong, specs[0], CPU) is not None
    assert disagreement(right, specs[0], CPU) is disagreement(right, specs[1], CPU) is None
    asked: list[object] = []
    monkeypatch.setattr(choose, "_IN_ORDER", (wrong, ReferenceAttention()))
    monkeypatch.setattr(choose, "try_out", lambda pairs, device: asked.append(list(pairs)))
    choose.try_first(specs, CPU)
    assert asked == [], "nothing is compared on a CPU"
    choose.try_first(specs, torch.device("meta"))
    assert asked == [[(wrong, spec) for spec in specs]]


class Sharing(Wrong):
    """Right, and wrong by `factor` where rows share pages."""

    name = "triton"

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        kind = ReferenceAttention if batch.shared is None else Wrong
        return kind.attend(self, spec, q, cache, batch, group, sinks)


def test_a_backend_that_is_wrong_only_where_rows_share_pages_reads_them_for_each_row(caplog: pytest.LogCaptureFixture) -> None:
    full, sliding = (AttentionSpec(4, 2, 16, 0.25, window=window) for window in (None, 5))
    right, wrong = Sharing(1.0), Sharing(1.01)
    assert sharing_disagreement(right, full, CPU) is None
    with caplog.at_level(logging.WARNING):
        assert "off by 0.01" in str(sharing_disagreement(wrong, full, CPU))
    assert ["pages that rows share are read for each of them" in record.message for record in caplog.records] == [True]
    assert disagreement(wrong, full, CPU) is None
    assert sharing_disagreement(right, sliding, CPU) == "it reads pages for each row"
    assert sharing_disagreement(SdpaAttention(), full, CPU) == "it reads pages for each row"
