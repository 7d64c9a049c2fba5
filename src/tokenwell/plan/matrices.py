"""A checkpoint's tensors as the matrices that they stand for: what is stored in pieces, or expert by expert, is one again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from tokenwell.checkpoint.recipe import Recipe, read_recipe
from tokenwell.plan.card import ModelCard, TensorFacts
from tokenwell.wire.errors import CheckpointError

# How the pieces of one matrix are called.
_PIECES = frozenset({
    "weight", "bias", "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_scale_inv",
    "weight_zero_point", "weight_shape", "weight_g_idx", "input_scale",
})  # fmt: skip
_MXFP4_PIECES = ("blocks", "scales", "bias")  # behind "gate_up_proj_" or "down_proj_"
_LAYER = re.compile(r"(?:.*\.)?(?:layers|blk)\.(\d+)\.")
_SHARED_KV = re.compile(r".*\.self_attn\.[kv]_(proj|norm)")
_UNUSED = frozenset({"tower", "draft"})  # of what the native engine serves


@dataclass(frozen=True, slots=True)
class Matrix:
    """`count` matrices [rows, columns] of one name, the experts of a layer or a single one; a vector has one column."""

    name: str  # of the module; experts that are stored one by one have "*" for their number
    role: str
    layer: int | None
    count: int
    rows: int
    columns: int
    stored: str  # "plain" | "fp8" | "int4" | "mxfp4" | "gguf"
    nbytes: int  # of all its tensors, as stored
    bias: bool = False
    group: int = 0  # columns that share a scale; 0: all
    zeros: bool = False  # int4 with zeros of its own
    ordered: bool = False  # int4 whose columns have an order of their own

    @property
    def leaf(self) -> str:
        """The last part of the name: "q_proj", "gate_up_proj", ..."""
        return self.name.rpartition(".")[2]

    @property
    def values(self) -> int:
        """Numbers, without biases and scales."""
        return self.count * self.rows * self.columns


@lru_cache(maxsize=8)
def matrices_of(card: ModelCard) -> tuple[Matrix, ...]:
    """What the native engine loads of a card's tensors: no towers, no draft heads, no K and V of layers that share them.

    Raises CheckpointError for tensors that make no matrix.
    """
    recipe = Recipe() if card.stored == "gguf" else read_recipe(card.config)
    modules: dict[str, dict[str, list[TensorFacts]]] = {}
    shared = frozenset(layer.index for layer in card.layers if layer.owner != layer.index)
    for tensor in card.tensors:
        if not _used(card, tensor, shared):
            continue
        stem, piece = _split(tensor.name)
        modules.setdefault(stem, {}).setdefault(piece, []).append(tensor)
    turned = card.architecture == "GptOssForCausalLM"  # whose plain experts are stored [experts, in, out]
    return tuple(_matrix(stem, pieces, recipe, turned) for stem, pieces in modules.items())


def _split(name: str) -> tuple[str, str]:
    """A tensor's module, the number of an expert left out, and which piece of it the tensor is."""
    before, mark, rest = name.partition(".experts.")
    number, dot, leaf = rest.partition(".")
    if number.isdigit():
        name = f"{before}{mark}*{dot}{leaf}"
    stem, _, last = name.rpartition(".")
    if last in _PIECES:
        return stem, last
    module, mark, packed = name.rpartition("_proj_")
    return (f"{module}_proj", packed) if mark and packed in _MXFP4_PIECES else (name, "weight")


def layer_of(name: str) -> int | None:
    """The layer that a name speaks of."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def _used(card: ModelCard, tensor: TensorFacts, shared: frozenset[int]) -> bool:
    if tensor.role in _UNUSED or (tensor.role == "buffer" and tensor.shape not in ((1,), ())):
        return False
    if tensor.role == "buffer" and tensor.name.endswith(("_scale", "inv_freq")):
        return False
    if tensor.role == "head" and card.tied:
        return False
    return not (shared and layer_of(tensor.name) in shared and _SHARED_KV.match(tensor.name))


def _matrix(stem: str, pieces: dict[str, list[TensorFacts]], recipe: Recipe, turned: bool) -> Matrix:
    everything = [tensor for piece in pieces.values() for tensor in piece]
    nbytes, role, layer = sum(tensor.nbytes for tensor in everything), everything[0].role, layer_of(stem)
    bias = "bias" in pieces and len(pieces) > 1
    if (packed := pieces.get("qweight")) is not None:
        scales = _one(stem, pieces, "scales")
        rows, columns = scales.shape[1], packed[0].shape[0] * (8 if recipe.method == "gptq" else 1)
        ordered = recipe.by_activation and "g_idx" in pieces
        return Matrix(
            stem, role, layer, len(packed), rows, columns, "int4", nbytes, bias, recipe.group, "qzeros" in pieces, ordered
        )
    if (packed := pieces.get("weight_packed")) is not None:
        rows, columns = _flat(stem, packed[0])
        zeros, ordered = "weight_zero_point" in pieces, recipe.by_activation and "weight_g_idx" in pieces
        return Matrix(stem, role, layer, len(packed), rows, 8 * columns, "int4", nbytes, bias, recipe.group, zeros, ordered)
    if (packed := pieces.get("blocks")) is not None:
        shape = packed[0].shape
        if len(shape) != 4:
            raise CheckpointError(f"tensor {packed[0].name!r} {list(shape)} is no stack of MXFP4 blocks")
        return Matrix(stem, role, layer, shape[0], shape[1], shape[2] * shape[3] * 2, "mxfp4", nbytes, bias, 32)
    plain = pieces.get("weight") or pieces.get("bias") or everything
    first = plain[0]
    count, rows, columns = _stacked(first)
    if turned and role == "expert":
        rows, columns = columns, rows
    stored = "gguf" if first.dtype not in _KNOWN else "plain"
    scale = pieces.get("weight_scale_inv") or pieces.get("weight_scale")
    if first.dtype.startswith("F8_E4") and scale is not None:
        each = math.prod(scale[0].shape)
        group = 0 if each in (1, rows) else (recipe.block or (128, 128))[1]
        return Matrix(stem, role, layer, len(plain) * count, rows, columns, "fp8", nbytes, bias, group)
    return Matrix(stem, role, layer, len(plain) * count, rows, columns, stored, nbytes, bias)


_KNOWN = frozenset(
    {"BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2", "U8", "I8", "I32", "I64", "I16", "U16", "U32", "U64", "BOOL"}
)


def _one(stem: str, pieces: dict[str, list[TensorFacts]], piece: str) -> TensorFacts:
    found = pieces.get(piece)
    if not found or len(found[0].shape) != 2:
        raise CheckpointError(f"{stem}: the checkpoint has packed codes, but no {piece} of two dimensions beside them")
    return found[0]


def _flat(stem: str, tensor: TensorFacts) -> tuple[int, int]:
    if len(tensor.shape) != 2:
        raise CheckpointError(f"tensor {tensor.name!r} {list(tensor.shape)} of {stem} must have two dimensions")
    return tensor.shape[0], tensor.shape[1]


def _stacked(tensor: TensorFacts) -> tuple[int, int, int]:
    """Count, rows and columns of a tensor of any shape."""
    shape = tensor.shape
    if tensor.role == "expert" and len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return 1, shape[0], math.prod(shape[1:])


def values_of(matrices: Iterable[Matrix]) -> int:
    """Numbers of all matrices together."""
    return sum(matrix.values for matrix in matrices)
