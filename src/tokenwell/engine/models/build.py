"""What a model needs to be built on a rank: where its tensors come from and what it may choose."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from tokenwell.checkpoint import shard
from tokenwell.engine.attention.choose import choose_backend, try_first
from tokenwell.engine.attention.spec import AttentionSpec, Fold, fold_for
from tokenwell.engine.attention.trial import sharing_disagreement
from tokenwell.engine.kernels.heads import Heads
from tokenwell.engine.layers.attention import Attention, CacheOwner
from tokenwell.engine.layers.linear import Part, even_part
from tokenwell.engine.layers.norm import RmsNorm
from tokenwell.engine.layers.rotary import RopeSpec, Rotary
from tokenwell.engine.models.config import LayerFacts, ModelFacts
from tokenwell.engine.platform.accelerator import kernels_reason_not
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.source import Source
from tokenwell.wire.cache import KvGroup, LayerKv, group_layers
from tokenwell.wire.messages import Choice

_RECORDED = ("triton", "cpu kernel")  # attention whose steps can be recorded


@dataclass
class Build:
    """One rank's view of a model that is being loaded."""

    source: Source
    facts: ModelFacts
    ranks: Ranks
    page_tokens: int
    offload_tables: bool = False  # tables that are only looked up stay in host memory
    kv_dtype: torch.dtype | None = None  # of the KV cache; None: the compute dtype
    positions: int | None = None  # that a sequence may reach; None: as many as the model knows
    choices: list[Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device: torch.device = self.source.device
        self.dtype: torch.dtype = self.source.dtype
        self.kv_dtype = self.kv_dtype or self.dtype
        kernels = kernels_reason_not(self.device) is None
        try_first([self._spec(layer, folded=layer.k_eq_v and kernels) for layer in self.facts.layers], self.device)
        layers = [
            LayerKv(
                index if layer.owner is None else layer.owner, self.kv_heads(layer), layer.head_dim, layer.window,
                layer.k_eq_v and self._folds(layer),
            )
            for index, layer in enumerate(self.facts.layers)
        ]  # fmt: skip
        self.groups: tuple[KvGroup, ...]
        self.groups, self.page_bytes = group_layers(layers, self.kv_dtype.itemsize, self.page_tokens)
        self._asks = False  # whether some attention asks the host how long rows are
        self.shares = True  # whether attention over all keys may read pages once for all rows that share them
        self.folds: dict[int, Fold] = {}  # by layer, filled as layers are built
        group_of = {layer: index for index, group in enumerate(self.groups) for layer in group.layers}
        self.owners = [CacheOwner(layer.owner, group_of[layer.owner]) for layer in layers]
        self._rotaries: dict[RopeSpec, Rotary] = {}
        self._folded: dict[Rotary, Fold] = {}
        self._chosen: set[tuple[str, str]] = set()

    @property
    def records(self) -> bool:
        """Whether steps can be recorded; on a CPU experts ask the host who chose them, and ranks exchange through it."""
        return not self._asks and (self.device.type != "cpu" or (self.facts.experts is None and self.ranks.world == 1))

    def _folds(self, layer: LayerFacts) -> bool:
        """Whether a layer whose K follows from V stores V alone: not where only slow attention could read it."""
        if kernels_reason_not(self.device) is not None:
            return False
        backend, _ = choose_backend(self._spec(layer, folded=True), self.device)
        return backend.name != "reference"

    def _spec(self, layer: LayerFacts, *, folded: bool) -> AttentionSpec:
        return AttentionSpec(
            self.heads(layer), self.kv_heads(layer), layer.head_dim, layer.scale, self.dtype, layer.window,
            sinks=self.facts.sinks, kv_dtype=self.kv_dtype, folded=folded,
        )  # fmt: skip

    def _fold(self, weight: torch.Tensor, rotary: Rotary) -> Fold:
        """The fold of a layer with this key norm; layers of one rotary embedding share its tables."""
        if rotary not in self._folded:
            positions = self.positions or self.facts.window
            turning = rotary.frequencies[: rotary.turning]
            self._folded[rotary] = fold_for(weight, turning, rotary.factor, rotary.dim // 2, positions)
        return replace(self._folded[rotary], weight=weight)

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

    def stream_norms(self, source: Source) -> list[RmsNorm]:
        """The norms that layers begin with, and the one behind the last layer: a layer may hand on the norm of the next."""
        names = [*(f"layers.{index}.input_layernorm" for index in range(len(self.facts.layers))), "norm"]
        return [RmsNorm.load(source, name, self.facts.dim, self.facts.norm_eps) for name in names]

    def rotary(self, layer: LayerFacts) -> Rotary:
        """The rotary embedding of a layer; equal ones are one object."""
        if layer.rope not in self._rotaries:
            self._rotaries[layer.rope] = Rotary(layer.rope, self.device, self.dtype)
        return self._rotaries[layer.rope]

    def attention(
        self, index: int, *, sinks: torch.Tensor | None = None, q_norm: torch.Tensor | None = None,
        k_norm: torch.Tensor | None = None, v_norm: bool = False,
    ) -> Attention:  # fmt: skip
        """The attention of layer `index` with the first backend that can serve it; norms of heads are [head_dim]."""
        layer = self.facts.layers[index]
        folded = self.groups[self.owners[index].group].folded
        spec = self._spec(layer, folded=folded)
        backend, choice = choose_backend(spec, self.device)
        self._asks |= backend.name not in _RECORDED
        if spec.window is None and self.shares and self.device.type != "cpu":
            self.shares = sharing_disagreement(backend, spec, self.device) is None
        if (choice.what, choice.chosen) not in self._chosen:
            self._chosen.add((choice.what, choice.chosen))
            self.choices.append(choice)
        rotary = self.rotary(layer)
        if folded and k_norm is not None:
            self.folds[index] = self._fold(k_norm, rotary)
        heads = Heads(
            spec.heads, spec.kv_heads, layer.head_dim, half=rotary.dim // 2, turning=rotary.turning, eps=self.facts.norm_eps,
            q_norm=q_norm, k_norm=k_norm, v_norm=v_norm, owns=layer.owner is None, k_eq_v=layer.k_eq_v,
        )  # fmt: skip
        return Attention(spec, self.owners[index], backend, heads, rotary, sinks)
