"""Gemma 4 (Gemma4ForCausalLM, and the text part of Gemma4ForConditionalGeneration).

Four norms a layer, heads of two sizes, and as the config says: per-layer embeddings and layers that reuse an earlier
layer's keys and values (E2B, E4B), one projection for keys and values on full layers (26B, 31B), a mixture of experts
beside the dense block (26B).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from tokenwell.engine.kernels import trust
from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.layers.activation import gated
from tokenwell.engine.layers.beside import both
from tokenwell.engine.layers.embedding import Embedding, Head
from tokenwell.engine.layers.linear import Linear
from tokenwell.engine.layers.mlp import Mlp
from tokenwell.engine.layers.moe import Experts
from tokenwell.engine.layers.norm import Join, RmsNorm
from tokenwell.engine.layers.per_layer import PerLayerGate, PerLayerInputs
from tokenwell.engine.layers.router import Router
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ExpertFacts, LayerFacts, ModelFacts, Raw
from tokenwell.engine.run.batch import Batch
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError

_FEW = 128  # tokens whose dense block leaves most of a card idle
_TOWERS = r"(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio|vision_embedder|audio_embedder)\..*"


def read(raw: Raw) -> ModelFacts:
    """Facts from config.json, nested under text_config or not."""
    text = raw.inner("text_config")
    count = text.size("num_hidden_layers")
    types = text.layer_types(count, ["full_attention" if (index + 1) % 6 == 0 else "sliding_attention" for index in range(count)])
    if types[-1] != "full_attention":  # the reference implementation insists on it
        types = [*types[:-1], "full_attention"]
    if text.get("use_bidirectional_attention") == "all":
        raise CheckpointError(f"{text.where}: use_bidirectional_attention 'all' is not a decoder; it is not supported")
    shared = text.get("num_kv_shared_layers", default=0)
    first_shared = count - shared
    layers = []
    for index, kind in enumerate(types):
        owner = _owner(types, index, first_shared) if index >= first_shared else None
        layers.append(_layer(text, kind, index, owner))
    experts = None
    if text.get("enable_moe_block", default=False):
        experts = ExpertFacts(text.size("num_experts"), text.size("top_k_experts"), text.size("moe_intermediate_size"))
    return ModelFacts(
        architecture="Gemma4ForCausalLM", vocabulary=text.size("vocab_size"), dim=text.size("hidden_size"), layers=tuple(layers),
        norm_eps=text.number("rms_norm_eps", 1e-6), tied=text.tied(True),
        window=text.size("max_position_embeddings", default=131072),
        activation=str(text.get("hidden_activation", default="gelu_pytorch_tanh")),
        dtype=(text if text.get("dtype", "torch_dtype") else raw).dtype(),
        experts=experts, softcap=text.get("final_logit_softcapping"),
    )  # fmt: skip


def _owner(types: list[str], index: int, first_shared: int) -> int:
    """The last layer of the same kind that has keys and values of its own."""
    for earlier in range(first_shared - 1, -1, -1):
        if types[earlier] == types[index]:
            return earlier
    raise CheckpointError(f"config.json: layer {index} shares keys of a {types[index]} layer, but none before has any")


def _layer(text: Raw, kind: str, index: int, owner: int | None) -> LayerFacts:
    full = kind == "full_attention"
    k_eq_v = full and bool(text.get("attention_k_eq_v", default=False))
    heads, kv_heads, head_dim = text.heads()
    if full:
        # Files that transformers wrote list the layers that differ, and none when all heads have one size.
        head_dim = text.size("global_head_dim", default=512 if text.get("per_layer_config") is None else head_dim)
    if k_eq_v:
        kv_heads = text.size("num_global_key_value_heads", default=kv_heads)
    override = _override(text, index, kind)
    kv_heads = override.get("num_key_value_heads") or kv_heads
    head_dim = override.get("head_dim") or head_dim
    rope = Raw((text.get("rope_parameters", default={}) or {}).get(kind) or _ROPES[kind], f"{text.where}, rope_parameters")
    spec = Raw({"rope_parameters": rope.values, "max_position_embeddings": text.get("max_position_embeddings")}).rope(head_dim)
    width = text.size("intermediate_size")
    if owner is not None and text.get("use_double_wide_mlp", default=False):
        width *= 2
    experts = bool(text.get("enable_moe_block", default=False))
    window = None if full else text.size("sliding_window", default=512)
    return LayerFacts(heads, kv_heads, head_dim, window, spec, 1.0, width, experts, owner, k_eq_v)


_ROPES: dict[str, dict[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}


def _override(text: Raw, index: int, kind: str) -> dict[str, Any]:
    """What files written by transformers say of one layer (`per_layer_config`, keyed by index or kind)."""
    layers = text.get("per_layer_config", default={})
    return dict(layers.get(str(index)) or layers.get(kind) or {}) if isinstance(layers, dict) else {}


def build(build: Build, raw: Raw) -> Gemma4:
    """Load the model, wherever the file keeps its text part."""
    source = build.source
    for prefix in ("model.language_model.", "language_model.model.", "model.", ""):
        if source.has(f"{prefix}embed_tokens.weight"):
            break
    source.skip(_TOWERS, "pictures and sound are not served, only text")
    text = raw.inner("text_config")
    media = [raw.get(f"{kind}_token_id") for kind in ("image", "video", "audio")] if text is not raw else []
    return Gemma4(build, text, prefix, [token for token in media if token is not None])


def _router(build: Build, source: Source) -> Router:
    """Shares are of a softmax over all experts, made to sum to one over the chosen, times a factor an expert."""
    facts = build.facts
    assert facts.experts is not None
    norm = RmsNorm(source.tensor("scale", (facts.dim,)) * facts.dim**-0.5, facts.dim, facts.norm_eps)
    project = Linear.load(source, build.ranks, "proj", facts.dim, facts.experts.count)
    factor = source.tensor("per_expert_scale", (facts.experts.count,)).to(torch.float32)
    return Router(project, facts.experts.chosen, over_chosen=True, norm=norm, factor=factor)


class Gemma4Attention:
    """Attention with normed queries, keys and values; the projections that a layer has follow from its facts."""

    def __init__(self, build: Build, source: Source, index: int) -> None:
        facts, layer = build.facts, build.facts.layers[index]
        parts = [build.query_part("q_proj", layer)]
        q_norm, k_norm = source.tensor("q_norm.weight", (layer.head_dim,)), None
        if layer.owner is None:
            parts.append(build.kv_part("k_proj", layer))
            if not layer.k_eq_v:
                parts.append(build.kv_part("v_proj", layer))
            k_norm = source.tensor("k_norm.weight", (layer.head_dim,))
        self.qkv = Linear.load_fused(source, build.ranks, parts, facts.dim)
        self.o = Linear.load(source, build.ranks, "o_proj", layer.heads * layer.head_dim, facts.dim, split="row")
        self.attention = build.attention(index, q_norm=q_norm, k_norm=k_norm, v_norm=True)

    def front(self, x: torch.Tensor | Codes, batch: Batch) -> torch.Tensor:
        """Project x [tokens, dim], store keys and values if the layer has any; the queries [tokens, heads, head_dim]."""
        return self.attention.front(self.qkv(x), batch)

    def attend(self, q: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[tokens, heads, head_dim] -> [tokens, dim], maybe in parts"""
        return self.o.in_parts(self.attention.attend(q, batch))


class Gemma4Layer:
    """One layer, on this rank. It gets the residual stream together with its norm, and hands on both for the next layer."""

    def __init__(self, build: Build, source: Source, index: int, per_layer_dim: int, next_norm: RmsNorm) -> None:
        facts, layer = build.facts, build.facts.layers[index]

        def norm(name: str) -> RmsNorm:
            return RmsNorm.load(source, name, facts.dim, facts.norm_eps)

        activation = gated(facts.activation)
        scalar = source.tensor("layer_scalar", (1,))
        self.attention = Gemma4Attention(build, source.at("self_attn."), index)
        self.mlp = Mlp.load(source.at("mlp."), build.ranks, facts.dim, layer.width, activation)
        attention_norm, mlp_norm = norm("post_attention_layernorm"), norm("pre_feedforward_layernorm")
        output_norm = norm("post_feedforward_layernorm")
        self.experts: Experts | None = None
        self.per_layer: PerLayerGate | None = None
        if facts.experts is not None:
            self.router = _router(build, source.at("router."))
            self.experts = Experts.load(source, build.ranks, facts.experts.count, facts.dim, facts.experts.width, activation)
            self.after_attention = Join((attention_norm,), (mlp_norm, norm("pre_feedforward_layernorm_2")))
            output = Join((norm("post_feedforward_layernorm_1"), norm("post_feedforward_layernorm_2")), outer=output_norm)
        else:
            self.after_attention = Join((attention_norm,), (mlp_norm,))
            output = Join((output_norm,))
        if per_layer_dim:
            self.per_layer = PerLayerGate(source, build.ranks, facts.dim, per_layer_dim, activation, output)
            output = Join((norm("post_per_layer_input_norm"),))
        self.output = replace(output, next=(next_norm,), scalar=scalar)
        self.reader: Linear | None = None  # what gets the norm that this layer hands on, if that is a layer
        self.writes_last = False  # whether no layer behind it writes keys and values of its own

    def __call__(
        self, x: torch.Tensor, normed: torch.Tensor | Codes, given: torch.Tensor | None, batch: Batch, narrow: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | Codes]:
        """x and its norm [tokens, dim], this layer's per-layer input [tokens, per-layer dim] -> the next x and its norm.

        `narrow`: only the batch's kept tokens go on once keys are written -> [kept, dim]
        """
        q = self.attention.front(normed, batch)
        if narrow:
            x, q, given = x[batch.keep], q[batch.keep], given[batch.keep] if given is not None else None
            batch = batch.kept()
            if not len(x):
                return x, x
        coded = (self.mlp.takes_codes(x), *((False,) if self.experts is not None else ()))
        x, inputs = self.after_attention.coded(coded, x, self.attention.attend(q, batch))
        blocks = self._blocks(x, inputs)
        if self.per_layer is not None and given is not None:
            x, taken = self.per_layer(x, given, *blocks)
            blocks = [taken]
        x, (normed,) = self.output.coded((self.reader is not None and self.reader.takes_codes(x),), x, *blocks)
        return x, normed

    def _blocks(self, x: torch.Tensor, inputs: list[torch.Tensor | Codes]) -> list[torch.Tensor]:
        """What the feed-forward blocks make of their inputs; experts are chosen by x."""
        experts = self.experts
        if experts is None:
            return [self.mlp.in_parts(inputs[0])]
        given = inputs[1]
        assert isinstance(given, torch.Tensor)

        def dense() -> torch.Tensor:
            return self.mlp.in_parts(inputs[0])

        def mixture() -> torch.Tensor:
            return experts(given, *self.router(x))

        if len(x) > _FEW or experts.ranks.world > 1:
            return [dense(), mixture()]
        return list(both(dense, mixture, x.device))


class Gemma4:
    """The whole text model on this rank."""

    def __init__(self, build: Build, text: Raw, prefix: str, media: list[int]) -> None:
        """`media` are the ids that stand for pictures and sound."""
        facts, source = build.facts, build.source
        body = source.at(prefix)
        self.facts = facts
        self.dtype = build.dtype
        self.media = torch.tensor(media, dtype=torch.int64, device=build.device) if media else None
        self.pad = text.get("pad_token_id", default=0)
        self.embedding = Embedding.load(body, "embed_tokens", facts.vocabulary, facts.dim, scale=facts.dim**0.5)
        self.scale = float(torch.tensor(facts.dim**0.5, dtype=build.dtype))
        per_layer_dim = text.get("hidden_size_per_layer_input", default=256)
        self.per_layer: PerLayerInputs | None = None
        if per_layer_dim:
            vocabulary = text.size("vocab_size_per_layer_input", default=facts.vocabulary)
            self.per_layer = PerLayerInputs(
                body, build.ranks, vocabulary, len(facts.layers), per_layer_dim, facts.dim, facts.norm_eps,
                offloaded=build.offload_tables,
            )  # fmt: skip
        norms = build.stream_norms(body)
        self.first_norm = norms[0]
        self.layers = [
            Gemma4Layer(build, body.at(f"layers.{index}."), index, per_layer_dim, norms[index + 1])
            for index in range(len(facts.layers))
        ]
        for layer, following in pairwise(self.layers):
            layer.reader = following.attention.qkv
        first_shared = next((i for i, layer in enumerate(facts.layers) if layer.owner is not None), len(facts.layers))
        self.layers[first_shared - 1].writes_last = True
        self.head = Head.load(
            source, build.ranks, "lm_head", self.embedding, facts.vocabulary, facts.dim, tied=facts.tied, softcap=facts.softcap
        )
        if facts.tied:
            source.skip(r"(.*\.)?lm_head\.weight", "the output head is tied to the embedding")
        shared = "|".join(str(index) for index in range(first_shared, len(facts.layers)))
        if shared:
            source.skip(
                rf".*layers\.({shared})\.self_attn\.[kv]_(proj|norm)\..*", "these layers reuse an earlier layer's keys and values"
            )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Write the batch's keys and values; hidden states of its kept tokens [kept, dim]."""
        x, ids = self._embed(batch.ids)
        per_layer = self.per_layer(ids, x) if self.per_layer is not None else None
        normed: torch.Tensor | Codes = self.first_norm(x)
        # Behind the last layer that writes keys of its own, only tokens whose output is wanted go on.
        for index, layer in enumerate(self.layers):
            narrow = layer.writes_last and not batch.keep_all
            x, normed = layer(x, normed, per_layer[:, index] if per_layer is not None else None, batch, narrow)
            if narrow:
                if not len(x):
                    return x
                per_layer = per_layer[batch.keep] if per_layer is not None else None
                batch = batch.kept()
        assert isinstance(normed, torch.Tensor)  # the last layer's norm is read by the head
        return normed

    def _embed(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """ids [tokens] -> scaled rows [tokens, dim], and the ids whose rows they are."""
        if trust.reason_not("embed", ids.device) is None:
            from tokenwell.engine.kernels import embed

            return embed.embed(ids, self.embedding.table, self.scale, self.media, self.pad)
        if self.media is not None:  # without a picture to put there, its place is read as padding
            ids = ids.masked_fill(torch.isin(ids, self.media), self.pad)
        return self.embedding(ids), ids

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, dim] -> [rows, vocabulary], float32 or `dtype`"""
        return self.head(hidden)
