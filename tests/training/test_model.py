"""The trained function is the one that transformers and the engine compute."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.conftest import SMALL
from torch.nn import functional
from training.attention import flash
from training.export import read
from training.model import Mini, Shape
from training.optimise import Optimiser, orthogonal


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Mini:
    made = Mini(SMALL)
    made.load_state_dict({name: tensor.float() for name, tensor in read(checkpoint).items()})
    return made


def logits(model: Mini, ids: torch.Tensor, documents: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        documents = torch.zeros_like(ids) if documents is None else documents
        return model.logits(model.model(ids, documents, torch.float32, "dense"))


def test_logits_are_those_of_transformers(checkpoint: Path, model: Mini) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(0, SMALL.vocabulary, (2, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference(ids).logits
    assert 4 * SMALL.window < 100
    assert expected.abs().max() > 3
    torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=1e-4)


def test_a_window_and_shared_keys_are_in_effect(model: Mini) -> None:
    ids = torch.randint(0, SMALL.vocabulary, (1, 100), generator=torch.Generator().manual_seed(1))
    wide = Mini(replace(SMALL, window=1000))
    wide.load_state_dict(model.state_dict())
    own, all_seen = logits(model, ids), logits(wide, ids)
    torch.testing.assert_close(own[:, : SMALL.window], all_seen[:, : SMALL.window])
    assert (own[:, -1] - all_seen[:, -1]).abs().max() > 1e-3
    kept = {name.split(".")[2] for name in model.state_dict() if ".k_proj." in name}
    assert kept == {str(number) for number in range(len(SMALL.layers) - SMALL.shared)}
    assert [Shape.load().owner(layer) for layer in range(7, 12)] == [7, 6, 7, 6, 7]


def test_dialogues_in_a_row_do_not_see_each_other(model: Mini) -> None:
    ids = torch.randint(0, SMALL.vocabulary, (1, 90), generator=torch.Generator().manual_seed(2))
    documents = torch.tensor([[0] * 30 + [1] * 60])
    other = ids.clone()
    other[:, :30] = ids[:, :30].flip(1)
    torch.testing.assert_close(logits(model, ids, documents)[:, 30:], logits(model, other, documents)[:, 30:])
    # What counts is how far tokens are apart: a dialogue in the middle of a row is as if it stood alone.
    torch.testing.assert_close(logits(model, ids, documents)[:, 30:], logits(model, ids[:, 30:]), rtol=0, atol=1e-3)


def test_flash_attention_is_told_where_dialogues_start() -> None:
    documents = torch.tensor([[0] * 5 + [1] * 3, [0] * 8, [0] * 1 + [1] * 1 + [2] * 6])
    starts, window = flash(documents, 4)
    assert window == 4 and starts.dtype == torch.int32
    assert starts.tolist()[:7] == [0, 5, 8, 16, 17, 18, 24]
    assert set(starts.tolist()[6:]) == {24}


def test_compiled_parts_compute_the_same_and_layers_share_them() -> None:
    from torch._dynamo.utils import counters

    model = Mini(replace(SMALL, layers="sfsfsf", shared=2))
    ids = torch.randint(0, SMALL.vocabulary, (1, 64), generator=torch.Generator().manual_seed(3))
    documents = (torch.arange(64) >= 20).int()[None]
    places, targets = torch.arange(40, 50), ids[0, 41:51].clone()
    targets[-1] = -100
    batch = (ids, documents, places, targets, torch.float32, "dense")
    with torch.no_grad():
        loss, likeliest = model(*batch)
        torch._dynamo.reset()
        counters.clear()
        for layer in model.model.layers:
            layer.compile(backend="eager", fullgraph=True, dynamic=False)
        for _ in range(2):
            compiled, same = model(*batch)
    torch.testing.assert_close(compiled, loss)
    assert torch.equal(same, likeliest)
    assert counters["stats"]["unique_graphs"] == 2  # with keys of their own or not; both kinds of layers are the same
    plain = functional.cross_entropy(logits(model, ids, documents)[0, 40:49], targets[:-1])
    torch.testing.assert_close(loss, plain)


def test_the_sizes_are_within_the_limit() -> None:
    from training.model import parameters

    assert parameters(Shape.load()) * 2 <= 40_000_000


def test_the_optimiser_learns_and_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    shape = replace(SMALL, vocabulary=64, layers="sfsf", shared=2)
    ids = torch.randint(0, 64, (2, 48))
    batch = (ids, torch.zeros_like(ids), torch.arange(0, 40), ids.flatten()[1:41])
    model = Mini(shape)
    optimiser = Optimiser(model, 0.02, 0.003, 0.05)

    def steps(model: Mini, optimiser: Optimiser, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss, _ = model(*batch, torch.float32, "dense")
            loss.backward()
            optimiser.step(1.0)
            losses.append(float(loss.detach()))
        return losses

    losses = steps(model, optimiser, 12)
    assert losses[-1] < losses[0] / 3
    again = Mini(shape)
    again.load_state_dict(model.state_dict())
    restored = Optimiser(again, 0.02, 0.003, 0.05)
    restored.restore(deepcopy(optimiser.state()))
    assert steps(again, restored, 3) == pytest.approx(steps(model, optimiser, 3), rel=1e-3)


def test_muon_makes_singular_values_alike() -> None:
    torch.manual_seed(0)
    for rows, columns in ((16, 96), (96, 32)):
        made = torch.randn(2, rows, columns) * torch.logspace(0, 1, columns)
        values = torch.linalg.svdvals(orthogonal(made).float())
        assert float(values.min()) > 0.5 and float(values.max()) < 1.4
