"""Bytes of the native engine, before it loads anything: weights, KV pages, the largest step, recorded steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenwell.plan.allocator import Made, allocated
from tokenwell.plan.card import ModelCard
from tokenwell.plan.held import KERNELS, fused, item_bytes, kv_item_bytes, rank_kv_heads, rules_for, sizes_of
from tokenwell.plan.matrices import matrices_of
from tokenwell.plan.step import activation_bytes
from tokenwell.wire.cache import KvGroup, LayerKv, group_layers
from tokenwell.wire.capacity import DEFAULTS, graph_bytes

MIB = 1 << 20
# Of a card, by kind. On an H200 with torch 2.11 the driver's context takes 527 MiB before anything is loaded; kernels' code,
# libraries' workspaces and ends of segments 380 MiB (gpt-oss-20b) to 570 MiB (Qwen3-8B) after that. Intel's runtime reports all
# of a card's memory as free at the start; its share is a guess.
CONTEXT_BYTES = {"cuda": (527 + 400) * MIB, "rocm": (527 + 400) * MIB, "xpu": 527 * MIB}
HOST_BYTES = 1600 * MIB  # of the host, for an engine process with torch and its libraries: 1.46 to 1.62 GiB beside an H200


@dataclass(frozen=True, slots=True)
class NativeBytes:
    """What one rank takes; of unequal ranks the one that takes most."""

    weights: int  # on the device
    by_role: Mapping[str, int]  # the same by role, without the allocator's rounding
    page_bytes: int
    groups: tuple[KvGroup, ...]
    state_bytes: int  # of each sequence, in linear-attention layers
    activations: int  # of the largest step
    graphs: int
    context: int
    host: int  # what stays in host memory


def native_bytes(
    card: ModelCard, quantization: str = "auto", kv_dtype: str = "auto", tp: int = 1, max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None, window: int | None = None, device_kind: str = "cuda",
    ple_offload: bool = False, *, dtype: str = "auto", graphs: bool = True, page_tokens: int = 16,
) -> NativeBytes:  # fmt: skip
    """The bytes of one rank.

    Raises CheckpointError where a card cannot be dealt to `tp` ranks, SettingsError for words that are not known.
    """
    defaults = DEFAULTS.get(device_kind, DEFAULTS["cuda"])
    rows = max_num_seqs or defaults.rows
    budget = max_num_batched_tokens or max(defaults.step_tokens, rows)
    window = min(window or card.window, card.window)
    item = item_bytes(card, device_kind, dtype)
    weights, by_role, host = _weights(card, quantization, tp, device_kind, item, ple_offload)
    groups, page_bytes = kv_groups(card, kv_dtype, tp, device_kind, dtype, page_tokens)
    folds = _fold_bytes(card, groups, window, item)
    if folds:
        by_role["buffer"] = by_role.get("buffer", 0) + folds
    on_card = device_kind in KERNELS
    return NativeBytes(
        weights=weights + folds, by_role=by_role, page_bytes=page_bytes, groups=groups,
        state_bytes=sum(layer.state_bytes for layer in card.layers) // tp,
        activations=activation_bytes(card, quantization, tp, rows, budget, window, groups, item) if on_card else 0,
        graphs=graph_bytes(rows, card.vocabulary) if graphs and on_card else 0,
        context=CONTEXT_BYTES.get(device_kind, 0), host=host + HOST_BYTES,
    )  # fmt: skip


def weight_bytes(
    card: ModelCard, quantization: str = "auto", tp: int = 1, device_kind: str = "cuda", layers: range | None = None
) -> int:
    """Bytes of the weights of some layers (None: all, and what belongs to no layer) on a rank, without rounding."""
    rules = rules_for(card, quantization, tp, device_kind, item_bytes(card, device_kind))
    chosen = (matrix for matrix in matrices_of(card) if layers is None or (matrix.layer is not None and matrix.layer in layers))
    return sum(sum(sizes_of(rules, [matrix])) for matrix in chosen)


def _weights(
    card: ModelCard, quantization: str, tp: int, device_kind: str, item: int, ple_offload: bool
) -> tuple[int, dict[str, int], int]:
    """Bytes on the device with the allocator's rounding, by role without it, and bytes that stay on the host."""
    rules = rules_for(card, quantization, tp, device_kind, item)
    by_role: dict[str, int] = {}
    host = 0
    made: list[int] = []
    for matrices in fused(matrices_of(card)):
        sizes, role = sizes_of(rules, matrices), matrices[0].role
        if role == "lookup" and ple_offload and rules.kernels:
            host += sum(sizes)
            continue
        by_role[role] = by_role.get(role, 0) + sum(sizes)
        made += sizes
    if rules.kernels:
        return allocated(Made((size,)) for size in made), by_role, host
    return sum(made), by_role, sum(made)


def kv_groups(
    card: ModelCard, kv_dtype: str = "auto", tp: int = 1, device_kind: str = "cuda", dtype: str = "auto", page_tokens: int = 16
) -> tuple[tuple[KvGroup, ...], int]:  # fmt: skip
    """The groups of layers that share a page table, and the bytes of a page, as the engine makes them."""
    folds = device_kind in KERNELS
    layers = [
        LayerKv(
            -1 if layer.kind == "linear" else layer.owner,  # a recurrent state is not paged
            rank_kv_heads(layer, tp), layer.head_dim, layer.window, folds and layer.folded,
        )
        for layer in card.layers
    ]  # fmt: skip
    if all(layer.owner < 0 for layer in layers):
        return (), 0
    return group_layers(layers, kv_item_bytes(card, kv_dtype, device_kind, dtype), page_tokens)


def _fold_bytes(card: ModelCard, groups: tuple[KvGroup, ...], window: int, item: int) -> int:
    """Cosines and sines with which keys are rebuilt from values: one pair of tables, in 16 bits beside 16-bit weights."""
    folded = next((group for group in groups if group.folded), None)
    if folded is None:
        return 0
    rope = card.config.get("text_config", card.config).get("rope_parameters")
    full = rope.get("full_attention") if isinstance(rope, Mapping) else None
    turned = full.get("partial_rotary_factor", 0.25) if isinstance(full, Mapping) else 0.25
    turning = int(turned * folded.head_dim // 2) if isinstance(turned, int | float) else folded.head_dim // 8
    return 2 * window * turning * (4 if item == 4 else 2)
