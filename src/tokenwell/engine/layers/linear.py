"""Linear maps: y = x W^T + b. A weight format is an object that a Linear has; the plain one is here, others in `quantised`.

What stands around a product goes through its call, so that one kernel can do it all where one serves: what is applied to
the input (a norm), what to the output (the gated activation), and what is added.

Splits over ranks: "column" splits output rows (nothing to exchange afterwards), "row" splits input columns and sums the
results over the ranks, None keeps the whole map on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as functional

from tokenwell.checkpoint import shard
from tokenwell.engine.kernels import cpu_linear, trust
from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.norm import RmsNorm, Stream
from tokenwell.engine.platform import accelerator
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.quant import read
from tokenwell.engine.weights.quant.read import Part, Split
from tokenwell.engine.weights.source import Source

__all__ = ["FEW_TOKENS", "Around", "Linear", "Part", "PlainWeight", "Split", "Weight", "even_part", "few"]

FEW_TOKENS = 16  # as many at most are multiplied by kernels of ours on accelerators


@dataclass(frozen=True)
class Around:
    """What one kernel does around a product of few tokens: (act(W norm(x) + b) + plus), soft-capped, in `dtype`."""

    norm: RmsNorm | None = None
    gated: Gated | None = None
    plus: torch.Tensor | None = None  # [tokens, out]
    softcap: float | None = None
    dtype: torch.dtype | None = None  # of the result; None: that of x


class Weight(Protocol):
    """How a matrix is stored and multiplied."""

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        ...

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None, before: RmsNorm | Gated | None = None) -> torch.Tensor:
        """before(x) [tokens, in] -> [tokens, out], for any number of tokens."""
        ...

    def is_few(self, x: torch.Tensor) -> bool:
        """Whether x [tokens, in] is so few tokens that `few` does them."""
        ...

    def few(self, x: torch.Tensor, bias: torch.Tensor | None, around: Around) -> torch.Tensor | None:
        """Everything by one kernel; None where none serves."""
        ...


@runtime_checkable
class CodedWeight(Protocol):
    """A weight whose product may be in e4m3."""

    def takes_codes(self, dtype: torch.dtype) -> bool:
        """Whether several tokens in `dtype` are multiplied in e4m3."""
        ...

    def codes(self, x: torch.Tensor, before: RmsNorm | Gated | None) -> Codes:
        """before(x) in e4m3; x is [tokens, in], or what a product in parts gave."""
        ...

    def of_codes(self, x: Codes, bias: torch.Tensor | None, *, in_parts: bool = False) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out]; in parts: or [parts, tokens, out] float32, whose sum is meant"""
        ...


class PlainWeight:
    """A dense matrix [out, in] in the compute dtype, multiplied by a kernel of ours where one serves it."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self._prepared = cpu_linear.prepare(matrix) if cpu_linear.reason_not(matrix) is None else None

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None, before: RmsNorm | Gated | None = None) -> torch.Tensor:
        if before is not None:
            x = before(x)
        if self._prepared is not None:
            return cpu_linear.linear(x, self._prepared, bias)
        return functional.linear(x, self.matrix, bias)

    def is_few(self, x: torch.Tensor) -> bool:
        return len(x) <= FEW_TOKENS

    def few(self, x: torch.Tensor, bias: torch.Tensor | None, around: Around) -> torch.Tensor | None:
        return few(x, self.matrix, bias, around)


class Linear:
    """A linear map of one layer, on this rank."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, ranks: Ranks, reduce: bool = False) -> None:
        self.weight = weight
        self._coded = weight if isinstance(weight, CodedWeight) else None
        self.bias = bias
        self.ranks = ranks
        self.reduce = reduce

    def __call__(
        self,
        x: torch.Tensor | Codes,
        *,
        before: RmsNorm | Gated | None = None,
        after: Gated | None = None,
        plus: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """after(W before(x) + b) + plus: [tokens, in on this rank] -> [tokens, out on this rank].

        `after` takes the first half of W's rows for the gate; `plus` has the result's shape. Codes only where `takes_codes` says
        so, and as they are.
        """
        # What is added is added once, not once a rank.
        added = plus if not self.reduce or self.ranks.rank == 0 else None
        y = None if isinstance(x, Codes) else self._few(x, before, after, added)
        if y is None:
            y = self._many(x, before)
            if after is not None:
                y = after(y)
            if added is not None:
                y = y + added
        return self.ranks.all_reduce(y) if self.reduce else y

    def fuses(self, x: torch.Tensor | Codes) -> bool:
        """Whether what stands around the product of x [tokens, in] costs no kernels of its own, if its kernel is trusted."""
        return not isinstance(x, Codes) and self.weight.is_few(x) and accelerator.kernels_reason_not(x.device) is None

    def onto(
        self, x: torch.Tensor, y: torch.Tensor | Codes, following: RmsNorm, *, coded: bool, before: Gated | None = None
    ) -> Stream:
        """x [tokens, out] + W before(y) + b, and the norm of that unless the next product does it on the way.

        `coded`: the norm's reader wants it in e4m3.
        """
        if self.fuses(y):
            return Stream(self(y, before=before, plus=x))
        added = self.in_parts(y, before=before)
        return Stream(*(following.of_sum_coded(x, added) if coded else following.of_sum(x, added)))

    def in_parts(self, x: torch.Tensor | Codes, *, before: RmsNorm | Gated | None = None) -> torch.Tensor:
        """W before(x) + b [tokens, out], or float32 [parts, tokens, out] for a reader that adds the parts up on the way."""
        if self.reduce or not self.takes_codes(x):
            return self(x, before=before)
        assert self._coded is not None
        return self._coded.of_codes(x if isinstance(x, Codes) else self.codes(x, before), self.bias, in_parts=True)

    def codes(self, x: torch.Tensor, before: RmsNorm | Gated | None = None) -> Codes:
        """before(x) as the product takes it if it takes codes; x is [tokens, in] or what `in_parts` gave."""
        assert self._coded is not None
        return self._coded.codes(x, before)

    def takes_codes(self, x: torch.Tensor | Codes) -> bool:
        """Whether several tokens like x [tokens, in] are best given in e4m3."""
        if self._coded is None:
            return False
        if isinstance(x, Codes):
            return self._coded.takes_codes(torch.bfloat16)
        return len(x) > 1 and self._coded.takes_codes(x.dtype)

    def _many(self, x: torch.Tensor | Codes, before: RmsNorm | Gated | None) -> torch.Tensor:
        if isinstance(x, Codes):
            assert self._coded is not None
            assert before is None
            return self._coded.of_codes(x, self.bias)
        return self.weight.apply(x, self.bias, before)

    def _few(
        self, x: torch.Tensor, before: RmsNorm | Gated | None, after: Gated | None, plus: torch.Tensor | None
    ) -> torch.Tensor | None:
        if not self.fuses(x) or (after is not None and after.kind is None):
            return None
        # The kernel for several tokens has no norm: it would be computed again by every program.
        inside = isinstance(before, RmsNorm) and len(x) == 1 and (before.weight is None or before.weight.dim() == 1)
        if before is not None and not inside:
            x = before(x)
        return self.weight.few(x, self.bias, Around(before if inside else None, after, plus))  # type: ignore[arg-type]

    @classmethod
    def load(
        cls, source: Source, ranks: Ranks, name: str, inputs: int, outputs: int, *, bias: bool = False, split: Split = None
    ) -> Linear:
        """Read `<name>.weight` [outputs, inputs], however it is stored, and, if asked for, `<name>.bias` [outputs]."""
        keep = shard.even(outputs, ranks.rank, ranks.world) if split == "column" else (0, outputs)
        columns = shard.even(inputs, ranks.rank, ranks.world) if split == "row" else (0, inputs)
        weight = _weight(source, [Part(name, outputs, keep)], inputs, columns)
        vector = source.tensor(f"{name}.bias", (outputs,), rows=keep) if bias else None
        if split == "row" and ranks.rank:
            vector = None  # the bias is added once, not once a rank
        return cls(weight, vector, ranks, reduce=split == "row" and ranks.world > 1)

    @classmethod
    def load_fused(cls, source: Source, ranks: Ranks, parts: Sequence[Part], inputs: int, *, bias: bool = False) -> Linear:
        """Several maps of the same input as one: the parts' rows one after the other, each cut to what this rank keeps."""
        weight = _weight(source, parts, inputs, (0, inputs))
        vector = None
        if bias:
            vector = source.empty((sum(part.kept for part in parts),))
            offset = 0
            for part in parts:
                source.read_into(vector[offset : offset + part.kept], f"{part.name}.bias", (part.rows,), rows=part.keep)
                offset += part.kept
        return cls(weight, vector, ranks)


def even_part(name: str, rows: int, ranks: Ranks) -> Part:
    """The part of a matrix whose rows are dealt evenly to the ranks."""
    return Part(name, rows, shard.even(rows, ranks.rank, ranks.world))


def few(
    x: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None, around: Around, scales: torch.Tensor | None = None,
    group: int = 0,
) -> torch.Tensor | None:  # fmt: skip
    """The product of few tokens by `kernels.gemv`, if it serves; `scales` are those of e4m3 codes, one for `group` columns."""
    if trust.reason_not("gemv", x.device) is not None:
        return None
    from tokenwell.engine.kernels import gemv

    if gemv.reason_not(x, matrix, group) is not None:
        return None
    return gemv.linear(
        x, matrix, bias=bias, norm=None if around.norm is None else (around.norm.weight, around.norm.eps),
        activation=None if around.gated is None else around.gated.kind, residual=around.plus, softcap=around.softcap,
        dtype=around.dtype, scales=scales, group=group,
    )  # fmt: skip


def _weight(source: Source, parts: Sequence[Part], inputs: int, columns: tuple[int, int]) -> Weight:
    """The weight of the parts' rows, one after the other, and of these columns, in the format that the recipe gives it."""
    from tokenwell.engine.layers import quantised

    matrix = read.matrix(source, parts, inputs, columns)
    wrap: Callable[[Any], Weight] = PlainWeight if isinstance(matrix, torch.Tensor) else quantised.weight
    return wrap(matrix)
