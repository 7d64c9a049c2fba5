"""What the largest step of the native engine takes beside weights and pages, told by the tensors that live in it."""

from __future__ import annotations

from tokenwell.plan.card import ModelCard
from tokenwell.plan.held import ROWS, Rules, cut_of, held_as, rules_for
from tokenwell.plan.matrices import Matrix, matrices_of
from tokenwell.wire.cache import KvGroup, pages_for
from tokenwell.wire.capacity import RECORDED_TOKENS

_GATED = frozenset({"gate_proj", "up_proj", "gate_up_proj"})


def activation_bytes(
    card: ModelCard, quantization: str, tp: int, rows: int, budget: int, window: int, groups: tuple[KvGroup, ...], item: int
) -> int:
    """Bytes of a step of `budget` tokens in `rows` rows, all of them sampled.

    torch's allocator keeps a segment for each size of tensor that a layer makes, so the tensors of the widest layer are
    added up: the residual stream and what each norm puts out; q, k and v, the turned q and attention's output; what the
    feed-forward block makes. Logits come after all layers; what is larger than any of those tensors takes memory of its own.
    Tables of pages are there from the start.
    """
    rules = rules_for(card, quantization, tp, "cuda", item)
    by_layer: dict[int, list[Matrix]] = {}
    per_layer = 0
    for matrix in matrices_of(card):
        if matrix.layer is not None:
            by_layer.setdefault(matrix.layer, []).append(matrix)
        elif matrix.role == "lookup":
            per_layer = 2 * matrix.columns * item
    streams = attention = feed_forward = widest = 0
    for matrices in by_layer.values():
        norms = sum(matrix.role == "norm" and matrix.rows == card.hidden for matrix in matrices)
        streams = max(streams, (1 + norms) * card.hidden * item)
        attention = max(attention, _attention(rules, matrices) * item)
        feed_forward = max(feed_forward, _feed_forward(rules, matrices, budget))
        widest = max(widest, _widest(rules, matrices, budget))
    tokens = budget * (streams + per_layer + attention) + feed_forward
    sampled = min(rows, budget) * card.vocabulary
    logits = sum(size for size in (4 * sampled, item * sampled) if size > widest)
    tables = 4 * (rows + 1) * sum(pages_for(window, group) for group in groups)
    return tokens + logits + tables


def _attention(rules: Rules, matrices: list[Matrix]) -> int:
    """Numbers a token that a layer's attention makes: its projections, the turned queries, the output."""
    fused = heads = 0
    for matrix in matrices:
        if matrix.role == "linear" and matrix.leaf in ROWS - _GATED | {"k_proj", "v_proj"}:
            fused += cut_of(rules, matrix)[1]
        if matrix.leaf in ("o_proj", "out_proj"):
            heads = max(heads, cut_of(rules, matrix)[2])
    return fused + 2 * heads


def _widest(rules: Rules, matrices: list[Matrix], budget: int) -> int:
    """Bytes of the largest output of a product in a layer."""
    outputs = {"attention": 0, "dense": 0, "experts": 0}
    for matrix in matrices:
        if matrix.role == "linear" and matrix.leaf in ROWS | {"k_proj", "v_proj"}:
            outputs["dense" if matrix.leaf in _GATED else "attention"] += budget * cut_of(rules, matrix)[1]
        elif matrix.role == "expert" and matrix.leaf in _GATED:
            outputs["experts"] += budget * rules.card.experts_per_token * cut_of(rules, matrix)[1]
    return max(outputs.values()) * rules.item_bytes


def _feed_forward(rules: Rules, matrices: list[Matrix], budget: int) -> int:
    """Bytes of a layer's feed-forward blocks.

    Of experts: the gathered inputs and the outputs of gate and up, then the inputs and each slot's outputs of down. In a step
    too long to be recorded MXFP4 is written out for each of the two products, and what follows the first finds the first's
    memory free again.
    """
    item, dense, before, after = rules.item_bytes, 0, 0, 0
    slots = budget * rules.card.experts_per_token
    for matrix in matrices:
        count, rows, columns = cut_of(rules, matrix)
        code = 1 if held_as(rules, matrix) == "fp8" else item
        written = held_as(rules, matrix) == "mxfp4" and budget > RECORDED_TOKENS
        if matrix.role == "linear" and matrix.leaf in ("gate_proj", "up_proj"):
            dense += budget * rows * item
        elif matrix.role == "linear" and matrix.leaf == "down_proj":
            dense += budget * columns * code
        elif matrix.role == "expert" and matrix.leaf == "down_proj":
            after += slots * (columns * code + rows * item) + count * rows * columns * item * written
        elif matrix.role == "expert":
            gathered = slots * columns * code if matrix.leaf != "up_proj" else 0  # gate and up have the same
            dense += gathered + slots * rows * item
            before += count * rows * columns * item * written
    return dense + max(before, after)
