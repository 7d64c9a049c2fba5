"""The weights of a mixture of experts: one matrix for each of some experts, as kernels read them, and how they are read.

Knows names of tensors and formats; no layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights import mxfp4
from tokenwell.engine.weights.quant import fp8, read
from tokenwell.engine.weights.quant.read import Part
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError

_PIECE = 1 << 25  # elements that are read before they are quantised

Split = Literal["width", "experts"]  # what is dealt to the ranks: a part of every expert, or whole experts
Span = tuple[int, int]
Fill = Callable[[torch.Tensor, range], None]  # reads these experts into a tensor [experts, rows, columns]


@dataclass(frozen=True)
class Deal:
    """What a rank holds: some experts, and of each the rows of gate and up and the columns of down in `width`."""

    experts: Span
    width: Span

    @property
    def count(self) -> int:
        return self.experts[1] - self.experts[0]

    @property
    def size(self) -> int:
        return self.width[1] - self.width[0]


def deal(experts: int, width: int, rank: int, world: int, split: Split = "width", block: int = 1) -> Deal:
    """The part of a rank; widths are multiples of `block` and may differ by one of them.

    Raises CheckpointError if there is less than one for each rank.
    """
    whole = experts if split == "experts" else width // block
    if width % block or whole < world:
        raise CheckpointError(
            f"{experts} experts of width {width} cannot be dealt to {world} ranks by {split}"
            f"{f' in blocks of {block}' if block > 1 else ''}. Use another number of ranks."
        )
    span = (whole * rank // world, whole * (rank + 1) // world)
    if split == "experts":
        return Deal(span, (0, width))
    return Deal((0, experts), (span[0] * block, span[1] * block))


@dataclass(frozen=True)
class ExpertMatrix:
    """A matrix [rows, columns] for each of some experts, contiguous.

    In a float dtype: codes [experts, rows, columns]. FP8: codes in e4m3 and scales [experts, rows] float32. MXFP4: codes
    [experts, rows, columns / 8] int32, eight elements a word, the lowest bits first, and scales [experts, rows, scale_columns]
    uint8, of which columns / 32 are used; see `mxfp4`.
    """

    codes: torch.Tensor
    scales: torch.Tensor | None = None
    bias: torch.Tensor | None = None  # [experts, rows]

    @property
    def packed(self) -> bool:
        """Whether this is MXFP4."""
        return self.codes.dtype == torch.int32

    @property
    def experts(self) -> int:
        return self.codes.shape[0]

    @property
    def rows(self) -> int:
        return self.codes.shape[1]

    @property
    def columns(self) -> int:
        return self.codes.shape[2] * (8 if self.packed else 1)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(tensor.nbytes for tensor in (self.codes, self.scales, self.bias) if tensor is not None)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights [experts, rows, columns] in a float dtype, rounded once; of plain ones no copy where dtypes agree."""
        if self.scales is None:
            return self.codes.to(dtype)
        if not self.packed:
            return fp8.dequantise(self.codes, self.scales, dtype)
        blocks = self.codes.view(torch.uint8).unflatten(-1, (-1, mxfp4.BLOCK // 2))
        return mxfp4.dequantise(blocks, self.scales[..., : blocks.shape[-2]], dtype)


def scale_columns(columns: int) -> int:
    """The scales of a row of MXFP4, padded so that every row starts where four or eight of them can be read at once."""
    return -(-columns // (8 * mxfp4.BLOCK)) * 8


def read_dense(
    source: Source, experts: int, rows: int, columns: int, fill: Fill, bias: torch.Tensor | None = None
) -> ExpertMatrix:
    """In the source's dtype."""
    codes = source.empty((experts, rows, columns))
    fill(codes, range(experts))
    return ExpertMatrix(codes, None, bias)


def read_fp8(source: Source, experts: int, rows: int, columns: int, fill: Fill, bias: torch.Tensor | None = None) -> ExpertMatrix:
    """Quantised while read, with a scale for each row: more than the codes and a few experts is never on the device."""
    codes = source.empty((experts, rows, columns), fp8.DTYPE)
    scales = source.empty((experts, rows), torch.float32)
    count = max(1, _PIECE // max(1, rows * columns))
    piece = source.empty((min(count, experts), rows, columns))
    for first in range(0, experts, count):
        some = range(first, min(first + count, experts))
        values = piece[: len(some)]
        fill(values, some)
        quantised = slice(some.start, some.stop)
        fp8.quantise_rows_into(values.flatten(0, 1), codes[quantised].flatten(0, 1), scales[quantised].flatten())
    return ExpertMatrix(codes, scales, bias)


def read_stack(source: Source, dim: int, width: int, part: Deal) -> tuple[ExpertMatrix, ExpertMatrix]:
    """Gate and up [experts, 2 * size, dim], the gate rows first, and down [experts, dim, size], as the recipe wants them.

    The checkpoint holds `experts.gate_up_proj` and `experts.down_proj` for all experts, or `experts.<e>.{gate,up,down}_proj`
    of each, which may be quantised.
    """
    size = part.size
    total = source.shape("experts.gate_up_proj")[0] if source.has("experts.gate_up_proj") else 0

    def fill_gate_up(place: torch.Tensor, some: range) -> None:
        for half, name in enumerate(("gate_proj", "up_proj")):
            rows = slice(half * size, (half + 1) * size)
            if total:
                span = (half * width + part.width[0], half * width + part.width[1])
                cut = ((part.experts[0] + some.start, part.experts[0] + some.stop), span)
                source.read_into(place[:, rows], "experts.gate_up_proj", (total, 2 * width, dim), part=cut)
            else:
                _read_each(source, place[:, rows], some, part, Part(name, width, part.width), dim, (0, dim))

    def fill_down(place: torch.Tensor, some: range) -> None:
        if total:
            cut = ((part.experts[0] + some.start, part.experts[0] + some.stop), None, part.width)
            source.read_into(place, "experts.down_proj", (total, dim, width), part=cut)
        else:
            _read_each(source, place, some, part, Part("down_proj", dim, (0, dim)), width, part.width)

    reader = read_fp8 if _becomes_fp8(source) else read_dense
    return reader(source, part.count, 2 * size, dim, fill_gate_up), reader(source, part.count, dim, size, fill_down)


def _read_each(
    source: Source, place: torch.Tensor, some: range, part: Deal, one: Part, inputs: int, columns: Span
) -> None:  # fmt: skip
    """Experts whose tensors are stored one by one, dequantised where they are quantised."""
    for row, index in enumerate(some):
        expert = source.at(f"experts.{part.experts[0] + index}.")
        if read.stored(expert, one.name) == "plain":
            expert.read_into(place[row], f"{one.name}.weight", (one.rows, inputs), part=(one.keep, columns))
        else:
            place[row] = read.dense(expert, one, inputs, columns)


def _becomes_fp8(source: Source) -> bool:
    if not source.recipe.quantises(f"{source.prefix}experts"):
        return False
    if accelerator.kernels_reason_not(source.device) is None:
        return True
    source.note("--quantization fp8 is for accelerators: weights stay in the compute dtype on this device")
    return False
