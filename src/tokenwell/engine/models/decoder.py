"""The standard pre-norm decoder that Llama, Mistral, Qwen2 and Qwen3 share, and gpt-oss with another feed-forward block:

    x += o(attention(rope(q), rope(k), v)),   q, k, v from norm(x)
    x += feed_forward(norm(x))

Architecture files say which biases and norms there are and which feed-forward block a layer has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch

from tokenwell.engine.layers.activation import gated
from tokenwell.engine.layers.embedding import Embedding, Head
from tokenwell.engine.layers.linear import Linear
from tokenwell.engine.layers.mlp import Mlp
from tokenwell.engine.layers.norm import RmsNorm, Stream
from tokenwell.engine.models.build import Build
from tokenwell.engine.run.batch import Batch
from tokenwell.engine.weights.source import Source


class FeedForward(Protocol):
    """A block of a layer."""

    def takes_codes(self, x: torch.Tensor) -> bool:
        """Whether the norms of tokens like x [tokens, dim] are best given in e4m3."""
        ...

    def onto(self, stream: Stream, norm: RmsNorm, following: RmsNorm, *, coded: bool) -> Stream:
        """The residual stream plus the block of its `norm`; `following` and `coded` as for `Linear.onto`."""
        ...


def dense(build: Build, source: Source, index: int, bias: bool = False) -> FeedForward:
    """The gated block under `mlp.`."""
    facts = build.facts
    activation = gated(facts.activation)
    return Mlp.load(source.at("mlp."), build.ranks, facts.dim, facts.layers[index].width, activation, bias=bias)


@dataclass(frozen=True)
class Style:
    """What differs between architectures that share this decoder."""

    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False  # RMS norm of each head's query and key before rotation
    feed_forward: Callable[[Build, Source, int], FeedForward] = dense


class DecoderLayer:
    """One layer, on this rank. It gets and hands on the residual stream, maybe together with its norm."""

    def __init__(self, build: Build, source: Source, index: int, style: Style, norm: RmsNorm, following: RmsNorm) -> None:
        facts, layer = build.facts, build.facts.layers[index]
        attention = source.at("self_attn.")
        self.input_norm = norm
        self.following = following
        self.reader: Linear | None = None  # what gets the norm that this layer hands on, if that is a layer
        parts = [build.query_part("q_proj", layer), build.kv_part("k_proj", layer), build.kv_part("v_proj", layer)]
        self.qkv = Linear.load_fused(attention, build.ranks, parts, facts.dim, bias=style.qkv_bias)
        width = layer.heads * layer.head_dim
        self.o = Linear.load(attention, build.ranks, "o_proj", width, facts.dim, bias=style.o_bias, split="row")
        q_norm = attention.tensor("q_norm.weight", (layer.head_dim,)) if style.qk_norm else None
        k_norm = attention.tensor("k_norm.weight", (layer.head_dim,)) if style.qk_norm else None
        sinks = attention.tensor("sinks", (layer.heads,), shard_dim=0) if facts.sinks else None
        self.attention = build.attention(index, sinks=sinks, q_norm=q_norm, k_norm=k_norm)
        self.output_norm = RmsNorm.load(source, "post_attention_layernorm", facts.dim, facts.norm_eps)
        self.feed_forward = style.feed_forward(build, source, index)

    def __call__(self, stream: Stream, batch: Batch, narrow: bool = False) -> Stream:
        """[tokens, dim] -> [tokens, dim]; `narrow`: only the batch's kept tokens go on once keys are written -> [kept, dim]"""
        given, norm = stream.given(self.input_norm)
        x, q = stream.x, self.attention.front(self.qkv(given, before=norm), batch)
        if narrow:
            x, q, batch = x[batch.keep], q[batch.keep], batch.kept()
            if not len(x):
                return Stream(x)
        stream = self.o.onto(x, self.attention.attend(q, batch), self.output_norm, coded=self.feed_forward.takes_codes(x))
        coded = self.reader is not None and self.reader.takes_codes(x)
        return self.feed_forward.onto(stream, self.output_norm, self.following, coded=coded)


class Decoder:
    """The whole model on this rank: token ids to hidden states to logits."""

    def __init__(self, build: Build, style: Style, prefix: str = "model.") -> None:
        facts, source = build.facts, build.source
        body = source.at(prefix)
        self.facts = facts
        self.dtype = build.dtype
        self.embedding = Embedding.load(body, "embed_tokens", facts.vocabulary, facts.dim)
        norms = build.stream_norms(body)
        self.layers = [
            DecoderLayer(build, body.at(f"layers.{index}."), index, style, *norms[index : index + 2])
            for index in range(len(facts.layers))
        ]
        for layer, following in pairwise(self.layers):
            layer.reader = following.qkv
        self.norm = norms[-1]
        self.head = Head.load(
            source, build.ranks, "lm_head", self.embedding, facts.vocabulary, facts.dim, tied=facts.tied, softcap=facts.softcap
        )
        if facts.tied:
            source.skip(r"lm_head\.weight", "the output head is tied to the embedding")
        # Old files carry them; they follow from the config.
        source.skip(r".*\.rotary_emb\.inv_freq", "rotary frequencies are computed")

    def forward(self, batch: Batch) -> torch.Tensor:
        """Write the batch's keys and values; hidden states of its kept tokens [kept, dim]."""
        stream = Stream(self.embedding(batch.ids))
        for layer in self.layers[:-1]:
            stream = layer(stream, batch)
        x, normed = self.layers[-1](stream, batch, narrow=not batch.keep_all)
        if normed is None:
            return self.norm(x)
        assert isinstance(normed, torch.Tensor)  # the head takes no codes
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, dim] -> [rows, vocabulary], float32 or `dtype`"""
        return self.head(hidden)
