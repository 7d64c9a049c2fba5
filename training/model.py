"""Gemma 4's text model with the features of its E series, in plain PyTorch, for training.

The same function as transformers' Gemma4ForCausalLM, with the same names of weights. Rows are packed: several dialogues
stand in one row, and a token sees only its own. Weights are kept in float32 and used in the dtype of the computation.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.attention import WAYS, Mask, attend

CONFIG = Path(__file__).parent / "config.toml"
EPS = 1e-6
ROPES: dict[str, dict[str, Any]] = {
    "s": {"rope_type": "default", "rope_theta": 10_000.0},
    "f": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of the model: the table [model] of config.toml."""

    hidden: int
    layers: str
    window: int
    heads: int
    kv_heads: int
    head_dim: int
    shared: int
    mlp: int
    per_layer: int
    vocabulary: int
    context: int
    softcap: float

    @classmethod
    def load(cls, path: Path = CONFIG) -> Shape:
        return cls(**tomllib.loads(path.read_text())["model"])

    def owner(self, layer: int) -> int:
        """The layer whose keys and values this one uses."""
        first = len(self.layers) - self.shared
        return layer if layer < first else self.layers.rindex(self.layers[layer], 0, first)


class Norm(nn.Module):
    """Root-mean-square norm over the last dimension."""

    def __init__(self, dim: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return (_normed(x) * self.weight).to(x.dtype)


def _normed(x: Tensor) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)


class Linear(nn.Module):
    """A matrix, in float32, that is used in the dtype of its input."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, dim) * dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype))


class Table(nn.Module):
    """Embeddings; what is looked up has about the size of one after it was multiplied by `scale`."""

    def __init__(self, count: int, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(count, dim) / scale)

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        # Looked up first, so that gradients add up in float32. The factor is rounded as in the reference.
        return functional.embedding(ids, self.weight).to(dtype) * torch.tensor(self.scale, dtype=dtype, device=ids.device)


class Attention(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        dim, self.head_dim = shape.hidden, shape.head_dim
        # Scores are not scaled down, so the norms start small: queries times keys begin near one.
        self.q_proj, self.q_norm = Linear(dim, shape.heads * self.head_dim), Norm(self.head_dim, self.head_dim**-0.25)
        self.o_proj = Linear(shape.heads * self.head_dim, dim)
        if shape.owner(layer) == layer:
            self.k_proj, self.k_norm = Linear(dim, shape.kv_heads * self.head_dim), Norm(self.head_dim, self.head_dim**-0.25)
            self.v_proj = Linear(dim, shape.kv_heads * self.head_dim)

    def keys(self, x: Tensor, turn: Pair) -> Pair:
        """Keys and values [rows, tokens, kv_heads, head_dim] of this layer's own."""
        k, v = self.k_norm(self._heads(self.k_proj(x))), self._heads(self.v_proj(x))
        return _rotated(k, turn), _normed(v).to(x.dtype)

    def forward(self, x: Tensor, kv: Pair, turn: Pair, mask: Mask) -> Tensor:
        q = _rotated(self.q_norm(self._heads(self.q_proj(x))), turn)
        return self.o_proj(attend(q, *kv, mask).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


def _rotated(x: Tensor, turn: Pair) -> Tensor:
    """x [rows, tokens, heads, head_dim] turned by its position's angles."""
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = Linear(shape.hidden, shape.mlp), Linear(shape.hidden, shape.mlp)
        self.down_proj = Linear(shape.mlp, shape.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Layer(nn.Module):
    """One layer. Compiled by itself: layers of one kind share what is compiled."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        dim = shape.hidden
        added = (2 * len(shape.layers)) ** -0.5  # blocks start by adding little each
        self.kind = shape.layers[layer]
        self.self_attn, self.mlp = Attention(shape, layer), Mlp(shape)
        self.input_layernorm, self.post_attention_layernorm = Norm(dim), Norm(dim, added)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = Norm(dim), Norm(dim, added)
        self.per_layer_input_gate, self.per_layer_projection = Linear(dim, shape.per_layer), Linear(shape.per_layer, dim)
        self.post_per_layer_input_norm = Norm(dim, added)
        self.register_buffer("layer_scalar", torch.ones(1))  # part of the format; one here

    def forward(
        self, x: Tensor, given: Tensor, kv: Pair | None, turn: Pair, mask: Mask, drop: Tensor | None
    ) -> tuple[Tensor, Pair | None]:
        """x [rows, tokens, hidden] -> the next x, and the layer's own keys and values.

        given: its part of the per-layer embedding; kv: of the layer that owns them, None where that is this one; turn: as `turns`
        gives it for this kind of layer; drop: as in `dropped`.
        """
        normed = self.input_layernorm(x)
        own = self.self_attn.keys(normed, turn) if kv is None else None
        x = x + dropped(self.post_attention_layernorm(self.self_attn(normed, kv or own, turn, mask)), drop)
        x = x + dropped(self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x))), drop)
        gate = functional.gelu(self.per_layer_input_gate(x), approximate="tanh")
        return x + self.post_per_layer_input_norm(self.per_layer_projection(gate * given)), own


class Body(nn.Module):
    """Everything but the head: token ids to hidden states."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        count = len(shape.layers)
        self.embed_tokens = Table(shape.vocabulary, shape.hidden, shape.hidden**0.5)
        self.embed_tokens_per_layer = Table(shape.vocabulary, count * shape.per_layer, shape.per_layer**0.5)
        self.per_layer_model_projection = Linear(shape.hidden, count * shape.per_layer)
        self.per_layer_projection_norm = Norm(shape.per_layer)
        self.layers = nn.ModuleList(Layer(shape, layer) for layer in range(count))
        self.norm = Norm(shape.hidden)
        self.drop: Tensor | None = None  # the share of values that training leaves out; it changes without compiling anew

    def forward(self, ids: Tensor, documents: Tensor, dtype: torch.dtype, way: str) -> Tensor:
        """ids and documents [rows, tokens] -> [rows, tokens, hidden]; `way`: of attention, one of WAYS.

        Numbers of documents never fall within a row.
        """
        windows = {"s": self.shape.window, "f": ids.shape[1]}
        masks = {kind: WAYS[way](documents, window) for kind, window in windows.items()}
        x, given = self.embedded(ids, dtype)
        turned = {kind: turns(self.shape, kind, x) for kind in windows}  # once for all layers: sines cost more than they look
        stored: dict[int, Pair | None] = {}
        for number, layer in enumerate(self.layers):
            x, stored[number] = layer(
                x, given[number], stored.get(self.shape.owner(number)), turned[layer.kind], masks[layer.kind], self.drop
            )
        return x

    def embedded(self, ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The embeddings, and every layer's part of the per-layer ones [rows, tokens, per_layer]."""
        shape = self.shape
        x = self.embed_tokens(ids, dtype)
        projected = self.per_layer_model_projection(x) * shape.hidden**-0.5
        projected = self.per_layer_projection_norm(projected.unflatten(-1, (len(shape.layers), shape.per_layer)))
        given = (projected + self.embed_tokens_per_layer(ids, dtype).view_as(projected)) * 2**-0.5
        return x, given.unbind(2)


class Mini(nn.Module):
    """The language model. State: the names of the checkpoint's tensors."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)

    def compile_parts(self) -> None:
        """Compile embedding, layers and head one by one, which takes far less time than all in one."""
        self.model.embedded = torch.compile(  # type: ignore[method-assign]
            self.model.embedded, fullgraph=True, dynamic=False
        )
        for layer in self.model.layers:
            layer.compile(fullgraph=True, dynamic=False)
        self.judged = torch.compile(self.judged, fullgraph=True, dynamic=False)  # type: ignore[method-assign]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] of the last layer -> [..., vocabulary] in float32."""
        raw = functional.linear(self.model.norm(hidden), self.model.embed_tokens.weight.to(hidden.dtype)).float()
        return self.shape.softcap * torch.tanh(raw / self.shape.softcap)

    def forward(
        self, ids: Tensor, documents: Tensor, places: Tensor, targets: Tensor, dtype: torch.dtype, way: str
    ) -> tuple[Tensor, Tensor]:
        """The mean loss, and the likeliest token at each place.

        `places`: positions in the flattened rows whose next token is learned; `targets`: these tokens, -100 for a filler.
        """
        return self.judged(self.model(ids, documents, dtype, way), places, targets)

    def judged(self, hidden: Tensor, places: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, from the hidden states of the last layer [rows, tokens, hidden]."""
        logits = self.logits(hidden.flatten(0, 1)[places])
        return functional.cross_entropy(logits, targets, ignore_index=-100), logits.detach().argmax(-1)


def dropped(x: Tensor, share: Tensor | None) -> Tensor:
    """Dropout (Srivastava et al., 2014): a share (one value) of x is zero, the rest grows so that the mean stays."""
    if share is None:
        return x
    kept = torch.rand(x.shape, device=x.device) >= share
    return torch.where(kept, x / (1 - share).to(x.dtype), 0.0)


def turns(shape: Shape, kind: str, like: Tensor) -> Pair:
    """Cosines and sines [tokens, 1, head_dim] for x [rows, tokens, hidden]; channels that are not turned have the angle zero."""
    half, tokens = shape.head_dim // 2, like.shape[1]
    exponents = torch.arange(half, device=like.device, dtype=torch.float32) * 2 / shape.head_dim
    rates = ROPES[kind]["rope_theta"] ** -exponents
    rates = torch.where(torch.arange(half, device=like.device) < half * ROPES[kind].get("partial_rotary_factor", 1.0), rates, 0.0)
    angles = torch.arange(tokens, device=like.device, dtype=torch.float32)[:, None] * rates
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def parameters(shape: Shape) -> int:
    """How many values the checkpoint has."""
    with torch.device("meta"):
        return sum(math.prod(tensor.shape) for tensor in Mini(shape).state_dict().values())
