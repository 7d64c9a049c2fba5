"""The KV cache on the device: how layers are grouped, how pages are laid out, and the pool that holds them.

A page of a group holds `page_tokens` tokens of all its layers, layer after layer: K [page_tokens, kv heads, head_dim],
then V of the same shape. All pages have the same number of bytes, so one pool serves all groups and none needs a share
fixed beforehand. Grouping is pure arithmetic; only `KvPool` owns memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tokenwell.engine.attention.spec import LayerCache
from tokenwell.wire.cache import KvGroup


@dataclass(frozen=True, slots=True)
class LayerKv:
    """What one layer keeps for each token on this rank; `owner` is another layer's index when it keeps nothing itself."""

    owner: int
    kv_heads: int
    head_dim: int
    window: int | None


def group_layers(layers: Sequence[LayerKv], value_bytes: int, page_tokens: int) -> tuple[tuple[KvGroup, ...], int]:
    """The groups of a model's layers and the bytes of a page.

    The group whose tokens cost most gets `page_tokens` tokens a page; cheaper groups fit as many as the same bytes hold.
    """
    members: dict[tuple[int | None, int, int], list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.owner == index:
            members.setdefault((layer.window, layer.kv_heads, layer.head_dim), []).append(index)
    costs = {key: 2 * len(indices) * key[1] * key[2] * value_bytes for key, indices in members.items()}
    page_bytes = page_tokens * max(costs.values())
    groups = []
    for (window, kv_heads, head_dim), indices in members.items():
        cost = costs[window, kv_heads, head_dim]
        name = "full" if window is None else f"sliding-{window}"
        groups.append(KvGroup(name, tuple(indices), kv_heads, head_dim, window, cost, page_bytes // cost))
    return tuple(groups), page_bytes


class KvPool:
    """All pages of one rank."""

    def __init__(
        self, groups: Sequence[KvGroup], page_bytes: int, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        values = page_bytes // dtype.itemsize
        self.pages = _zeros(num_pages, values, dtype, device)
        self.caches: dict[int, LayerCache] = {}
        for group in groups:
            one = group.page_tokens * group.kv_heads * group.head_dim
            for place, layer in enumerate(group.layers):
                shape = (num_pages, group.page_tokens, group.kv_heads, group.head_dim)
                stride = (values, group.kv_heads * group.head_dim, group.head_dim, 1)
                self.caches[layer] = LayerCache(
                    self.pages.as_strided(shape, stride, 2 * place * one),
                    self.pages.as_strided(shape, stride, (2 * place + 1) * one),
                )

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy whole pages (source, destination)."""
        if copies:
            sources, destinations = (torch.tensor(side, device=self.pages.device) for side in zip(*copies, strict=True))
            self.pages[destinations] = self.pages[sources]


def _zeros(num_pages: int, values: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[num_pages, values]. Zeros, because masked keys must never be NaN: a page holds finite numbers before its first use."""
    if device.type != "cpu":
        return torch.zeros((num_pages, values), dtype=dtype, device=device)
    # The operating system's own zero pages: memory is taken when a page is first written, and loading stays small.
    raw = np.zeros(num_pages * values * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(num_pages, values)
