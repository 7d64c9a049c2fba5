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

from tokenwell.engine.limits import GIB, Space, Wanted, fitted, graph_bytes, space_on_card, step_for_pool, wanted
from tokenwell.engine.load import _offload, load, scheduler_for
from tokenwell.engine.models import registry
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ModelFacts, Raw
from tokenwell.engine.platform.base import Platform
from tokenwell.engine.run.graphs import sizes_up_to
from tokenwell.engine.run.largest import run_largest
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.dummy import DummyCheckpoint
from tokenwell.engine.weights.safetensors import TensorInfo
from tokenwell.wire.cache import KvGroup, sequence_pages
from tokenwell.wire.errors import CapacityError, SettingsError
from tokenwell.wire.messages import Choice, Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

GROUPS = (KvGroup("full", (0, 1), 2, 64, None, 1024, 16),)
PAGE_BYTES = 16 * 1024
WANT = Wanted(40_000, "the model's whole window", 4, 8192)


class Card(Platform):
    """A card with so much free memory."""

    name = "card"
    device = torch.device("meta")
    default_num_seqs, default_batched_tokens = 256, 8192

    def __init__(self, free: float) -> None:
        self.free = int(free * GIB)

    def describe(self) -> str:
        return "card"

    def free_bytes(self) -> int:
        return self.free

    def synchronise(self) -> None:
        return None


@pytest.fixture
def facts(tiny: Tiny) -> ModelFacts:
    config = DummyCheckpoint.open(tiny("qwen3")).config
    return registry.find(config).read(Raw(config))


def spec(**fields: object) -> EngineSpec:
    return EngineSpec("", "", "", **fields)  # type: ignore[arg-type]


def peak_of(gib: float, limit: int = 1 << 30) -> object:
    """Measures `gib` for steps up to `limit` tokens; larger ones do not fit."""

    def measure(seqs: int, budget: int, window: int) -> int:
        if budget > limit:
            raise torch.OutOfMemoryError
        return int(gib * GIB)

    return measure


def on_card(spec: EngineSpec, facts: ModelFacts, free: float, peak: object, choices: list[Choice], start: float = 24) -> Space:
    needed = (WANT.seqs * sequence_pages(WANT.window, WANT.budget, GROUPS) + 1) * PAGE_BYTES
    return space_on_card(spec, WANT, facts, Card(free), int(start * GIB), needed, peak, choices)  # type: ignore[arg-type]


def test_the_cache_gets_what_weights_and_the_largest_step_leave(facts: ModelFacts) -> None:
    space = on_card(spec(graphs=False, gpu_memory_utilization=0.5), facts, 13.0, peak_of(0.9), [])
    assert space.kv_bytes == int(0.5 * 24 * GIB) - 11 * GIB - int(0.9 * GIB)
    for number in ("50%", "24.00 GiB", "11.00 GiB", "0.90 GiB", "8192 tokens", "4 rows"):
        assert number in space.reason
    recorded = on_card(spec(gpu_memory_utilization=0.5), facts, 13.0, peak_of(0.8), [])
    assert recorded.kv_bytes == int(0.5 * 24 * GIB) - 11 * GIB - int(0.8 * GIB) - graph_bytes(4, facts.vocabulary)


def test_no_more_is_taken_than_every_slot_can_use(facts: ModelFacts) -> None:
    space = on_card(spec(), facts, 23.0, peak_of(0.5), [])
    assert space.kv_bytes == (4 * 2500 + 1) * PAGE_BYTES
    assert "every slot can reach the full window" in space.reason


def test_a_step_that_does_not_fit_is_made_smaller_or_said(facts: ModelFacts) -> None:
    choices: list[Choice] = []
    space = on_card(spec(), facts, 20.0, peak_of(0.5, limit=3000), choices)
    assert space.budget == 2048
    assert [(choice.what, choice.chosen) for choice in choices] == [("max_num_batched_tokens", "2048")]
    with pytest.raises(CapacityError, match="8192 tokens and 4 rows does not fit"):
        on_card(spec(max_num_batched_tokens=8192), facts, 20.0, peak_of(0.5, limit=3000), [])
    with pytest.raises(CapacityError, match="--quantization fp8"):
        on_card(spec(), facts, 1.0, peak_of(0.5), [])
    with pytest.raises(SettingsError, match="--gpu-memory-utilization"):
        on_card(spec(gpu_memory_utilization=1.5), facts, 20.0, peak_of(0.5), [])


@pytest.mark.parametrize("asked", [True, False])
def test_the_window_is_fitted_to_the_cache(asked: bool) -> None:
    choices: list[Choice] = []
    limits = fitted(WANT, Space(1001 * PAGE_BYTES, "so it is", 8192), GROUPS, PAGE_BYTES, asked, choices)
    assert (limits.max_model_len, limits.num_pages) == (16_000, 1001)
    told = {choice.what: choice for choice in choices}
    assert told["max_model_len"].chosen == "16000"
    assert "40000" in told["max_model_len"].reason
    assert told["kv cache"].reason == "so it is"
    with pytest.raises(CapacityError, match="not even one token"):
        fitted(WANT, Space(PAGE_BYTES, "", 8192), GROUPS, PAGE_BYTES, asked, [])


def test_windows_do_not_fill_the_pool_with_one_step() -> None:
    sliding = (*GROUPS, KvGroup("sliding-1024", (2, 3), 2, 64, 1024, 1024, 16))
    choices: list[Choice] = []
    large = Space(16 * 8192 // 16 * PAGE_BYTES, "", 8192)
    assert step_for_pool(spec(), large, sliding, PAGE_BYTES, choices) == large
    small = step_for_pool(spec(), Space(3000 * PAGE_BYTES, "", 8192), sliding, PAGE_BYTES, choices)
    assert small.budget == 4096
    assert choices[0].chosen == "4096"
    asked = spec(max_num_batched_tokens=8192)
    assert step_for_pool(asked, Space(3000 * PAGE_BYTES, "", 8192), sliding, PAGE_BYTES, []).budget == 8192


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


def test_recorded_steps_are_counted() -> None:
    assert graph_bytes(64, 1000) >= 4000 * sum(sizes_up_to(64))


def test_more_tokens_than_the_model_knows_are_refused(facts: ModelFacts) -> None:
    assert wanted(spec(max_num_seqs=9000), facts, Card(1)).budget == 9000
    with pytest.raises(SettingsError, match="longer than the 1024 tokens"):
        wanted(spec(max_model_len=2000), facts, Card(1))


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
