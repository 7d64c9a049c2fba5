"""Sampling kernels against sorting in float64: what the filters leave, what is drawn and how often; rows are independent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenwell.engine.kernels import sampling, sampling_filters

ROUNDING = 1e-5  # relative, of sums over a vocabulary in float32


@pytest.fixture(autouse=True)
def _small(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter gets chunks and lists so small that every path is taken; on a card constants are compiled in."""
    if gpu.type == "cpu":
        monkeypatch.setattr(sampling, "CHUNK", 32)
        monkeypatch.setattr(sampling_filters, "CHUNK", 32)
        for module in (sampling, sampling_filters):
            monkeypatch.setattr(module, "BINS", 8)
        monkeypatch.setattr(sampling_filters, "LISTED", 16)


def kept(logits: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Which tokens the filters leave: [rows, vocabulary] bool."""
    left = sampling_filters.keep(logits, parameters, sampling.survey(logits, parameters, filters=True))
    ids = torch.arange(logits.shape[1], device=logits.device)
    scale = 2**26 / parameters[:, :1]  # depths as the kernels count them
    depth = ((logits.amax(-1, keepdim=True) - logits) * scale).clamp(max=2080374784.0).to(torch.int32)
    return (depth < left.cut[:, None]) | ((depth == left.cut[:, None]) & (ids <= left.tie[:, None]))


def table(gpu: torch.device, *rows: tuple[float, ...]) -> torch.Tensor:
    """Parameters: temperature, uniform, top_k, top_p, min_p."""
    return torch.tensor(rows, dtype=torch.float32, device=gpu)


def shaken(parameters: torch.Tensor, by: float) -> torch.Tensor:
    """Filters that leave a little more, or less."""
    changed = parameters.clone()
    changed[:, 3] = torch.where(changed[:, 3] < 1, changed[:, 3] * (1 + by), 1.0)
    changed[:, 4] *= 1 - by
    return changed


def drawn_right(logits: torch.Tensor, parameters: torch.Tensor, left: torch.Tensor, tokens: torch.Tensor) -> None:
    """Each token is where the distribution function over `left` passes the uniform number, up to rounding."""
    _, weights = sampling.kept_reference(logits, parameters)
    weights = weights.where(left, 0.0)
    past = weights.cumsum(-1)
    limit = parameters[:, 1].double() * past[:, -1]
    at = past.gather(1, tokens[:, None])[:, 0]
    slack = ROUNDING * past[:, -1]
    assert (weights.gather(1, tokens[:, None]) > 0).all()
    assert (at > limit - slack).all()
    assert (at - weights.gather(1, tokens[:, None])[:, 0] <= limit + slack).all()


def make(seed: int, rows: int, size: int, spread: float, kind: str, gpu: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, size, generator=generator)
    if kind == "ties":
        logits = logits.round()
    elif kind == "equal":
        logits[:] = 0.25
    elif kind == "masked":
        logits[torch.rand(logits.shape, generator=generator) < 0.7] = -torch.inf
        logits[:, size // 2] = 1.0
    elif kind == "peak":
        logits[:, size // 3] += 25 * spread
    return logits.to(gpu)


kinds = st.sampled_from(["plain", "ties", "equal", "masked", "peak"])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 90),
    spread=st.sampled_from([0.1, 1.0, 6.0]),
    kind=kinds,
    top_k=st.sampled_from([0, 1, 3, 20, 60]),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    heat=st.sampled_from([1e-3, 0.6, 1.0, 3.0]),
    number=st.floats(0, 1 - 2**-24),
)
def test_the_filters_leave_what_sorting_leaves(
    gpu: torch.device,
    seed: int,
    size: int,
    spread: float,
    kind: str,
    top_k: int,
    top_p: float,
    min_p: float,
    heat: float,
    number: float,
) -> None:
    logits = make(seed, 1, size, spread, kind, gpu)
    parameters = table(gpu, (heat, number, top_k, top_p, min_p))
    left = kept(logits, parameters)
    # Weights that float32 has no number for are nothing on either side.
    counts = sampling.kept_reference(logits, parameters)[1] > 1e-13
    least, _ = sampling.kept_reference(logits, shaken(parameters, -ROUNDING))
    most, _ = sampling.kept_reference(logits, shaken(parameters, ROUNDING))
    assert not (least & counts & ~left).any()
    assert not (left & counts & ~most).any()
    if top_k:
        assert int((left & counts).sum(1).max()) <= top_k
    drawn_right(logits, parameters, left, sampling.choose(logits, parameters, filters=True))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), size=st.integers(1, 90), kind=kinds, number=st.floats(0, 1 - 2**-24))
def test_without_filters_the_uniform_number_says_which(gpu: torch.device, seed: int, size: int, kind: str, number: float) -> None:
    logits = make(seed, 3, size, 2.0, kind, gpu)
    parameters = table(gpu, (0, number, 0, 1, 0), (0.7, number, 0, 1, 0), (1e-4, number, 0, 1, 0))
    tokens = sampling.choose(logits, parameters)
    assert tokens[0] == logits[0].argmax()
    drawn_right(logits[1:], parameters[1:], torch.ones_like(logits[1:], dtype=torch.bool), tokens[1:])
    assert torch.equal(sampling.choose(logits, None), logits.argmax(-1))


def test_the_batch_does_not_change_a_draw(gpu: torch.device) -> None:
    logits = make(3, 6, 70 if gpu.type == "cpu" else 50_000, 1.0, "plain", gpu)
    rows = [
        (0, 0, 0, 1, 0),
        (1, 0.5, 0, 1, 0),
        (1, 0.2, 7, 1, 0),
        (2, 0.9, 0, 0.8, 0),
        (0.5, 0.4, 9, 0.5, 0.1),
        (1, 1e-6, 0, 1, 0.2),
    ]
    parameters = table(gpu, *rows)
    together = sampling.choose(logits, parameters, filters=True).tolist()
    alone = []
    for row in range(6):
        one = parameters[row : row + 1].clone()
        alone += sampling.choose(logits[row : row + 1].clone(), one, filters=row >= 2).tolist()
    assert together == alone


@pytest.mark.parametrize("filters", [(0, 1.0, 0.0), (5, 0.9, 0.1)])
def test_frequencies_follow_the_probabilities(gpu: torch.device, filters: tuple[float, ...]) -> None:
    """Uniform numbers at equal distances must meet each token as often as its probability says, give or take one."""
    rows = 9 if gpu.type == "cpu" else 20_000
    logits = torch.tensor([[0.0, 1.0, 2.0, 0.5, -1.0, 1.5]], device=gpu).expand(rows, -1).contiguous()
    parameters = table(gpu, (0.8, 0.0, *filters)).repeat(rows, 1)
    parameters[:, 1] = (torch.arange(rows, device=gpu) + 0.5) / rows
    tokens = sampling.choose(logits, parameters, filters=filters != (0, 1.0, 0.0))
    left, weights = sampling.kept_reference(logits[:1], parameters[:1])
    shares = weights.where(left, 0.0)[0]
    met = torch.bincount(tokens, minlength=6).double()
    assert (met - rows * shares / shares.sum()).abs().max() <= 1.01


def test_rows_that_hold_no_number_still_give_a_token(gpu: torch.device) -> None:
    logits = torch.full((3, 40), -torch.inf, device=gpu)
    logits[1] = torch.nan
    logits[2, 7] = torch.nan
    logits[2, 9] = -3.0
    for parameters in (None, table(gpu, *[(1, 0.5, 0, 1, 0)] * 3), table(gpu, *[(1, 0.5, 3, 0.9, 0.1)] * 3)):
        tokens = sampling.choose(logits, parameters, filters=True).tolist()
        assert all(0 <= token < 40 for token in tokens) and tokens[2] == 9


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), size=st.integers(1, 100))
def test_forbidden_tokens_become_impossible(gpu: torch.device, seed: int, size: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(4, size, device=gpu)
    bits = torch.randint(0, 256, (2, -(-size // 8)), dtype=torch.uint8)
    allowed = (bits[:, :, None].int() >> torch.arange(8) & 1).flatten(1)[:, :size].bool().to(gpu)
    expected = logits.clone()
    expected[[3, 1]] = expected[[3, 1]].where(allowed, -torch.inf)
    sampling.forbid(logits, torch.tensor([3, 1], device=gpu), bits.to(gpu))
    assert torch.equal(logits, expected)


@pytest.mark.card
def test_large_vocabularies(gpu: torch.device) -> None:
    for size in (50_257, 151_936, 262_144):
        for kind, spread in (("plain", 0.5), ("plain", 4.0), ("ties", 3.0), ("equal", 1.0), ("peak", 2.0)):
            logits = make(size, 7, size, spread, kind, gpu)
            filters = [(0, 0.9, 0), (20, 0.95, 0), (5000, 0.9, 0), (0, 1, 0.05), (30_000, 1, 0), (1, 1, 0), (50, 0.5, 0.01)]
            parameters = table(gpu, *((1.0, 0.13 * place, *one) for place, one in enumerate(filters)))
            left = kept(logits, parameters)
            counts = sampling.kept_reference(logits, parameters)[1] > 1e-13
            least, _ = sampling.kept_reference(logits, shaken(parameters, -ROUNDING))
            most, _ = sampling.kept_reference(logits, shaken(parameters, ROUNDING))
            assert not (least & counts & ~left).any() and not (left & counts & ~most).any()
            drawn_right(logits, parameters, left, sampling.choose(logits, parameters, filters=True))
