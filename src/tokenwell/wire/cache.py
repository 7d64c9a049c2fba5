"""KV cache arithmetic: one place for engine, log, metrics and planner.

The pool is a number of equal pages of `page_bytes`. A group is the set of layers whose tokens cost the same and live
equally long; a page belongs to one group at a time and holds `page_tokens` tokens of all layers of that group.
Page 0 is never handed out: padding rows write there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

NULL_PAGE = 0


class KvGroup(msgspec.Struct, frozen=True, array_like=True):
    """Layers that share one page table."""

    name: str  # "full", "sliding-512", ...
    layers: tuple[int, ...]  # indices of the layers that own K/V here (sharing layers own nothing)
    kv_heads: int  # on this rank
    head_dim: int
    window: int | None  # sliding window in tokens, the query's own position included; None: full attention
    bytes_per_token: int  # what is stored of all layers of the group, on this rank
    page_tokens: int  # tokens in one page
    folded: bool = False  # K == V before norm and rotation: only V is stored, K is rebuilt where it is read


@dataclass(frozen=True, slots=True)
class LayerKv:
    """What one layer keeps for each token on this rank; `owner` is another layer's index when it keeps nothing itself."""

    owner: int
    kv_heads: int
    head_dim: int
    window: int | None
    folded: bool = False  # only V is kept


def group_layers(layers: Sequence[LayerKv], value_bytes: int, page_tokens: int) -> tuple[tuple[KvGroup, ...], int]:
    """The groups of a model's layers and the bytes of a page.

    The group whose tokens cost most gets `page_tokens` tokens a page; cheaper groups fit as many as the same bytes hold.
    """
    members: dict[tuple[int | None, int, int, bool], list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.owner == index:
            members.setdefault((layer.window, layer.kv_heads, layer.head_dim, layer.folded), []).append(index)
    costs = {key: (2 - key[3]) * len(indices) * key[1] * key[2] * value_bytes for key, indices in members.items()}
    page_bytes = page_tokens * max(costs.values())
    groups = []
    for key, indices in members.items():
        window, kv_heads, head_dim, folded = key
        name = "full" if window is None else f"sliding-{window}"
        page = page_bytes // costs[key]
        groups.append(KvGroup(name, tuple(indices), kv_heads, head_dim, window, costs[key], page, folded))
    return tuple(groups), page_bytes


def pages_for(tokens: int, group: KvGroup) -> int:
    """Pages that hold `tokens` consecutive tokens from position 0, nothing freed."""
    return -(-tokens // group.page_tokens)


def first_live_page(computed: int, window: int | None, page_tokens: int) -> int:
    """Index of the first page that a query at position >= `computed` can still see.

    A query at position i of a sliding layer sees keys j with i - window < j <= i.
    """
    return 0 if window is None else max(0, computed - window + 1) // page_tokens


def peak_pages(tokens: int, step_tokens: int, group: KvGroup) -> int:
    """The most pages that one sequence of `tokens` tokens ever holds when at most `step_tokens` are computed a step."""
    whole = pages_for(tokens, group)
    if group.window is None:
        return whole
    # The window behind the chunk plus the chunk; its two ends need not lie on page boundaries.
    return min(whole, pages_for(group.window - 1 + min(step_tokens, tokens), group) + 1)


def sequence_pages(tokens: int, step_tokens: int, groups: tuple[KvGroup, ...]) -> int:
    """Pages of all groups together that one sequence of `tokens` tokens needs at its peak."""
    return sum(peak_pages(tokens, step_tokens, group) for group in groups)


def longest_sequence(num_pages: int, step_tokens: int, limit: int, groups: tuple[KvGroup, ...]) -> int:
    """The longest sequence (tokens, at most `limit`) that fits alone into a pool of `num_pages` (page 0 included)."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if sequence_pages(middle, step_tokens, groups) <= num_pages - 1:
            low = middle
        else:
            high = middle - 1
    return low


def together_pages(count: int, tokens: int, step_tokens: int, groups: tuple[KvGroup, ...]) -> int:
    """Pages of `count` sequences of `tokens` tokens at once: one computes a whole step's tokens, the others one each."""
    resting = sequence_pages(tokens, 1, groups)
    return (count - 1) * resting + sequence_pages(tokens, step_tokens, groups) if count else 0


def concurrency(num_pages: int, tokens: int, step_tokens: int, groups: tuple[KvGroup, ...]) -> float:
    """How many sequences of `tokens` tokens a pool of `num_pages` (page 0 included) holds at once; its whole part really fit."""
    resting, alone = sequence_pages(tokens, 1, groups), sequence_pages(tokens, step_tokens, groups)
    return max(0.0, 1 + (num_pages - 1 - alone) / resting)
