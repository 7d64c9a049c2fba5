"""A model with one layer of each kind needs the kernels of the whole model."""

from __future__ import annotations

import math

import pytest
from tests.conftest import Tiny

from tokenwell.engine.kinds import one_of_each, shapes
from tokenwell.engine.load import Loaded, load, scheduler_for
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec


def loaded(folder: str) -> Loaded:
    return load(EngineSpec(folder, "", "", device="cpu", load_format="dummy", dtype="float32", kv_cache_gib=0.01))


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3-moe", "gemma4-e", "gemma4-moe", "gpt-oss", "gpt-oss-mxfp4"])
def test_a_brief_model_takes_steps_of_all_sorts(name: str, tiny: Tiny) -> None:
    whole = loaded(str(tiny(name)))
    model = whole.worker.model
    brief = one_of_each(model)
    assert [layer for layer in model.layers if layer in brief.layers] == brief.layers  # in their order, none new
    assert brief.layers[-1] is model.layers[-1] and brief.head is model.head  # type: ignore[attr-defined]
    attentions = {getattr(layer.attention, "attention", layer.attention).spec for layer in model.layers}
    assert attentions == {getattr(layer.attention, "attention", layer.attention).spec for layer in brief.layers}
    whole.worker.model = brief
    scheduler = scheduler_for(whole.ready, prefix_cache=False)
    for row, length in enumerate((40, 3, 17)):
        assert scheduler.add(Generate(str(row), list(range(length)), Sampling(max_tokens=5, temperature=0.0, logprobs=1))) is None
    tokens = 0
    while (plan := scheduler.schedule()) is not None:
        for output in scheduler.apply(whole.worker.run(plan)):
            tokens += len(output.tokens)
            assert all(math.isfinite(one.logprob) for one in output.logprobs or [])
    assert tokens == 15


def test_layers_that_are_alike_are_one_kind(tiny: Tiny) -> None:
    layers = loaded(str(tiny("qwen3"))).worker.model.layers
    assert len(layers) > 2
    kinds = [shapes(list(vars(layer).values()), 4) for layer in layers]
    assert len(set(kinds[:-1])) == 1 and kinds[-1] != kinds[0]  # the last one has no next one
