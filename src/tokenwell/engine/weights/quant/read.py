"""Matrices from a checkpoint in whatever format they are stored, cut for a rank and fused, as the recipe wants them.

What a device has no kernels for becomes dense while it is read. Knows names of tensors and formats; no layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.dummy import DummyCheckpoint
from tokenwell.engine.weights.quant import fp8, int4
from tokenwell.engine.weights.quant.fp8 import Fp8Matrix
from tokenwell.engine.weights.quant.int4 import Int4Matrix
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError

Split = Literal["column", "row"] | None
Columns = tuple[int, int]
Matrix: TypeAlias = "torch.Tensor | Fp8Matrix | Int4Matrix"

_FP8_SCALES = ("weight_scale_inv", "weight_scale")  # blocks are stored by the first name, except by compressed-tensors


@dataclass(frozen=True)
class Part:
    """One checkpoint matrix inside a fused weight: `name`.weight [rows, in]; `keep` are this rank's rows."""

    name: str
    rows: int
    keep: tuple[int, int]

    @property
    def kept(self) -> int:
        """Rows on this rank."""
        return self.keep[1] - self.keep[0]


def matrix(source: Source, parts: Sequence[Part], inputs: int, columns: Columns) -> Matrix:
    """The parts' kept rows, one after the other, and these of their `inputs` columns.

    Raises CheckpointError as Source.tensor does, and where `columns` cut a group of columns that share a scale.
    """
    kinds = [stored(source, part.name) for part in parts]
    packs = accelerator.kernels_reason_not(source.device) is None
    if any(kind != "plain" for kind in kinds):
        if packs and source.recipe.keeps_packed and len(set(kinds)) == 1:
            if kinds[0] == "int4":
                return _int4(source, parts, inputs, columns)
            groups = {_fp8_group(source, part, inputs) for part in parts}
            if len(groups) == 1:
                return _fp8(source, parts, inputs, columns, groups.pop())
            source.note("Fused matrices whose parts have scales of different kinds are held in the compute dtype")
        elif not packs:
            source.note("Quantised weights are held in the compute dtype: there are no kernels for them on this device")
        return _dense(source, parts, inputs, columns)
    if source.recipe.quantises(source.prefix + parts[0].name):
        if packs:
            return _online(source, parts, inputs, columns)
        source.note("--quantization fp8 is for accelerators: weights stay in the compute dtype on this device")
    return _dense(source, parts, inputs, columns)


def stored(source: Source, name: str) -> Literal["plain", "fp8", "int4"]:
    """How the matrix of a module is stored."""
    recipe = source.recipe
    # A dummy answers for a whole format, not for each module.
    if isinstance(source.checkpoint, DummyCheckpoint) and recipe.ignores(source.prefix + name):
        return "plain"
    if recipe.stored == "int4" and (source.has(f"{name}.qweight") or source.has(f"{name}.weight_packed")):
        return "int4"
    if recipe.stored == "fp8" and any(source.has(f"{name}.{scale}") for scale in _FP8_SCALES):
        return "fp8"
    return "plain"


def dense(source: Source, part: Part, inputs: int, columns: Columns) -> torch.Tensor:
    """One part in the source's dtype, dequantised if it is stored so: [kept, columns]."""
    kind = stored(source, part.name)
    if kind == "fp8":
        return _fp8(source, [part], inputs, columns, _fp8_group(source, part, inputs)).dense(source.dtype)
    if kind == "int4":
        return _int4(source, [part], inputs, columns).dense(source.dtype)
    return source.tensor(f"{part.name}.weight", (part.rows, inputs), part=(part.keep, columns))


def _dense(source: Source, parts: Sequence[Part], inputs: int, columns: Columns) -> torch.Tensor:
    if len(parts) == 1:
        return dense(source, parts[0], inputs, columns)
    whole = source.empty((sum(part.kept for part in parts), columns[1] - columns[0]))
    for part, rows in zip(parts, _places(parts), strict=True):
        if stored(source, part.name) == "plain":
            source.read_into(whole[rows], f"{part.name}.weight", (part.rows, inputs), part=(part.keep, columns))
        else:
            whole[rows] = dense(source, part, inputs, columns)
    return whole


def _online(source: Source, parts: Sequence[Part], inputs: int, columns: Columns) -> Fp8Matrix:
    """Quantised a part at a time: more than the codes and one part is never on the device."""
    made = _empty_fp8(source, sum(part.kept for part in parts), columns, 0)
    for part, rows in zip(parts, _places(parts), strict=True):
        values = source.tensor(f"{part.name}.weight", (part.rows, inputs), part=(part.keep, columns))
        fp8.quantise_rows_into(values, made.codes[rows], made.scales[rows])
    return made


def _places(parts: Sequence[Part]) -> list[slice]:
    """The parts' rows in a fused matrix."""
    places, start = [], 0
    for part in parts:
        places.append(slice(start, start + part.kept))
        start += part.kept
    return places


# ---------------------------------------------------------------- fp8


def _empty_fp8(source: Source, rows: int, columns: Columns, group: int) -> Fp8Matrix:
    width = columns[1] - columns[0]
    scales = (rows,) if group == 0 else (rows, -(-width // group))
    return Fp8Matrix(source.empty((rows, width), fp8.DTYPE), source.empty(scales, torch.float32), group)


def _fp8_scale(source: Source, part: Part, inputs: int) -> tuple[str, tuple[int, ...]]:
    """The name and shape of the scales of a part."""
    name = next(f"{part.name}.{scale}" for scale in _FP8_SCALES if source.has(f"{part.name}.{scale}"))
    if not isinstance(source.checkpoint, DummyCheckpoint):
        return name, source.shape(name)
    if (block := source.recipe.block) is not None:
        return name, (-(-part.rows // block[0]), -(-inputs // block[1]))
    return name, (part.rows, 1) if source.recipe.per_channel else ()


def _fp8_group(source: Source, part: Part, inputs: int) -> int:
    """Columns that share a scale; 0: all. Raises CheckpointError for scales of another shape than the formats have."""
    name, shape = _fp8_scale(source, part, inputs)
    if shape in ((), (1,), (1, 1), (part.rows,), (part.rows, 1)):
        return 0
    rows, columns = source.recipe.block or (fp8.BLOCK, fp8.BLOCK)
    if shape == (-(-part.rows // rows), -(-inputs // columns)):
        return columns
    raise CheckpointError(
        f"Tensor {source.prefix + name!r} {list(shape)} has neither one scale, nor one for each of {part.rows} rows, nor one for "
        f"each block of {rows} x {columns}. Config and weights do not belong together, or the format is not supported."
    )


def _fp8(source: Source, parts: Sequence[Part], inputs: int, columns: Columns, group: int) -> Fp8Matrix:
    made = _empty_fp8(source, sum(part.kept for part in parts), columns, group)
    _check_cut(source, parts[0], inputs, columns, group)
    for part, rows in zip(parts, _places(parts), strict=True):
        source.read_into(made.codes[rows], f"{part.name}.weight", (part.rows, inputs), part=(part.keep, columns))
        name, shape = _fp8_scale(source, part, inputs)
        scales = source.tensor(name, shape, dtype=torch.float32)
        if group:
            of_row = torch.arange(*part.keep, device=scales.device) // (source.recipe.block or (fp8.BLOCK, 0))[0]
            made.scales[rows] = scales[of_row, columns[0] // group : -(-columns[1] // group)]
        else:
            scales = scales.flatten().expand(part.rows) if scales.numel() == 1 else scales.flatten()
            made.scales[rows] = scales[part.keep[0] : part.keep[1]]
        # Activations are scaled for each token as they come.
        if source.has(f"{part.name}.input_scale"):
            source.leave(f"{part.name}.input_scale")
    return made


def _check_cut(source: Source, part: Part, inputs: int, columns: Columns, group: int) -> None:
    if group and (columns[0] % group or (columns[1] % group and columns[1] != inputs)):
        raise CheckpointError(
            f"Tensor {source.prefix + part.name + '.weight'!r}: columns {columns[0]} to {columns[1]} of this rank cut a group of "
            f"{group} columns that share a scale. Use another number of ranks."
        )


# ---------------------------------------------------------------- int4


def _int4(source: Source, parts: Sequence[Part], inputs: int, columns: Columns) -> Int4Matrix:
    """The parts in the one layout that kernels read."""
    recipe = source.recipe
    _check_cut(source, parts[0], inputs, columns, recipe.group)
    width = columns[1] - columns[0]
    if recipe.group and width % recipe.group:
        raise CheckpointError(f"{source.prefix + parts[0].name!r}: {width} columns are no multiple of groups of {recipe.group}.")
    read = _read_compressed if recipe.method == "compressed-tensors" else _read_awq if recipe.method == "awq" else _read_gptq
    pieces = [read(source, part, inputs, columns) for part in parts]
    order = pieces[0].order
    for piece in pieces[1:]:
        if (order is None) != (piece.order is None) or (order is not None and not torch.equal(order, piece.order)):
            raise CheckpointError(
                f"{source.prefix + parts[0].name!r} and the matrices beside it have different orders of columns."
            )
    if len(pieces) == 1:
        return pieces[0]
    zeros = [piece.zeros for piece in pieces if piece.zeros is not None]
    return Int4Matrix(
        torch.cat([piece.codes for piece in pieces]), torch.cat([piece.scales for piece in pieces]),
        torch.cat(zeros) if zeros else None, recipe.group, order,
    )  # fmt: skip


def _groups(source: Source, inputs: int) -> int:
    return inputs // source.recipe.group if source.recipe.group else 1


def _group_span(source: Source, columns: Columns) -> tuple[int, int]:
    """The groups of these columns."""
    group = source.recipe.group
    return (columns[0] // group, columns[1] // group) if group else (0, 1)


def _read_compressed(source: Source, part: Part, inputs: int, columns: Columns) -> Int4Matrix:
    """`weight_packed` [out, in / 8] int32 of codes + 8, `weight_scale` [out, groups], `weight_zero_point` [out / 8, groups]."""
    recipe, keep, groups = source.recipe, part.keep, _groups(source, inputs)
    words = source.tensor(
        f"{part.name}.weight_packed", (part.rows, inputs // 8), part=(keep, _eighth(source, part, columns)), dtype=torch.int32
    )
    of = _group_span(source, columns)
    scales = source.tensor(f"{part.name}.weight_scale", (part.rows, groups), part=(keep, of))
    zeros = None
    if not recipe.symmetric:
        name = f"{part.name}.weight_zero_point"
        packed = source.tensor(name, (part.rows // 8, groups), part=(None, of), dtype=torch.int32)
        zeros = int4.nibbles(packed, 0)[keep[0] : keep[1]]
    if source.has(f"{part.name}.weight_shape"):
        source.leave(f"{part.name}.weight_shape")
    return _ordered(source, part, columns, int4.nibbles(words, 1), scales, zeros, f"{part.name}.weight_g_idx")


def _read_gptq(source: Source, part: Part, inputs: int, columns: Columns) -> Int4Matrix:
    """`qweight` [in / 8, out] int32, `scales` [groups, out], `qzeros` [groups, out / 8], `g_idx` [in]."""
    keep, groups, of = part.keep, _groups(source, inputs), _group_span(source, columns)
    words = source.tensor(
        f"{part.name}.qweight", (inputs // 8, part.rows), part=(_eighth(source, part, columns), keep), dtype=torch.int32
    )
    scales = source.tensor(f"{part.name}.scales", (groups, part.rows), part=(of, keep)).T.contiguous()
    packed = source.tensor(f"{part.name}.qzeros", (groups, part.rows // 8), part=(of, None), dtype=torch.int32)
    # Where zeros are stored less one, 15 stands for 0: the difference wrapped around in four bits.
    zeros = (int4.nibbles(packed, 1).T[keep[0] : keep[1]] + int(source.recipe.less_one) & 15).contiguous()
    return _ordered(source, part, columns, int4.nibbles(words, 0).T, scales, zeros, f"{part.name}.g_idx")


def _read_awq(source: Source, part: Part, inputs: int, columns: Columns) -> Int4Matrix:
    """`qweight` [in, out / 8] int32, `scales` [groups, out], `qzeros` [groups, out / 8]."""
    keep, groups, of = part.keep, _groups(source, inputs), _group_span(source, columns)
    words = source.tensor(f"{part.name}.qweight", (inputs, part.rows // 8), part=(columns, None), dtype=torch.int32)
    codes = int4.awq_nibbles(words)[:, keep[0] : keep[1]].T
    scales = source.tensor(f"{part.name}.scales", (groups, part.rows), part=(of, keep)).T.contiguous()
    packed = source.tensor(f"{part.name}.qzeros", (groups, part.rows // 8), part=(of, None), dtype=torch.int32)
    zeros = int4.awq_nibbles(packed)[:, keep[0] : keep[1]].T.contiguous()
    return _ordered(source, part, columns, codes, scales, zeros, "")


def _eighth(source: Source, part: Part, columns: Columns) -> tuple[int, int]:
    if columns[0] % 8 or columns[1] % 8:
        raise CheckpointError(f"{source.prefix + part.name!r}: columns {columns} of this rank cut packed codes. Use other ranks.")
    return columns[0] // 8, columns[1] // 8


def _ordered(
    source: Source, part: Part, columns: Columns,
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, index: str,
) -> Int4Matrix:  # fmt: skip
    """Pack codes [kept, columns]; where `index` says which group each column is in, columns of a group come together."""
    recipe, order = source.recipe, None
    if index and source.has(index):
        width = columns[1] - columns[0]
        whole = source.shape(index) if not isinstance(source.checkpoint, DummyCheckpoint) else (width,)
        if not recipe.by_activation:
            source.leave(index)
        elif whole != (width,):
            raise CheckpointError(
                f"{source.prefix + part.name!r} has its columns ordered by activation, so they cannot be split over ranks. "
                "Use one card, or a version of the model without act-order."
            )
        else:
            order = source.tensor(index, whole, dtype=torch.int32).argsort(stable=True)
            codes = codes[:, order]
    packed = int4.pack(codes, int4.span(recipe.group, codes.shape[1]))
    return Int4Matrix(packed, scales.contiguous(), zeros, recipe.group, order)
