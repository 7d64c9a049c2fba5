"""The KV cache on the device: how pages are laid out, and the pool that holds them.

A page of a group holds `page_tokens` tokens of all its layers, layer after layer: K [page_tokens, kv heads, head_dim],
then V of the same shape; a folded layer, whose K follows from V, has V alone. All pages have the same number of bytes, so
one pool serves all groups and none needs a share fixed beforehand. How layers are grouped is `wire.cache`'s arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tokenwell.engine.attention.spec import LayerCache
from tokenwell.wire.cache import KvGroup

if TYPE_CHECKING:
    from tokenwell.engine.attention.spec import Fold


class KvPool:
    """All pages of one rank."""

    def __init__(
        self, groups: Sequence[KvGroup], page_bytes: int, num_pages: int, dtype: torch.dtype, device: torch.device,
        folds: Mapping[int, Fold] | None = None, scales: Mapping[int, tuple[float, float]] | None = None,
    ) -> None:  # fmt: skip
        """`folds`: how layers of folded groups rebuild K; `scales`: what stored keys and values are multiplied with."""
        self.pages = _zeros(num_pages, page_bytes, device)  # [pages, bytes] uint8
        self.caches: dict[int, LayerCache] = {}
        values = self.pages.view(dtype)
        for group in groups:
            one = group.page_tokens * group.kv_heads * group.head_dim
            shape = (num_pages, group.page_tokens, group.kv_heads, group.head_dim)
            stride = (values.shape[1], group.kv_heads * group.head_dim, group.head_dim, 1)
            tensors = 1 if group.folded else 2
            for place, layer in enumerate(group.layers):
                k, v = (values.as_strided(shape, stride, (tensors * place + half) * one) for half in (0, tensors - 1))
                k_scale, v_scale = (scales or {}).get(layer, (1.0, 1.0))
                fold = (folds or {})[layer] if group.folded else None
                self.caches[layer] = LayerCache(k, v, k_scale, v_scale, fold)

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy whole pages (source, destination)."""
        if copies:
            sources, destinations = (torch.tensor(side, device=self.pages.device) for side in zip(*copies, strict=True))
            self.pages[destinations] = self.pages[sources]


def _zeros(num_pages: int, page_bytes: int, device: torch.device) -> torch.Tensor:
    """[pages, bytes] uint8. Zeros, because masked keys must never be NaN: a page holds finite numbers before its first use."""
    if device.type != "cpu":
        return torch.zeros((num_pages, page_bytes), dtype=torch.uint8, device=device)
    # The operating system's own zero pages: memory is taken when a page is first written, and loading stays small.
    return torch.from_numpy(np.zeros((num_pages, page_bytes), dtype=np.uint8))
