"""How vLLM 0.19 lays out its KV cache: groups of layers, equal pages, and what it prints of a number of blocks.

Source: vLLM 0.19's v1/core/kv_cache_utils.py, v1/kv_cache_interface.py and model_executor/models/config.py (hybrid models).
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenwell.plan.card import LayerFacts, ModelCard
from tokenwell.plan.vllm.device import GIB, Device
from tokenwell.wire.errors import CapacityError

# A type of layers may be this much more frequent than another before its layers are dealt out in several groups.
_NEARLY_ALIKE = 1.5


@dataclass(frozen=True, slots=True)
class LayerType:
    """Layers that cost the same."""

    kind: str  # "full" | "sliding" | "linear"
    window: int | None
    layers: int
    groups: int
    block_tokens: int
    token_bytes: int  # of one layer on one rank; 0 for recurrent states
    blocks_per_request: int  # of one group, for a request as long as the window served

    @property
    def name(self) -> str:
        """ "sliding-1024", "full", ..."""
        return self.kind if self.window is None else f"{self.kind}-{self.window}"


@dataclass(frozen=True, slots=True)
class Cache:
    """The layout for one model, rank and window."""

    types: tuple[LayerType, ...]
    block_bytes: int  # of one block, over all layers of a group
    page_bytes: int  # of one block of one layer; the largest where layers differ
    max_model_len: int
    state_padding: float  # how much larger than its contents the page of a recurrent state is; 0 without such

    @property
    def groups(self) -> int:
        """Groups of layers, each with a table of blocks of its own."""
        return sum(kind.groups for kind in self.types)

    @property
    def blocks_per_request(self) -> int:
        """Blocks that one request of `max_model_len` tokens is counted with."""
        return sum(kind.groups * kind.blocks_per_request for kind in self.types)

    def blocks(self, available_bytes: int) -> int:
        """Blocks that fit."""
        return max(0, available_bytes) // self.block_bytes

    def tokens(self, blocks: int) -> int:
        """`GPU KV cache size`: as if blocks were dealt out evenly and all were the smallest."""
        smallest = min(self.max_model_len if kind.kind == "linear" else kind.block_tokens for kind in self.types)
        return blocks // self.groups * smallest

    def concurrency(self, blocks: int) -> float:
        """`Maximum concurrency`, two decimals as printed."""
        return round(blocks / self.blocks_per_request, 2)

    def blocks_that_print(self, tokens: int, concurrency: float) -> range:
        """Numbers of blocks for which vLLM prints this pair; empty when there is none."""
        low = int((concurrency - 0.006) * self.blocks_per_request)
        high = int((concurrency + 0.006) * self.blocks_per_request) + 2
        found = [n for n in range(max(0, low), high) if (self.tokens(n), self.concurrency(n)) == (tokens, round(concurrency, 2))]
        return range(found[0], found[-1] + 1) if found else range(0)

    def gib(self, blocks: int) -> float:
        """Memory that so many blocks take."""
        return blocks * self.block_bytes / GIB


def layout(
    card: ModelCard, tp: int, value_bytes: int, device: Device, max_model_len: int, batched_tokens: int, align: bool = False
) -> Cache:  # fmt: skip
    """The layout of the KV cache on one rank. `align`: prefix caching is on for a model with recurrent states.

    Raises CapacityError where vLLM 0.19 has no layout for the model.
    """
    kept: dict[tuple[str, int | None, int], list[LayerFacts]] = {}
    for layer in card.layers:
        if layer.owner == layer.index:
            token_bytes = 0 if layer.kind == "linear" else _token_bytes(layer, tp, value_bytes)
            kept.setdefault((layer.kind, layer.window, token_bytes), []).append(layer)
    attention = [key[2] for key in kept if key[2]]
    if not attention:
        raise CapacityError(f"{card.architecture} has no attention layer with keys of its own; vLLM's figures need one")
    state = max((layer.state_bytes for layer in card.layers), default=0) // tp
    block = device.block_tokens
    if state:
        # The attention block grows until its page is as large as a state, in whole kernel blocks.
        block = max(block, device.block_tokens * -(-state // (device.block_tokens * max(attention))))
    page = block * max(attention)
    if len({key[:2] for key in kept}) == 1:  # one group, whatever the sizes
        block_bytes = sum(block * key[2] * len(layers) for key, layers in kept.items())
        per_group = max(len(layers) for layers in kept.values())
    else:
        per_group = _layers_per_group([len(layers) for layers in kept.values()])
        block_bytes = page * per_group
    types = []
    for (kind, window, token_bytes), layers in kept.items():
        tokens = _block_tokens(card, page, token_bytes, block, len({key[:2] for key in kept}) == 1)
        need = 2 if align else 1
        if kind != "linear":
            seen = max_model_len if window is None else min(window - 1 + batched_tokens, max_model_len)
            need = -(-seen // tokens) + (window is not None)
        groups = -(-len(layers) // per_group)
        types.append(LayerType(kind, window, len(layers), groups, tokens, token_bytes, need))
    return Cache(tuple(types), block_bytes, page, max_model_len, page / state - 1 if state else 0.0)


def _token_bytes(layer: LayerFacts, tp: int, value_bytes: int) -> int:
    """Keys and values of one token; fewer key heads than ranks are copied."""
    return 2 * max(1, layer.kv_heads // tp) * layer.head_dim * value_bytes


def _layers_per_group(counts: list[int]) -> int:
    return max(counts) if max(counts) < _NEARLY_ALIKE * min(counts) else min(counts)


def _block_tokens(card: ModelCard, page: int, token_bytes: int, block: int, alone: bool) -> int:
    """A cheaper type fills the page with more tokens."""
    if alone or not token_bytes:
        return block
    if page % (block * token_bytes):
        raise CapacityError(
            f"vLLM 0.19 cannot serve {card.architecture} like this: pages of {page} bytes are no multiple of the "
            f"{block * token_bytes} bytes that another kind of layers needs. Use another --tp or --kv-cache-dtype"
        )
    return page // token_bytes
