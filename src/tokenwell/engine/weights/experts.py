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

    With fewer blocks than ranks whole experts are dealt. Raises CheckpointError if these are too few as well.
    """
    if width % block == 0 and width // block >= world and split == "width":
        whole = width // block
        return Deal((0, experts), (whole * rank // world * block, whole * (rank + 1) // world * block))
    if experts < world:
        raise CheckpointError(
            f"{experts} experts of width {width} cannot be dealt to {world} ranks. Use another number of ranks."
        )
    return Deal((experts * rank // world, experts * (rank + 1) // world), (0, width))


@dataclass(frozen=True)
class ExpertMatrix:
    """A matrix [rows, columns] for each of some experts, contiguous.

    In a float dtype: codes [experts, rows, columns]. FP8: codes in e4m3 and scales [experts, rows] float32. MXFP4: codes
    [experts, rows, columns / 8] int32, eight elements a word as `mxfp4.words` orders them, and uint8 scales
    [experts, rows, scale_columns(columns)], of which columns / 32 are used.
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
        blocks = mxfp4.blocks(self.codes)
        return mxfp4.dequantise(blocks, self.scales[..., : blocks.shape[-2]], dtype)

    def unpacked(self, dtype: torch.dtype) -> ExpertMatrix:
        """The same weights in a float dtype."""
        return ExpertMatrix(self.dense(dtype), None, self.bias)


def scale_columns(columns: int) -> int:
    """The scales of a row of MXFP4, padded so that every row starts where four or eight of them can be read at once."""
    return -(-columns // (8 * mxfp4.BLOCK)) * 8


def empty_mxfp4(
    source: Source | torch.device, experts: int, rows: int, columns: int, bias: torch.Tensor | None = None
) -> ExpertMatrix:
    """MXFP4 weights to be filled in. Kernels read a tile beyond the last row: there is memory, and padding scales to zero."""
    device = source if isinstance(source, torch.device) else source.device
    words = experts * rows * columns // 8
    codes = torch.zeros(words + 64, dtype=torch.int32, device=device)[:words].view(experts, rows, columns // 8)
    shape = (experts, rows, scale_columns(columns))
    return ExpertMatrix(codes, torch.full(shape, mxfp4.PACKED_ZERO, dtype=torch.uint8, device=device), bias)


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


def read_stack(source: Source, experts: int, dim: int, width: int, part: Deal) -> tuple[ExpertMatrix, ExpertMatrix]:
    """Gate and up [experts, 2 * size, dim], the gate rows first, and down [experts, dim, size], as the recipe wants them.

    The checkpoint holds `experts.gate_up_proj` and `experts.down_proj` for all experts, or `experts.<e>.{gate,up,down}_proj`
    of each, which may be quantised.
    """
    size = part.size
    fused = source.has("experts.gate_up_proj")

    def fill_gate_up(place: torch.Tensor, some: range) -> None:
        for half, name in enumerate(("gate_proj", "up_proj")):
            rows = slice(half * size, (half + 1) * size)
            if fused:
                span = (half * width + part.width[0], half * width + part.width[1])
                cut = ((part.experts[0] + some.start, part.experts[0] + some.stop), span)
                source.read_into(place[:, rows], "experts.gate_up_proj", (experts, 2 * width, dim), part=cut)
            else:
                _read_each(source, place[:, rows], some, part, Part(name, width, part.width), dim, (0, dim))

    def fill_down(place: torch.Tensor, some: range) -> None:
        if fused:
            cut = ((part.experts[0] + some.start, part.experts[0] + some.stop), None, part.width)
            source.read_into(place, "experts.down_proj", (experts, dim, width), part=cut)
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


def read_gpt_oss(
    source: Source, experts: int, dim: int, width: int, part: Deal, packed: bool
) -> tuple[ExpertMatrix, ExpertMatrix]:
    """gpt-oss' `{gate_up,down}_proj{,_bias}` in MXFP4 (`_blocks`, `_scales`) or [experts, in, out] in a float dtype.

    Checkpoints interleave gate and value rows; here each half is together. `packed`: MXFP4 stays so.
    """
    size, (first, last) = part.size, part.width
    stored = source.has("gate_up_proj_blocks")
    gate_up_bias = source.empty((part.count, 2 * size))
    make = empty_mxfp4 if packed else _empty
    gate_up, down = make(source, part.count, 2 * size, dim, gate_up_bias), make(source, part.count, dim, size)
    for half in range(2):
        rows = (2 * first + half, 2 * last, 2)
        place = slice(half * size, (half + 1) * size)
        source.read_into(gate_up_bias[:, place], "gate_up_proj_bias", (experts, 2 * width), part=(part.experts, rows))
        shape, cut = (experts, 2 * width, dim), (part.experts, rows)
        if packed:
            assert gate_up.scales is not None
            mxfp4.read_packed(gate_up.codes[:, place], gate_up.scales[:, place], source, "gate_up_proj", shape, cut)
        elif stored:
            mxfp4.read_into(gate_up.codes[:, place], source, "gate_up_proj", shape, cut)
        else:
            stack = (experts, dim, 2 * width)
            source.read_into(gate_up.codes[:, place].mT, "gate_up_proj", stack, part=(part.experts, None, rows))
    shape, columns = (experts, dim, width), (part.experts, None, part.width)
    if packed:
        assert down.scales is not None
        mxfp4.read_packed(down.codes, down.scales, source, "down_proj", shape, columns)
    elif stored:
        mxfp4.read_into(down.codes, source, "down_proj", shape, columns)
    else:
        source.read_into(down.codes.mT, "down_proj", (experts, width, dim), part=(part.experts, part.width))
    down_bias = source.tensor("down_proj_bias", (experts, dim), part=(part.experts,))
    if part.width[0]:  # the ranks' results are summed: only one of them adds the bias
        return gate_up, down
    return gate_up, ExpertMatrix(down.codes, down.scales, down_bias)


def _empty(source: Source, experts: int, rows: int, columns: int, bias: torch.Tensor | None = None) -> ExpertMatrix:
    return ExpertMatrix(source.empty((experts, rows, columns)), None, bias)
