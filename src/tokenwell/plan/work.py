"""What a step of a model reads and computes: bytes of weights and of the KV cache, and operations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tokenwell.plan.card import ModelCard
from tokenwell.plan.held import KERNELS, item_bytes, kv_item_bytes, rank_kv_heads, rules_for, sizes_of
from tokenwell.plan.matrices import matrices_of


def active_bytes(card: ModelCard, quantization: str, batch: int, tp: int = 1) -> float:
    """Bytes of weights that a decode step of `batch` rows reads on a rank."""
    return sum(active_by_role(card, quantization, batch, tp).values())


def active_by_role(card: ModelCard, quantization: str, batch: int, tp: int = 1, device_kind: str = "cuda") -> Mapping[str, float]:
    """The same by role: of experts those that are expected to serve some row, of tables the rows that are looked up."""
    whole, tables = _sizes(card, quantization, tp, device_kind)
    read = dict(whole)
    if "expert" in read:
        read["expert"] *= 1.0 - (1.0 - card.experts_per_token / card.experts) ** batch if card.experts else 0.0
    for role, size, rows in tables:
        read[role] = read.get(role, 0.0) + size * min(1.0, batch / max(1, rows))
    return read


@lru_cache(maxsize=32)  # a service asks for every request, and a mixture may have thousands of matrices
def _sizes(
    card: ModelCard, quantization: str, tp: int, device_kind: str
) -> tuple[Mapping[str, float], tuple[tuple[str, float, int], ...]]:
    """Bytes by role of what a step reads as a whole, and of the tables that it looks rows up in: role, bytes, rows."""
    rules = rules_for(card, quantization, tp, device_kind, item_bytes(card, device_kind))
    whole: dict[str, float] = {}
    tables: list[tuple[str, float, int]] = []
    for matrix in matrices_of(card):
        size = float(sum(sizes_of(rules, [matrix])))
        if matrix.role not in ("embedding", "lookup"):
            whole[matrix.role] = whole.get(matrix.role, 0.0) + size
            continue
        tables.append((matrix.role, size, matrix.rows))
        if matrix.role == "embedding" and card.tied:
            whole["head"] = whole.get("head", 0.0) + size / (tp if matrix.rows % tp == 0 else 1)
    return whole, tuple(tables)


def kv_read_bytes(card: ModelCard, kv_dtype: str, context_tokens: int, tp: int = 1, device_kind: str = "cuda") -> float:
    """Bytes of K, V and recurrent state that one row's decode step reads on a rank, `context_tokens` tokens behind it."""
    item = kv_item_bytes(card, kv_dtype, device_kind)
    folds = device_kind in KERNELS
    total = 0
    for layer in card.layers:
        if layer.kind == "linear":
            total += 2 * layer.state_bytes // tp  # read and written back
            continue
        seen = context_tokens if layer.window is None else min(context_tokens, layer.window)
        tensors = 1 if folds and layer.folded else 2
        total += seen * tensors * rank_kv_heads(layer, tp) * layer.head_dim * item
    return float(total)


def matmul_flops(card: ModelCard, tokens: int, sampled: int | None = None) -> float:
    """Operations of all matrix products of a step of `tokens` tokens, of which `sampled` (None: all) need logits.

    Layers behind the last that has keys of its own are computed for the sampled tokens alone.
    """
    early, late = _products(card)
    return 2.0 * (early * tokens + late * (tokens if sampled is None else min(sampled, tokens)))


@lru_cache(maxsize=32)
def _products(card: ModelCard) -> tuple[float, float]:
    """Multiplications of one token: those that every token needs, and those that a sampled one needs besides."""
    first_shared = next((layer.index for layer in card.layers if layer.owner != layer.index), len(card.layers))
    share = card.experts_per_token / card.experts if card.experts else 0.0
    early = late = 0.0
    for matrix in matrices_of(card):
        if matrix.columns == 1 or matrix.role in ("norm", "lookup", "other", "buffer"):
            continue
        if matrix.role == "embedding":
            late += matrix.values if card.tied else 0.0
        elif matrix.role == "head" or (matrix.layer is not None and matrix.layer >= first_shared):
            late += matrix.values * (share if matrix.role == "expert" else 1.0)
        else:
            early += matrix.values * (share if matrix.role == "expert" else 1.0)
    return early, late


def attention_flops(card: ModelCard, tokens: int, context: int) -> float:
    """Operations of scores and sums over values of the last `tokens` tokens of a sequence of `context` tokens."""
    first = max(0, context - tokens)
    total = 0.0
    for layer in card.layers:
        if layer.kind == "linear":  # decay, read and write of the state [key dim, value dim] of each head
            total += 6.0 * tokens * layer.heads * layer.head_dim * layer.head_dim
            continue
        total += 4.0 * layer.heads * layer.head_dim * _seen(first, context, layer.window)
    return total


def _seen(first: int, end: int, window: int | None) -> int:
    """Keys that the queries at positions first .. end - 1 see together."""
    if window is None or end <= window:
        return (end * (end + 1) - first * (first + 1)) // 2
    growing = max(first, min(end, window))
    return (growing * (growing + 1) - first * (first + 1)) // 2 + (end - growing) * window
