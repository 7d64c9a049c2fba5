"""What an engine may hold follows from the memory that is there; a cache in fp8 gives nearly the same answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import Tiny

from tokenwell.checkpoint.safetensors import TensorInfo
from tokenwell.engine.load import _offload, load, scheduler_for
from tokenwell.engine.models.build import Build
from tokenwell.engine.run.largest import run_largest
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.wire.capacity import GIB
from tokenwell.wire.errors import SettingsError
from tokenwell.wire.messages import Choice, Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec


def spec(**fields: object) -> EngineSpec:
    return EngineSpec("", "", "", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("order", "gib", "offloaded"), [("auto", 14, True), ("auto", 18, False), ("on", 80, True), ("off", 9, False)]
)
def test_tables_that_are_only_looked_up_leave_a_small_card(order: str, gib: float, offloaded: bool) -> None:
    """Gemma 4 E4B in bf16: 5.25 GiB of tables, 9.6 GiB of other weights."""
    sizes = {"model.language_model.embed_tokens_per_layer.weight": 5.25, "model.language_model.embed_tokens.weight": 9.6}
    infos = {name: TensorInfo(Path(), "BF16", (), 0, int(size * GIB)) for name, size in sizes.items()}
    choices: list[Choice] = []
    checkpoint = Checkpoint(Path(), {}, infos)
    assert _offload(spec(ple_offload=order), checkpoint, torch.device("meta"), int(gib * GIB), choices) == offloaded
    assert choices[0].chosen == ("host" if offloaded else "card")
    assert not _offload(spec(ple_offload=order), checkpoint, torch.device("cpu"), int(gib * GIB), choices)


def test_without_a_dtype_in_the_config_the_weights_tell(tiny: Tiny, tmp_path: Path) -> None:
    for name, dtype in (("gpt-oss", "bfloat16"), ("qwen3", "float32")):
        folder = Path(shutil.copytree(tiny(name), tmp_path / name))
        config = json.loads((folder / "config.json").read_text())
        config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        (folder / "config.json").write_text(json.dumps(config))
        assert load(EngineSpec(str(folder), "", "", device="cpu", kv_cache_gib=0.01)).ready.dtype == dtype
        dummy = EngineSpec(str(folder), "", "", device="cpu", kv_cache_gib=0.01, load_format="dummy")
        assert load(dummy).ready.dtype == "bfloat16"


def logprobs(folder: str, kv: str) -> list[float]:
    loaded = load(EngineSpec(folder, "", "", device="cpu", dtype="float32", kv_cache_dtype=kv, kv_cache_gib=0.01))
    scheduler = scheduler_for(loaded.ready, prefix_cache=False)
    scheduler.add(Generate("a", [(17 * place) % 380 for place in range(60)], Sampling(max_tokens=1, prompt_logprobs=0)))
    plan = scheduler.schedule()
    assert plan is not None
    (output,) = scheduler.apply(loaded.worker.run(plan))
    return [one.logprob for one in output.prompt_logprobs or []]


@pytest.mark.parametrize("name", ["gemma4-e", "qwen3"])
def test_a_cache_in_fp8_gives_nearly_the_same(name: str, tiny: Tiny) -> None:
    folder = str(tiny(name))
    exact, rough = (torch.tensor(logprobs(folder, kv)) for kv in ("auto", "fp8"))
    assert not torch.equal(exact, rough)
    assert float(torch.corrcoef(torch.stack((exact, rough)))[0, 1]) > 0.8  # random weights make sharp attention
    with pytest.raises(SettingsError, match="--kv-cache-dtype"):
        logprobs(folder, "fp4")


def test_scales_of_the_cache_come_from_the_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("qwen3"), tmp_path / "scaled"))
    tensors = load_file(folder / "model.safetensors")
    tensors |= {
        "model.layers.1.self_attn.k_scale": torch.tensor([0.5]),
        "model.layers.1.self_attn.v_proj.v_scale": torch.tensor(2.0),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    spec = EngineSpec(str(folder), "", "", device="cpu", kv_cache_dtype="fp8", kv_cache_gib=0.01)
    caches = load(spec).worker.pool.caches
    assert (caches[1].k_scale, caches[1].v_scale, caches[0].k_scale) == (0.5, 2.0, 1.0)
    loaded = load(msgspec.structs.replace(spec, kv_cache_dtype="auto"))
    assert loaded.worker.pool.caches[1].k_scale == 1.0
    assert any("8-bit KV cache" in note for note in loaded.notes)


@pytest.mark.parametrize("kv", ["auto", "fp8"])
def test_keys_that_follow_from_values_need_not_be_stored(kv: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny("gemma4-moe"))
    both = torch.tensor(logprobs(folder, kv))
    monkeypatch.setattr(Build, "_folds", lambda build, layer: True)
    loaded = load(EngineSpec(folder, "", "", device="cpu", dtype="float32", kv_cache_gib=0.01))
    full = next(group for group in loaded.ready.groups if group.window is None)
    assert full.folded
    assert full.bytes_per_token == len(full.layers) * full.kv_heads * full.head_dim * 4
    alone = torch.tensor(logprobs(folder, kv))
    if kv == "auto":
        assert float((both - alone).abs().max()) < 1e-4
    else:  # values alone are rounded, not their keys once more
        assert float(torch.corrcoef(torch.stack((both, alone)))[0, 1]) > 0.8


@pytest.mark.parametrize(("seqs", "budget", "window"), [(4, 40, 128), (8, 8, 128), (5, 100, 30), (1, 20, 64)])
def test_the_largest_step_is_as_large_as_allowed(seqs: int, budget: int, window: int, tiny: Tiny) -> None:
    limits = {"max_num_seqs": seqs, "max_num_batched_tokens": budget, "max_model_len": window, "kv_cache_gib": 0.01}
    loaded = load(EngineSpec(str(tiny("gemma4-e")), "", "", device="cpu", dtype="float32", **limits))  # type: ignore[arg-type]
    worker, plans = loaded.worker, []
    run = worker.run
    worker.run = lambda plan: (plans.append(plan), run(plan))[1]  # type: ignore[method-assign]
    run_largest(worker, len(loaded.ready.groups), seqs, budget, window)
    first, second = plans
    assert first.tokens == min(budget, seqs * window)
    assert len(first.run) == len(second.run) == min(seqs, budget)
    assert max(one.start + one.count for one in first.run) == (window if seqs > 1 else min(window, budget))
    assert all(one.start + one.count <= window for one in first.run)
    assert not worker.rows
