"""Golden prompts at load: every kind of call that a model makes to kernels is compared with plain torch on the same device.

A few short prompts go through the model as requests do (a prompt, single tokens, both mixed). The first call of each kind, told
by layer type and shapes, is made twice, with kernels and without. Where they disagree, the family of kernels to blame is not
used from then on, which is logged and among the engine's choices. Attention is compared where its backend is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch

from tokenwell.engine.kernels import trust
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.attention import Attention, CacheOwner
from tokenwell.engine.layers.embedding import Head
from tokenwell.engine.layers.linear import Linear
from tokenwell.engine.layers.moe import Experts
from tokenwell.engine.layers.norm import Join, RmsNorm
from tokenwell.engine.layers.per_layer import PerLayerGate, PerLayerInputs
from tokenwell.engine.run.batch import Batch
from tokenwell.engine.run.worker import Worker
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.wire.cache import KvGroup, sequence_pages
from tokenwell.wire.messages import Choice, Generate
from tokenwell.wire.sampling import Sampling

log = logging.getLogger("tokenwell.engine")

# Relative error (norm of the difference over norm) of one layer's output: some roundings of the dtype.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 4e-2}
QUANTISED = 0.12  # where activations are rounded to e4m3, too: 2.6 % for each factor, for two products one after the other
_DIFFERENT = 0.3  # of chosen experts: near ties fall either way

# What a model calls. Blocks that consist of these alone need not be named.
WATCHED: tuple[tuple[type, str], ...] = (
    (RmsNorm, "__call__"), (RmsNorm, "of_sum"), (Join, "__call__"), (Gated, "__call__"), (Gated, "times"), (Linear, "__call__"),
    (Head, "__call__"), (Attention, "front"), (PerLayerInputs, "__call__"), (PerLayerGate, "__call__"), (Experts, "__call__"),
)  # fmt: skip
PROMPTS = (40, 1, 23, 7, 2, 5)  # tokens; one joins in every second step
_ROWS, _STEP_TOKENS, _WINDOW = len(PROMPTS), 48, 64

MakeWorker = Callable[[int, int, int], Worker]  # from pages, rows and window


@dataclass(frozen=True)
class Finding:
    """One kind of call whose kernels are wrong."""

    call: str
    families: tuple[str, ...]  # that are not used any more
    what: str


def check(make: MakeWorker, groups: tuple[KvGroup, ...], quantised: bool) -> list[Choice]:
    """Run the golden prompts; what was found wrong, as choices. A worker of few pages is made for it and forgotten."""
    pages = _ROWS * sequence_pages(_WINDOW, _STEP_TOKENS, groups) + 1
    worker = make(pages, _ROWS, _WINDOW)
    watch = Watch(quantised)
    with watch.over(WATCHED):
        _run(worker, Scheduler(groups, pages, _ROWS, _STEP_TOKENS, _WINDOW, prefix_cache=False))
    choices = [
        Choice(f"kernels of {', '.join(found.families)}", "plain torch", f"{found.call}: {found.what}")
        for found in watch.findings
    ]
    if not choices:
        choices.append(Choice("golden prompts", "passed", f"{watch.compared} kinds of calls agree with plain torch"))
    return choices


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


class Watch:
    """Compares calls with plain torch while they happen."""

    def __init__(self, quantised: bool) -> None:
        self.findings: list[Finding] = []
        self.compared = 0
        self._quantised = quantised
        self._seen: set[Any] = set()
        self._inside = False  # a call that is being compared makes others: these are its own

    @contextmanager
    def over(self, watched: Sequence[tuple[type, str]]) -> Iterator[None]:
        """Meanwhile these methods are compared at their first call of each kind."""
        before = [(owner, name, getattr(owner, name)) for owner, name in watched]
        try:
            for owner, name, method in before:
                setattr(owner, name, self._watched(method, f"{owner.__name__}.{name}".removesuffix(".__call__")))
            yield
        finally:
            for owner, name, method in before:
                setattr(owner, name, method)

    def _watched(self, method: Callable[..., Any], call: str) -> Callable[..., Any]:
        @wraps(method)
        def compared(layer: object, *given: Any, **named: Any) -> Any:
            kind = (call, _shapes(list(vars(layer).values())), _shapes(given), _shapes(list(named.values())))
            if self._inside or kind in self._seen:
                return method(layer, *given, **named)
            self._seen.add(kind)
            self._inside = True
            try:
                return self._compare(call, lambda: method(layer, *_fresh(given), **_fresh(named)), given)
            finally:
                self._inside = False

        return compared

    def _compare(self, call: str, work: Callable[[], Any], given: Sequence[Any]) -> Any:
        """The call's result: of the kernels where they agree, else of plain torch."""
        with trust.plain():
            try:
                expected = _with_cache(work, given)
            except Exception as failure:  # there is no plain form: nothing to compare with
                log.info("%s has no plain form to compare with: %s", call, _words(failure))
                return work()
        self.compared += 1
        wrong = self._difference(work, given, expected)
        if wrong is None:
            return work()
        blamed = tuple(family for family in trust.FAMILIES if self._agrees_without(family, work, given, expected))[:1]
        for family in blamed or trust.FAMILIES:
            trust.distrust(family, f"{call}: {wrong}")
        self.findings.append(Finding(call, blamed or trust.FAMILIES, wrong))
        log.warning("kernels of %s are not used: %s %s", ", ".join(blamed) or "all families", call, wrong)
        return work()

    def _agrees_without(self, family: str, work: Callable[[], Any], given: Sequence[Any], expected: list[torch.Tensor]) -> bool:
        with trust.plain(family):
            return self._difference(work, given, expected) is None

    def _difference(self, work: Callable[[], Any], given: Sequence[Any], expected: list[torch.Tensor]) -> str | None:
        """What is wrong with the kernels' result; None when it agrees."""
        try:
            actual = _with_cache(work, given)
        except Exception as failure:  # whatever a compiler or driver raises
            return f"fails with {_words(failure)}"
        for one, other in zip(actual, expected, strict=True):
            error, allowed = self._error(one, other)
            if not error <= allowed:  # NaN is no agreement
                return f"is off by {error:.2g} from plain torch, {allowed:.2g} is allowed"
        return None

    def _error(self, actual: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
        if not actual.is_floating_point():
            return float((actual != expected).float().mean()), _DIFFERENT
        allowed = QUANTISED if self._quantised else TOLERANCE.get(actual.dtype, TOLERANCE[torch.bfloat16])
        one, other = actual.float(), expected.float()
        return float((one - other).norm() / other.norm().clamp_min(1e-20)), allowed


def _with_cache(work: Callable[[], Any], given: Sequence[Any]) -> list[torch.Tensor]:
    """The tensors that a call returns, and the caches that it wrote into, which are then as they were before."""
    caches = [half for batch in given if isinstance(batch, Batch) for cache in batch.caches for half in (cache.k, cache.v)]
    before = [half.clone() for half in caches]  # of so small a pool
    try:
        result = work()
        found = [tensor.clone() for tensor in (result if isinstance(result, tuple) else (result,))]
        return found + [half.to(torch.bfloat16 if half.dtype.itemsize == 1 else half.dtype, copy=True) for half in caches]
    finally:
        for half, old in zip(caches, before, strict=True):
            half.copy_(old)


def _fresh(given: Any) -> Any:
    """Arguments for one more call: tensors may be overwritten, and what a step prepared once is of one way to compute."""
    if isinstance(given, torch.Tensor):
        return given.clone()
    if isinstance(given, Batch):
        return replace(given, scratch={})
    if isinstance(given, dict):
        return {name: _fresh(value) for name, value in given.items()}
    if isinstance(given, tuple | list):
        return type(given)(_fresh(value) for value in given)
    return given


def _shapes(values: Sequence[Any], depth: int = 2) -> tuple[Any, ...]:
    """What tells calls apart: shapes and dtypes of tensors, and of those inside the layers that are passed."""
    told: list[Any] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            told.append((tuple(value.shape), value.dtype))
        elif isinstance(value, str | int | float | bool | type(None)):
            told.append(value)
        elif depth and type(value).__module__.startswith("tokenwell.engine.") and not isinstance(value, Batch | CacheOwner):
            told.append((type(value).__name__, _shapes(list(getattr(value, "__dict__", {}).values()), depth - 1)))
    return tuple(told)


def _words(failure: Exception) -> str:
    said = str(failure).splitlines()
    return f"{type(failure).__name__}: {said[0] if said else 'without a word'}"
