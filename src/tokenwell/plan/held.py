"""How a rank of the native engine holds a card's matrices: in what format, what is fused, and which part of each.

The rules are the engine's own (`checkpoint.recipe`, `checkpoint.shard`, `engine.weights.quant.read`, `engine.weights.experts`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenwell.checkpoint import shard
from tokenwell.checkpoint.recipe import Recipe, read_recipe
from tokenwell.plan.card import LayerFacts, ModelCard
from tokenwell.plan.matrices import Matrix
from tokenwell.wire.errors import SettingsError

KERNELS = frozenset({"cuda", "rocm", "xpu"})  # kinds of devices that have kernels of ours
SUPPOSED_GROUP = 128  # columns that share a scale, where weights in 4 bits are only supposed

_ITEM_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
_KV_BYTES = {"bf16": 2, "fp8": 1}
_MXFP4_COLUMNS, _MXFP4_TAIL = 256, 256  # scales of a row are padded to so many columns; bytes behind the last row


@dataclass(frozen=True, slots=True)
class Rules:
    """How a rank holds a card's matrices."""

    card: ModelCard
    recipe: Recipe
    order: str  # one of the words of Precision.weights
    item_bytes: int
    kernels: bool
    tp: int


def rules_for(card: ModelCard, quantization: str, tp: int, device_kind: str, item: int) -> Rules:
    """Raises SettingsError for an order that is not known, or that the checkpoint cannot follow."""
    supposed = quantization == "int4"
    recipe = Recipe() if card.stored == "gguf" else read_recipe(card.config, "auto" if supposed else quantization)
    return Rules(card, recipe, quantization, item, device_kind in KERNELS, tp)


def item_bytes(card: ModelCard, device_kind: str = "cuda", dtype: str = "auto") -> int:
    """Bytes of a number that is computed with."""
    word = card.dtype if dtype == "auto" else dtype
    if word not in _ITEM_BYTES:
        raise SettingsError(f"--dtype {dtype!r} is not known; use auto, bfloat16, float16 or float32")
    return _ITEM_BYTES[word]


def writes_out(card: ModelCard, quantization: str) -> bool:
    """Whether every long step writes packed experts out before it multiplies with them."""
    return card.stored == "mxfp4" and read_recipe(card.config, quantization).keeps_packed


def kv_item_bytes(card: ModelCard, kv_dtype: str, device_kind: str = "cuda", dtype: str = "auto") -> int:
    """Bytes of a number in the KV cache."""
    if kv_dtype == "auto":
        return item_bytes(card, device_kind, dtype)
    if kv_dtype not in _KV_BYTES:
        raise SettingsError(f"--kv-cache-dtype {kv_dtype!r} is not known; use auto, {', '.join(_KV_BYTES)}")
    return _KV_BYTES[kv_dtype]


def rank_kv_heads(layer: LayerFacts, tp: int) -> int:
    """KV heads of a layer on one of `tp` ranks."""
    if layer.kind == "linear":
        return max(1, layer.kv_heads // tp)
    start, stop = shard.head_rows(layer.kv_heads, 1, 0, tp)
    return stop - start


_FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}


def fused(matrices: Iterable[Matrix]) -> list[list[Matrix]]:
    """Matrices of the same input are one on the device."""
    together: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        fused = _FUSED.get(matrix.leaf) if matrix.role in ("linear", "expert") else None
        key = matrix.name if fused is None else f"{matrix.name.removesuffix(matrix.leaf)}{fused}"
        together.setdefault(key, []).append(matrix)
    return list(together.values())


def sizes_of(rules: Rules, matrices: list[Matrix]) -> list[int]:
    """The tensors on the device that hold the matrices of one input, in bytes."""
    kinds = {held_as(rules, matrix) for matrix in matrices}
    held = kinds.pop() if len(kinds) == 1 else "plain"
    if held == "gguf":
        return [sum(matrix.nbytes for matrix in matrices) // (rules.tp if matrices[0].role in ("linear", "expert") else 1)]
    cuts = [(matrix, *cut_of(rules, matrix)) for matrix in matrices]
    rows = sum(count * rows for _, count, rows, _ in cuts)
    codes = sum(count * rows * columns for _, count, rows, columns in cuts)
    biases = [sum(count * rows for matrix, count, rows, _ in cuts if matrix.bias) * rules.item_bytes]
    first, columns = matrices[0], cuts[0][3]
    if held == "plain":
        exact = rules.item_bytes if not first.name.endswith("per_expert_scale") else 4
        sizes = [codes * exact]
    elif held == "fp8":
        sizes = [codes, 4 * rows * (-(-columns // first.group) if first.stored == "fp8" and first.group else 1)]
    elif held == "mxfp4":
        sizes = [codes // 2 + _MXFP4_TAIL, rows * 8 * -(-columns // _MXFP4_COLUMNS)]
    else:
        group = first.group if first.stored == "int4" else SUPPOSED_GROUP
        groups = rows * (-(-columns // group) if group else 1)
        sizes = [codes // 2, groups * rules.item_bytes, groups if first.zeros else 0, 8 * columns if first.ordered else 0]
    return [size for size in sizes + biases if size]


def held_as(rules: Rules, matrix: Matrix) -> str:
    """How a matrix is held on the device: `engine.weights.quant.read` and `engine.weights.experts`."""
    if matrix.stored == "gguf":
        return "gguf"
    if matrix.role not in ("linear", "expert") or matrix.columns == 1:
        return "plain"
    if not rules.kernels:
        return "plain"
    if rules.order == "int4":
        return "int4" if matrix.stored == "plain" else matrix.stored
    if matrix.role == "expert" and matrix.stored != "mxfp4":  # experts are quantised as they are read, or not at all
        return "fp8" if rules.recipe.order == "fp8" and rules.card.architecture != "GptOssForCausalLM" else "plain"
    if matrix.stored != "plain":
        return matrix.stored if rules.recipe.keeps_packed else "plain"
    return "fp8" if rules.recipe.quantises(matrix.name) else "plain"


ROWS = frozenset({"q_proj", "gate_proj", "up_proj", "gate_up_proj", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b"})
_COLUMNS = frozenset({"o_proj", "down_proj", "out_proj"})


def cut_of(rules: Rules, matrix: Matrix) -> tuple[int, int, int]:
    """Count, rows and columns of a matrix on the rank that holds most of it."""
    count, rows, columns, tp = matrix.count, matrix.rows, matrix.columns, rules.tp
    if tp == 1:
        return count, rows, columns
    if matrix.role == "expert":
        return _dealt(rules, matrix)
    if matrix.role == "head":
        return count, rows // tp if rows % tp == 0 else rows, columns
    if matrix.role != "linear":
        return count, rows, columns
    if matrix.leaf in ("k_proj", "v_proj") and matrix.layer is not None:
        layer = rules.card.layers[matrix.layer]
        return count, rows // layer.kv_heads * rank_kv_heads(layer, tp), columns
    if matrix.leaf in ROWS:
        return count, _even(rows, tp), columns
    if matrix.leaf in _COLUMNS:
        return count, rows, _even(columns, tp)
    return count, rows, columns


def _even(size: int, tp: int) -> int:
    start, stop = shard.even(size, 0, tp)
    return stop - start


def _dealt(rules: Rules, matrix: Matrix) -> tuple[int, int, int]:
    """Experts by width, in whole blocks, or whole experts where there are fewer blocks than ranks."""
    down = matrix.leaf == "down_proj"
    parts = 2 if matrix.leaf == "gate_up_proj" else 1
    width = matrix.columns if down else matrix.rows // parts
    block = 32 if matrix.stored == "mxfp4" else 1
    if width % block or width // block < rules.tp:
        return -(-matrix.count // rules.tp), matrix.rows, matrix.columns
    size = -(-(width // block) // rules.tp) * block
    return (matrix.count, matrix.rows, size) if down else (matrix.count, size * parts, matrix.columns)
