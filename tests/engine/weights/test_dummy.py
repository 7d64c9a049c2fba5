"""Random weights from a config.json alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import Tiny

from tokenwell.engine.load import load, scheduler_for
from tokenwell.engine.weights.dummy import DummyCheckpoint
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

CPU = torch.device("cpu")


def source(config: dict[str, Any] | None = None, rank: int = 0, world: int = 1) -> Source:
    return Source(DummyCheckpoint(Path(), config or {"hidden_size": 64}), CPU, torch.float32, rank, world)


@pytest.mark.parametrize("name", ["qwen2", "qwen3-moe", "gemma4-e", "gemma4-moe", "gemma4-wrapped", "gpt-oss", "gpt-oss-mxfp4"])
def test_a_config_alone_is_served(name: str, tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "any-name.json"
    file.write_bytes((tiny(name) / "config.json").read_bytes())
    answers = []
    for _ in range(2):
        loaded = load(EngineSpec(str(file), "", "", device="cpu", load_format="dummy", dtype="float32", kv_cache_gib=0.01))
        scheduler = scheduler_for(loaded.ready, prefix_cache=False)
        assert scheduler.add(Generate("a", list(range(40)), Sampling(max_tokens=12, temperature=0.0, logprobs=0))) is None
        tokens: list[int] = []
        while (plan := scheduler.schedule()) is not None:
            for output in scheduler.apply(loaded.worker.run(plan)):
                tokens += output.tokens
                assert all(math.isfinite(one.logprob) for one in output.logprobs or [])
        answers.append(tokens)
    assert len(answers[0]) == 12
    assert answers[0] == answers[1], "the same names give the same weights"


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 12), st.integers(1, 3))
def test_ranks_see_parts_of_one_tensor(experts: int, rows: int, columns: int, world: int) -> None:
    shape = (experts, rows * world, columns)
    whole = source().tensor("w", shape)
    parts = [source(rank=rank, world=world).tensor("w", shape, shard_dim=1) for rank in range(world)]
    assert torch.equal(torch.cat(parts, 1), whole)
    transposed = torch.empty(experts, columns, rows * world)
    source().read_into(transposed.mT, "w", shape)
    assert torch.equal(transposed.mT, whole)
    assert torch.equal(source().tensor("v", shape[1:], rows=(1, rows * world)), source().tensor("v", shape[1:])[1:])


def test_values_keep_activations_in_size() -> None:
    weights = source({"hidden_size": 512})
    x = torch.randn(64, 512)
    for dtype in (torch.float32, torch.bfloat16):
        y = x @ weights.tensor(f"proj-{dtype}.weight", (700, 512), dtype=dtype).float().T
        assert 0.9 < y.std() < 1.1
    codes = weights.tensor("q.weight", (700, 512), dtype=torch.float8_e4m3fn).float()
    scale = weights.tensor("q.weight_scale", (700, 1), dtype=torch.float32)
    assert 0.8 < (x @ (codes * scale).T).std() < 1.2
    assert torch.equal(weights.tensor("input_layernorm.weight", (512,)), torch.ones(512))
    assert weights.tensor("q.bias", (512,)).abs().max() < 1


def test_values_may_be_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DummyCheckpoint, "within", 1e-3)
    for name, shape in (("proj.weight", (64, 512)), ("input_layernorm.weight", (512,)), ("router.bias", (512,))):
        drawn = source().tensor(name, shape)
        assert drawn.abs().max() <= 1e-3 and 5e-4 < drawn.std() < 6e-4


@pytest.mark.parametrize(
    ("config", "there", "missing"),
    [
        ({}, "a.q_proj.weight", "a.q_proj.weight_scale"),
        ({}, "a.experts.gate_up_proj", "a.experts.gate_up_proj_blocks"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "m.experts.0.up_proj.weight", "m.experts.gate_up_proj"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "m.experts.gate_up_proj_blocks", "m.experts.gate_up_proj"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "a.qweight", "a.g_idx"),
        ({"quantization_config": {"quant_method": "fp8"}}, "a.weight_scale", "a.weight_scale_inv"),
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
            "a.weight_scale_inv",
            "a.weight_scale",
        ),
    ],
)
def test_what_published_checkpoints_of_a_format_hold(config: dict[str, Any], there: str, missing: str) -> None:
    weights = source(config)
    assert weights.has(there)
    assert not weights.has(missing)


def test_a_folder_without_a_config_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        DummyCheckpoint.open(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    assert DummyCheckpoint.open(tmp_path).config == {"hidden_size": 8}
