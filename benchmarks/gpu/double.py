"""A loaded model's double: the same weights written out in float32, the same layers in plain torch.

Which code a number gets and which experts a token gets are decisions: a number near the middle between two codes, or a token
near a tie, falls either way by its last bit, and the result is as right one way as the other. So the double can take the
engine's decisions over, and judges each of them by what it would have decided itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as functional

from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.attention.spec import FP8, LayerCache
from tokenwell.engine.layers.attention import Attention
from tokenwell.engine.layers.linear import Linear, PlainWeight
from tokenwell.engine.layers.moe import Experts
from tokenwell.engine.layers.norm import RmsNorm
from tokenwell.engine.layers.quantised import Fp8Weight, Int4Weight
from tokenwell.engine.layers.rotary import Rotary
from tokenwell.engine.layers.router import Router
from tokenwell.engine.platform import accelerator
from tokenwell.engine.run.batch import Batch
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.experts import ExpertMatrix
from tokenwell.engine.weights.quant.fp8 import DTYPE, LARGEST

Key = tuple[int, int]  # of whom, and which of its inputs


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The norm of the difference over the norm."""
    exact = exact.float()
    return float((found.float() - exact).norm() / exact.norm().clamp_min(1e-30))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """x [tokens, width] as e4m3 with a scale for each token would hold it, float32."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-30) / LARGEST
    return (x / scale).clamp(-LARGEST, LARGEST).to(DTYPE).float() * scale


@dataclass
class Decisions:
    """What the engine decided in one step, by the layers' identities."""

    codes: dict[Key, torch.Tensor] = field(default_factory=dict)  # [tokens, width] float32: what codes stand for
    chosen: dict[int, torch.Tensor] = field(default_factory=dict)  # [tokens, k]: expert ids
    shared: bool = True  # the double takes them over; else it makes its own where the engine made some
    judged: bool = False  # and says how good they are
    rounding: float = 1.0  # the worst: how far codes are from the double's numbers, over how far its own codes are
    regret: float = 0.0  # the worst: by how much a better expert was passed over, in deviations of the router's logits
    others: list[float] = field(default_factory=list)  # share of tokens whose experts the double would not have chosen

    def forget(self) -> None:
        """The step is over."""
        self.codes.clear()
        self.chosen.clear()

    def activations(self, key: Key, x: torch.Tensor) -> torch.Tensor:
        """What a product gets for x [tokens, width]."""
        taken = self.codes.get(key)
        if taken is None:
            return x
        if not self.shared:
            return rounded(x)
        if self.judged:
            self.judge(taken, x)
        return taken

    def judge(self, taken: torch.Tensor, x: torch.Tensor) -> None:
        """Note how far what was taken for x is from it."""
        own = relative(rounded(x), x)
        self.rounding = max(self.rounding, relative(taken, x) / max(own, 1e-6))

    def experts(self, router: int, logits: torch.Tensor, count: int) -> torch.Tensor:
        """Expert ids [tokens, count] for the router's logits [tokens, experts]."""
        best, own = logits.topk(count, dim=-1)
        taken = self.chosen.get(router)
        if taken is None or not self.shared:
            return own
        if self.judged:
            passed = (best[:, -1] - logits.gather(-1, taken).amin(-1)) / logits.std(-1)
            self.regret = max(self.regret, float(passed.max()))
            self.others.append(float((passed > 0).float().mean()))
        return taken


class DoubleWeight:
    """A matrix in float32 for a weight of any format."""

    def __init__(self, matrix: torch.Tensor, decisions: Decisions, of: int) -> None:
        self.matrix = matrix
        self.decisions = decisions
        self.of = of

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return int(self.matrix.nbytes)

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None, before: Any = None) -> torch.Tensor:
        x = x if before is None else before(x)
        return functional.linear(self.decisions.activations((self.of, 0), x), self.matrix, bias)

    def is_few(self, x: torch.Tensor) -> bool:
        return False

    def few(self, x: torch.Tensor, bias: torch.Tensor | None, around: Any) -> None:
        return None


class DoubleRouter(Router):
    """A router whose choice may be the engine's; shares are its own."""

    def __init__(self, router: Router, project: Linear, norm: RmsNorm | None, decisions: Decisions) -> None:
        super().__init__(project, router.chosen, over_chosen=router.over_chosen, norm=norm, factor=router.factor)
        self.decisions = decisions
        self.of = id(router)

    def _route(self, x: torch.Tensor, norm: RmsNorm | None) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.project(x, before=norm)
        chosen = self.decisions.experts(self.of, logits, self.chosen)
        share = logits.softmax(-1).gather(-1, chosen)
        if self.over_chosen:
            share = share / share.sum(-1, keepdim=True)
        return chosen, share if self.factor is None else share * self.factor[chosen]


class DoubleExperts:
    """Experts in float32, one after the other, written out when they are needed: all at once they would not fit."""

    def __init__(self, experts: Experts, decisions: Decisions) -> None:
        self.gate_up, self.down = experts.gate_up, experts.down
        self.gated = experts.gated
        self.ranks = experts.ranks
        self.decisions = decisions
        self.of = id(experts)

    def __call__(
        self, x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor, plus: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As Experts."""
        tokens, count = chosen.shape
        inputs = self.decisions.activations((self.of, 0), x).repeat_interleave(count, 0)
        slots = chosen.flatten()
        hidden = self.gated(_each(inputs, slots, self.gate_up))
        y = _each(self.decisions.activations((self.of, 1), hidden), slots, self.down)
        y = (y.unflatten(0, (tokens, count)) * share[..., None]).sum(1)
        return y if plus is None else y + plus


def _each(x: torch.Tensor, slots: torch.Tensor, stack: ExpertMatrix) -> torch.Tensor:
    """x [slots, in] through the expert of each slot: [slots, out]"""
    out = torch.empty((len(x), stack.rows), device=x.device)
    for expert in slots.unique().tolist():
        places = (slots == expert).nonzero()[:, 0]
        only = slice(expert, expert + 1)
        matrix = ExpertMatrix(stack.codes[only], None if stack.scales is None else stack.scales[only]).dense(torch.float32)[0]
        out[places] = functional.linear(x[places], matrix, None if stack.bias is None else stack.bias[expert].float())
    return out


def double(thing: Any, decisions: Decisions, made: dict[Any, Any] | None = None) -> Any:
    """The double of a model, or of any part of one."""
    made = {} if made is None else made
    key = (thing.data_ptr(), thing.shape, thing.dtype) if isinstance(thing, torch.Tensor) else id(thing)
    if key not in made:
        made[key] = _double(thing, decisions, made)
    return made[key]


def _double(thing: Any, decisions: Decisions, made: dict[Any, Any]) -> Any:
    def part(inner: Any) -> Any:
        return double(inner, decisions, made)

    if isinstance(thing, torch.Tensor):
        return thing.float() if thing.is_floating_point() else thing
    if isinstance(thing, PlainWeight):
        return DoubleWeight(part(thing.matrix), decisions, id(thing))
    if isinstance(thing, Fp8Weight | Int4Weight):
        return DoubleWeight(thing.matrix.dense(torch.float32), decisions, id(thing))
    if isinstance(thing, Linear):
        return Linear(part(thing.weight), part(thing.bias), thing.ranks, thing.reduce)
    if isinstance(thing, Router):
        return DoubleRouter(thing, part(thing.project), part(thing.norm), decisions)
    if isinstance(thing, Experts):
        return DoubleExperts(thing, decisions)
    if isinstance(thing, Attention):
        spec = replace(thing.spec, dtype=torch.float32, kv_dtype=None, folded=False)
        return Attention(spec, thing.owner, ReferenceAttention(), part(thing.heads), part(thing.rotary), part(thing.sinks))
    if isinstance(thing, Rotary):
        return Rotary(thing.spec, thing.frequencies.device, torch.float32)
    return _rebuilt(thing, part)


def _rebuilt(thing: Any, part: Any) -> Any:
    """The same kind of thing with doubles in it."""
    if isinstance(thing, list | tuple):
        return type(thing)(part(inner) for inner in thing)
    if not type(thing).__module__.startswith("tokenwell.engine.") or isinstance(thing, Ranks):
        return thing
    if is_dataclass(thing):
        return replace(thing, **{one.name: part(getattr(thing, one.name)) for one in fields(thing)})  # type: ignore[type-var]
    made = object.__new__(type(thing))
    for name, inner in vars(thing).items():
        setattr(made, name, part(inner))
    return made


# ---------------------------------------------------------------- caches and batches


@dataclass(frozen=True)
class SharedCache(LayerCache):
    """The engine's own cache of 8-bit numbers: what it stored are decisions, too."""

    decisions: Decisions | None = None

    def write(self, k: torch.Tensor, v: torch.Tensor, slots: tuple[torch.Tensor, torch.Tensor]) -> None:
        """It is written already."""
        if self.decisions is None or not self.decisions.judged:
            return
        for x, cache, scale in ((k, self.k, self.k_scale), (v, self.v, self.v_scale)):
            own = (x / scale).clamp(-LARGEST, LARGEST).to(FP8).float() * scale
            found = cache[slots].float() * scale
            self.decisions.rounding = max(self.decisions.rounding, relative(found, x) / max(relative(own, x), 1e-6))


def caches_for(caches: Sequence[LayerCache], dtype: torch.dtype | None, decisions: Decisions | None = None) -> list[LayerCache]:
    """By layer, caches that hold keys and values like the engine's, unfolded and in `dtype`; None: share those in 8 bits."""
    made: dict[int, LayerCache] = {}
    for cache in caches:
        if id(cache) in made:
            continue
        if dtype is None and cache.v.dtype == FP8 and cache.fold is None:
            made[id(cache)] = SharedCache(cache.k, cache.v, cache.k_scale, cache.v_scale, decisions=decisions)
        else:
            k, v = (torch.zeros(cache.v.shape, dtype=dtype or torch.float32, device=cache.v.device) for _ in range(2))
            made[id(cache)] = LayerCache(k, v, cache.k_scale, cache.v_scale)
    return [made[id(cache)] for cache in caches]


def with_caches(batch: Batch, caches: Sequence[LayerCache]) -> Batch:
    """The same rows over other caches."""
    tail = None if batch.tail is None else with_caches(batch.tail, caches)
    return replace(batch, caches=caches, tail=tail, scratch={})


# ---------------------------------------------------------------- listening to the engine


@contextmanager
def noted(decisions: Decisions, device: torch.device) -> Iterator[None]:
    """Meanwhile the engine's decisions are noted."""
    patches: list[tuple[Any, str, Any]] = [(Fp8Weight, "of_codes", _of_codes(decisions)), (Router, "_route", _route(decisions))]
    if accelerator.kernels_reason_not(device) is None:
        patches += _of_experts(decisions)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, put in patches:
            setattr(owner, name, put)
        yield
    finally:
        for owner, name, was in before:
            setattr(owner, name, was)


def _of_codes(decisions: Decisions) -> Any:
    plain = Fp8Weight.of_codes

    def of_codes(weight: Fp8Weight, x: Any, *given: Any, **named: Any) -> torch.Tensor:
        decisions.codes[id(weight), 0] = x.dense()
        return plain(weight, x, *given, **named)

    return of_codes


def _route(decisions: Decisions) -> Any:
    plain = Router._route

    def route(router: Router, x: torch.Tensor, norm: RmsNorm | None) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, share = plain(router, x, norm)
        decisions.chosen[id(router)] = chosen.to(torch.int64)
        return chosen, share

    return route


def _of_experts(decisions: Decisions) -> list[tuple[Any, str, Any]]:
    """Experts quantise inside: their inputs, then the hidden values of the slots, which lie in the experts' order."""
    from tokenwell.engine.kernels import experts_grouped, experts_many, fp8

    whose: list[Experts] = []
    orders: list[torch.Tensor] = []
    kernels, quantise = Experts._kernels, fp8.quantise_tokens
    sort, multiply = experts_many.sort, experts_grouped._multiply

    def noted_kernels(experts: Experts, *given: Any) -> torch.Tensor:
        whose[:] = [experts]
        return kernels(experts, *given)

    def note_hidden(by_expert: torch.Tensor) -> None:
        decisions.codes[id(whose[0]), 1] = torch.empty_like(by_expert).index_copy_(0, orders[0].to(torch.int64), by_expert)

    def noted_quantise(x: torch.Tensor) -> Any:
        made = quantise(x)
        if (id(whose[0]), 0) in decisions.codes:
            note_hidden(made.dense())
        else:
            decisions.codes[id(whose[0]), 0] = made.dense()
        return made

    def noted_sort(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        order, starts = sort(*given)
        orders[:] = [order]
        return order, starts

    def noted_multiply(x: torch.Tensor, scale: torch.Tensor | None, weight: Any, ends: torch.Tensor) -> torch.Tensor:
        if scale is not None and weight is whose[0].down:
            note_hidden(x.float() * scale[:, None])
        return multiply(x, scale, weight, ends)

    return [
        (Experts, "_kernels", noted_kernels),
        (experts_many, "quantise_tokens", noted_quantise),
        (experts_many, "sort", noted_sort),
        (experts_grouped, "quantise_tokens", noted_quantise),
        (experts_grouped, "_multiply", noted_multiply),
    ]
