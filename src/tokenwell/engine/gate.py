"""Golden prompts at load: every kind of call that a model makes to kernels is compared with plain torch on the same device.

A few short prompts go through the model as requests do (a prompt, single tokens, both mixed), without kernels. The first call of
each kind, told by layer type and shapes, is kept, and its result is taken for that of all others of the kind. Then it is made
with kernels: once in threads, because compilers take long and run side by side, and once to be compared. Where the results
disagree, the family of kernels to blame is not used from then on, which is logged and among the engine's choices. Tokens that are
chosen from random logits are compared as well. Attention is compared where its backend is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, partialmethod, wraps
from typing import Any

import msgspec
import numpy as np
import torch

from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.kernels import trust
from tokenwell.engine.kernels.compiling import side_by_side
from tokenwell.engine.kinds import shapes
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.attention import Attention
from tokenwell.engine.layers.embedding import Head
from tokenwell.engine.layers.linear import Linear
from tokenwell.engine.layers.moe import Experts
from tokenwell.engine.layers.norm import Join, RmsNorm
from tokenwell.engine.layers.per_layer import PerLayerGate, PerLayerInputs
from tokenwell.engine.layers.router import Router
from tokenwell.engine.run.batch import Batch, GroupBatch
from tokenwell.engine.run.mask import Mask
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.sampler import draw
from tokenwell.engine.run.worker import Worker
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.wire.cache import KvGroup, sequence_pages
from tokenwell.wire.messages import Choice, Generate
from tokenwell.wire.sampling import Sampling

log = logging.getLogger("tokenwell.engine")

# Relative error (norm of the difference over norm) of one layer's output: some roundings of the dtype.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 4e-2}
QUANTISED = 0.12  # where activations are rounded to e4m3, too: 2.6 % for each factor, for two products one after the other
_DIFFERENT = 0.3  # of chosen experts and tokens: near ties fall either way

# What a model calls. Blocks that consist of these alone need not be named.
WATCHED: tuple[tuple[type, str], ...] = (
    (RmsNorm, "__call__"), (RmsNorm, "of_sum"), (Join, "__call__"), (Gated, "__call__"), (Gated, "times"), (Linear, "__call__"),
    (Head, "__call__"), (Attention, "front"), (PerLayerInputs, "__call__"), (PerLayerGate, "__call__"), (Experts, "__call__"),
    (Router, "_route"),
)  # fmt: skip
_WRITING, _CHOOSING = "Attention.front", "Router._route"
SAMPLINGS = {
    "greedy": [Sampling(temperature=0.0)],
    "random": [Sampling(temperature=1.0), Sampling(temperature=0.6)],
    "filtered": [Sampling(top_k=40), Sampling(top_p=0.9), Sampling(min_p=0.02), Sampling(temperature=0.7, top_k=100, top_p=0.8)],
}
_SEEDS = 4

PROMPTS = (40, 1, 23, 2)  # tokens; one joins in every second step
_ROWS, _STEP_TOKENS, _WINDOW = len(PROMPTS), 48, 64

MakeWorker = Callable[[int, int, int], Worker]  # from pages, rows and window


@dataclass(frozen=True)
class Finding:
    """One kind of call whose kernels are wrong."""

    call: str
    families: tuple[str, ...]  # that are not used any more
    what: str


def check(
    make: MakeWorker, groups: tuple[KvGroup, ...], dtype: torch.dtype, quantised: bool, steps: Sequence[Callable[[], None]] = ()
) -> list[Choice]:
    """Run the golden prompts; what was found wrong, as choices. A worker of few pages is made for it and forgotten.

    `dtype` is what is computed in; `quantised`: activations may be rounded to e4m3, too. `steps` are taken on accelerators while
    kernels are compiled, for what they compile themselves.
    """
    pages = _ROWS * sequence_pages(_WINDOW, _STEP_TOKENS, groups) + 1
    worker = make(pages, _ROWS, _WINDOW)
    watch = Watch(QUANTISED if quantised else TOLERANCE[dtype])
    model = type(worker.model)
    lookup = ((model, "_embed"),) if hasattr(model, "_embed") else ()
    with watch.over((*WATCHED, *lookup)), trust.plain(), _plain_attention():
        watch.keep_choices(worker.model.facts.vocabulary, worker.device)
        _run(worker, Scheduler(groups, pages, _ROWS, _STEP_TOKENS, _WINDOW, prefix_cache=False))
    findings = watch.compare(worker.device, steps)
    if not findings:
        return [Choice("golden prompts", "passed", f"{len(watch.calls)} kinds of calls agree with plain torch")]
    return [Choice(f"kernels of {', '.join(found.families)}", "plain torch", f"{found.call} {found.what}") for found in findings]


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Meanwhile layers attend as the reference does: backends were compared before, and this waits for no compiler."""
    chosen = Attention.attend
    Attention.attend = partialmethod(chosen, backend=ReferenceAttention())  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Attention.attend = chosen  # type: ignore[method-assign]


def _run(worker: Worker, scheduler: Scheduler) -> None:
    vocabulary = worker.model.facts.vocabulary
    waiting = []
    for index, length in enumerate(PROMPTS):
        prompt = [(7 * place + 31 * index) % vocabulary for place in range(length)]
        waiting.append(Generate(str(index), prompt, Sampling(max_tokens=4, temperature=0.0)))
    steps = 0
    while True:
        if waiting and steps % 2 == 0:
            scheduler.add(waiting.pop(0))
        plan = scheduler.schedule()
        if plan is None and not waiting:
            break
        steps += 1
        if plan is not None:
            scheduler.apply(worker.run(plan))
    worker.forget_rows()


@dataclass(frozen=True)
class Call:
    """One kind of call: how to make it again, and the tensors that it brings in plain torch."""

    name: str
    work: Callable[[], list[torch.Tensor]]
    expected: list[torch.Tensor]


class Watch:
    """Keeps calls while they happen in plain torch, and compares them with those of kernels."""

    def __init__(self, tolerance: float) -> None:
        self.calls: list[Call] = []
        self._tolerance = tolerance
        self._results: dict[Any, Any] = {}  # by kind
        self._inside = False  # a call that is kept makes others: these are its own

    @contextmanager
    def over(self, watched: Sequence[tuple[type, str]]) -> Iterator[None]:
        """Meanwhile the first call of each kind is kept."""
        before = [(owner, name, getattr(owner, name)) for owner, name in watched]
        try:
            for owner, name, method in before:
                setattr(owner, name, self._watched(method, f"{owner.__name__}.{name}".removesuffix(".__call__")))
            yield
        finally:
            for owner, name, method in before:
                setattr(owner, name, method)

    def _watched(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(method)
        def kept(layer: object, *given: Any, **named: Any) -> Any:
            if self._inside:
                return method(layer, *given, **named)
            kind = (name, shapes(list(vars(layer).values())), shapes(given), shapes(list(named.values())))
            if kind not in self._results:
                self._inside = True
                try:
                    again = partial(method, layer)
                    self._results[kind] = self._keep(name, layer, again, _fresh(given), _fresh(named))
                finally:
                    self._inside = False
            return _fresh(self._results[kind])

        return kept

    def _keep(self, name: str, layer: object, again: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Keep a call; what it returns."""
        caches = _caches(layer, given)

        def work() -> tuple[Any, list[torch.Tensor]]:
            return _with_caches(lambda: again(*_fresh(given), **_fresh(named)), caches)

        result, expected = work()
        self.calls.append(Call(name, lambda: work()[1], expected))
        return result

    def keep_choices(self, vocabulary: int, device: torch.device) -> None:
        """Keep calls that choose tokens from random logits: the best, by chance, and by chance of what filters leave."""
        generator = torch.Generator(device).manual_seed(1)
        for name, samplings in SAMPLINGS.items():
            rows = [Row(seed, [0], 1, msgspec.structs.replace(one, seed=seed)) for seed, one in enumerate(samplings * _SEEDS)]
            logits = 4 * torch.randn(len(rows), vocabulary, generator=generator, device=device)
            # One row in two may not take every second token.
            places = list(range(0, len(rows), 2))
            mask = Mask(places, np.full((len(places), -(-vocabulary // 8)), 0b01010101, dtype=np.uint8))

            def work(logits: torch.Tensor = logits, rows: list[Row] = rows, mask: Mask = mask) -> list[torch.Tensor]:
                return [draw(logits.clone(), rows, mask).tokens]

            self.calls.append(Call(f"draw, {name},", work, work()))

    def compare(self, device: torch.device, steps: Sequence[Callable[[], None]] = ()) -> list[Finding]:
        """Make the calls with kernels, and take `steps` meanwhile; the families that were wrong are not trusted any more."""
        if device.type != "cpu":
            # Layers that write into a cache would do so at the same time. What the others bring is judged below.
            side_by_side([*steps, *(call.work for call in self.calls if call.name != _WRITING)], device)
        findings = []
        for call in self.calls:
            wrong = self._difference(call)
            if wrong is None:
                continue
            blamed = tuple(family for family in trust.FAMILIES if self._agrees_without(family, call))[:1] or trust.FAMILIES
            for family in blamed:
                trust.distrust(family, f"{call.name} {wrong}")
            findings.append(Finding(call.name, blamed, wrong))
            log.warning("kernels of %s are not used: %s %s", ", ".join(blamed), call.name, wrong)
        return findings

    def _agrees_without(self, family: str, call: Call) -> bool:
        with trust.plain(family):
            return self._difference(call) is None

    def _difference(self, call: Call) -> str | None:
        """What is wrong with the kernels' result; None when it agrees."""
        try:
            with torch.inference_mode():
                actual = call.work()
        except Exception as failure:  # whatever a compiler or driver raises
            return f"fails with {_words(failure)}"
        expected = call.expected
        if call.name == _CHOOSING:
            actual, expected = _where_agreed(*actual, *expected)
        for one, other in zip(actual, expected, strict=True):
            error, allowed = self._error(one, other)
            if not error <= allowed:  # NaN is no agreement
                return f"is off by {error:.2g} from plain torch, {allowed:.2g} is allowed"
        return None

    def _error(self, actual: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
        """How far apart two results are, and how far they may be."""
        if not actual.is_floating_point():
            return float((actual != expected).float().mean()), _DIFFERENT
        one, other = actual.float(), expected.float()
        return float((one - other).norm() / other.norm().clamp_min(1e-20)), self._tolerance


def _where_agreed(
    chosen: torch.Tensor, share: torch.Tensor, expected: torch.Tensor, expected_share: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Experts and shares [tokens, k] to be compared with others: in their order, and shares of experts that both chose."""
    same = expected[:, :, None] == chosen[:, None, :]
    both = same.any(-1)
    shares = (share[:, None, :] * same).sum(-1)
    return [torch.where(both, expected, -1), shares[both]], [expected, expected_share[both]]


def _caches(layer: object, given: Sequence[Any]) -> list[torch.Tensor]:
    """What a layer writes into."""
    if not isinstance(layer, Attention) or not layer.heads.owns:
        return []
    found = next(batch for batch in given if isinstance(batch, Batch)).caches[layer.owner.layer]
    return [found.v] if found.fold is not None else [found.k, found.v]


def _with_caches(work: Callable[[], Any], caches: Sequence[torch.Tensor]) -> tuple[Any, list[torch.Tensor]]:
    """What a call returns; the tensors of that, and what it writes into empty caches, which are then as they were before."""
    before = [half.clone() for half in caches]  # of so small a pool
    try:
        for half in caches:
            half.zero_()
        result = work()
        found = [tensor.clone() for tensor in (result if isinstance(result, tuple) else (result,))]
        found += [half.to(torch.bfloat16 if half.dtype.itemsize == 1 else half.dtype, copy=True) for half in caches]
        return result, found
    finally:
        for half, old in zip(caches, before, strict=True):
            half.copy_(old)


def _fresh(given: Any) -> Any:
    """Arguments for one more call: tensors may be overwritten, and what a step prepared once is of one way to compute."""
    if isinstance(given, torch.Tensor):
        return given.clone()
    if isinstance(given, Batch):
        groups = tuple(GroupBatch(group.page_tokens, group.table.clone()) for group in given.groups)  # later steps change them
        return replace(given, groups=groups, scratch={})
    if isinstance(given, dict):
        return {name: _fresh(value) for name, value in given.items()}
    if isinstance(given, tuple | list):
        return type(given)(_fresh(value) for value in given)
    return given


def _words(failure: Exception) -> str:
    said = str(failure).splitlines()
    return f"{type(failure).__name__}: {said[0] if said else 'without a word'}"
