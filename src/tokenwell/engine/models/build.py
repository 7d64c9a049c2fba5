"""What a model needs to be built on a rank: where its tensors come from and what it may choose."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from tokenwell.engine.attention.choose import choose_backend
from tokenwell.engine.attention.spec import AttentionSpec
from tokenwell.engine.layers.attention import Attention, CacheOwner
from tokenwell.engine.layers.linear import Part, even_part
from tokenwell.engine.layers.rotary import RopeSpec, Rotary
from tokenwell.engine.models.config import LayerFacts, ModelFacts
from tokenwell.engine.run.kv import LayerKv, group_layers
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights import shard
from tokenwell.engine.weights.source import Source
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.messages import Choice


@dataclass
class Build:
    """One rank's view of a model that is being loaded."""

    source: Source
    facts: ModelFacts
    ranks: Ranks
    page_tokens: int
    choices: list[Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device: torch.device = self.source.device
        self.dtype: torch.dtype = self.source.dtype
        layers = [
            LayerKv(index if layer.owner is None else layer.owner, self.kv_heads(layer), layer.head_dim, layer.window)
            for index, layer in enumerate(self.facts.layers)
        ]
        self.groups: tuple[KvGroup, ...]
        self.groups, self.page_bytes = group_layers(layers, self.dtype.itemsize, self.page_tokens)
        group_of = {layer: index for index, group in enumerate(self.groups) for layer in group.layers}
        self.owners = [CacheOwner(layer.owner, group_of[layer.owner]) for layer in layers]
        self._rotaries: dict[RopeSpec, Rotary] = {}
        self._chosen: set[tuple[str, str]] = set()

    def heads(self, layer: LayerFacts) -> int:
        """Query heads on this rank."""
        start, stop = shard.even(layer.heads, self.ranks.rank, self.ranks.world)
        return stop - start

    def kv_heads(self, layer: LayerFacts) -> int:
        """Key heads on this rank; repeated when there are fewer than ranks."""
        start, stop = shard.head_rows(layer.kv_heads, 1, self.ranks.rank, self.ranks.world)
        return stop - start

    def query_part(self, name: str, layer: LayerFacts) -> Part:
        """The rows of a query projection that this rank keeps."""
        return even_part(name, layer.heads * layer.head_dim, self.ranks)

    def kv_part(self, name: str, layer: LayerFacts) -> Part:
        """The rows of a key or value projection that this rank keeps."""
        keep = shard.head_rows(layer.kv_heads, layer.head_dim, self.ranks.rank, self.ranks.world)
        return Part(name, layer.kv_heads * layer.head_dim, keep)

    def rotary(self, layer: LayerFacts) -> Rotary:
        """The rotary embedding of a layer; equal ones are one object."""
        if layer.rope not in self._rotaries:
            self._rotaries[layer.rope] = Rotary(layer.rope, self.device, self.dtype)
        return self._rotaries[layer.rope]

    def attention(self, index: int, sinks: torch.Tensor | None = None) -> Attention:
        """The attention of layer `index` with the first backend that can serve it."""
        layer = self.facts.layers[index]
        spec = AttentionSpec(
            self.heads(layer),
            self.kv_heads(layer),
            layer.head_dim,
            layer.scale,
            self.dtype,
            layer.window,
            sinks=sinks is not None,
        )
        backend, choice = choose_backend(spec, self.device)
        if (choice.what, choice.chosen) not in self._chosen:
            self._chosen.add((choice.what, choice.chosen))
            self.choices.append(choice)
        return Attention(spec, self.owners[index], backend, sinks)
