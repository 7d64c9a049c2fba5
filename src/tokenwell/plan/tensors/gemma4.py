"""Gemma 4: the decoder with two kinds of layers, and the towers for pictures and sound.

Shapes as transformers 5 builds them (models/gemma4), which the hub's names follow.
"""

from __future__ import annotations

from tokenwell.plan.fields import Fields
from tokenwell.plan.layers import LayerFacts, family_of
from tokenwell.plan.tensors.decoders import experts, mlp
from tokenwell.plan.tensors.tensor import Inventory

_CLIPS = ("input_min", "input_max", "output_min", "output_max")


def gemma4(fields: Fields, into: Inventory) -> None:
    """Gemma4ForConditionalGeneration, and Gemma4ForCausalLM, whose files have the text part alone."""
    text = fields.inner("text_config")
    nested = text is not fields
    _text(fields, text, into, "model.language_model." if nested else "model.")
    if not (text if text.get("tie_word_embeddings") is not None else fields).flag("tie_word_embeddings", True):
        into.add("lm_head.weight", (text.size("vocab_size"), text.size("hidden_size")))
    if not nested:
        return
    if (vision := fields.part("vision_config")) is not None:
        _vision(vision, into, "model.vision_tower.")
        into.add("model.embed_vision.embedding_projection.weight", (text.size("hidden_size"), vision.size("hidden_size")))
    if (audio := fields.part("audio_config")) is not None:
        _audio(audio, into, "model.audio_tower.")
        inputs = audio.size("output_proj_dims", "hidden_size")
        into.add("model.embed_audio.embedding_projection.weight", (text.size("hidden_size"), inputs))


def _text(fields: Fields, text: Fields, into: Inventory, at: str) -> None:
    hidden, vocabulary, layers = text.size("hidden_size"), text.size("vocab_size"), family_of(fields).layers(fields)
    into.add(f"{at}embed_tokens.weight", (vocabulary, hidden))
    width, per_layer = text.size("intermediate_size"), text.size("hidden_size_per_layer_input", default=256, least=0)
    for facts in layers:
        layer = f"{at}layers.{facts.index}."
        into.add(f"{layer}layer_scalar", (1,))
        _attention(text, into, f"{layer}self_attn.", facts)
        wide = 2 if facts.owner != facts.index and text.flag("use_double_wide_mlp") else 1
        mlp(into, f"{layer}mlp.", hidden, wide * width)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            into.add(f"{layer}{name}_layernorm.weight", (hidden,))
        if per_layer:
            into.add(f"{layer}per_layer_input_gate.weight", (per_layer, hidden))
            into.add(f"{layer}per_layer_projection.weight", (hidden, per_layer))
            into.add(f"{layer}post_per_layer_input_norm.weight", (hidden,))
        if text.flag("enable_moe_block"):
            _mixture(text, into, layer, hidden)
    into.add(f"{at}norm.weight", (hidden,))
    if per_layer:
        rows = text.size("vocab_size_per_layer_input", default=vocabulary)
        into.add(f"{at}embed_tokens_per_layer.weight", (rows, len(layers) * per_layer))
        into.add(f"{at}per_layer_model_projection.weight", (len(layers) * per_layer, hidden))
        into.add(f"{at}per_layer_projection_norm.weight", (per_layer,))


def _attention(text: Fields, into: Inventory, at: str, layer: LayerFacts) -> None:
    """Layers that read another layer's keys and values have projections in the hub's files all the same; nobody reads those."""
    hidden, bias = text.size("hidden_size"), text.flag("attention_bias")
    into.linear(f"{at}q_proj", layer.heads * layer.head_dim, hidden, bias)
    into.linear(f"{at}k_proj", layer.kv_heads * layer.head_dim, hidden, bias)
    if not layer.folded:
        into.linear(f"{at}v_proj", layer.kv_heads * layer.head_dim, hidden, bias)
    into.linear(f"{at}o_proj", hidden, layer.heads * layer.head_dim, bias)
    into.add(f"{at}q_norm.weight", (layer.head_dim,))
    into.add(f"{at}k_norm.weight", (layer.head_dim,))


def _mixture(text: Fields, into: Inventory, at: str, hidden: int) -> None:
    count, width = text.size("num_experts"), text.size("moe_intermediate_size")
    into.add(f"{at}router.scale", (hidden,))
    into.add(f"{at}router.per_expert_scale", (count,))
    into.add(f"{at}router.proj.weight", (count, hidden))
    experts(into, at, count, hidden, width)
    for name in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"):
        into.add(f"{at}{name}.weight", (hidden,))


def _clipped(tower: Fields, into: Inventory, name: str, rows: int, columns: int) -> None:
    """A matrix of a tower; its inputs and outputs may be clipped to stored limits."""
    if tower.flag("use_clipped_linears"):
        for limit in _CLIPS:
            into.add(f"{name}.{limit}", ())
    into.add(f"{name}.linear.weight", (rows, columns))


def _vision(vision: Fields, into: Inventory, at: str) -> None:
    hidden, width = vision.size("hidden_size"), vision.size("intermediate_size")
    heads, kv_heads, head_dim = vision.heads()
    if vision.flag("standardize"):
        into.add(f"{at}std_bias", (hidden,))
        into.add(f"{at}std_scale", (hidden,))
    into.add(f"{at}patch_embedder.position_embedding_table", (2, vision.size("position_embedding_size"), hidden))
    into.add(f"{at}patch_embedder.input_proj.weight", (hidden, 3 * vision.size("patch_size") ** 2))
    for index in range(vision.layers()):
        layer = f"{at}encoder.layers.{index}."
        for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            _clipped(vision, into, f"{layer}self_attn.{name}_proj", rows * head_dim, hidden)
        _clipped(vision, into, f"{layer}self_attn.o_proj", hidden, heads * head_dim)
        into.add(f"{layer}self_attn.q_norm.weight", (head_dim,))
        into.add(f"{layer}self_attn.k_norm.weight", (head_dim,))
        _clipped(vision, into, f"{layer}mlp.gate_proj", width, hidden)
        _clipped(vision, into, f"{layer}mlp.up_proj", width, hidden)
        _clipped(vision, into, f"{layer}mlp.down_proj", hidden, width)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            into.add(f"{layer}{name}_layernorm.weight", (hidden,))


def _audio(audio: Fields, into: Inventory, at: str) -> None:
    hidden, heads = audio.size("hidden_size"), audio.size("num_attention_heads")
    first, second = channels = audio.list_of("subsampling_conv_channels", 2, [128, 32])
    if not all(isinstance(count, int) and 0 < count <= 1 << 16 for count in channels):
        raise audio.wrong("subsampling_conv_channels", "two numbers of channels", channels)
    conv = f"{at}subsample_conv_projection."
    for index, (inputs, outputs) in enumerate(((1, first), (first, second))):
        into.add(f"{conv}layer{index}.conv.weight", (outputs, inputs, 3, 3))
        into.add(f"{conv}layer{index}.norm.weight", (outputs,))
    into.add(f"{conv}input_proj_linear.weight", (hidden, first // 4 * second))
    for index in range(audio.layers()):
        layer = f"{at}layers.{index}."
        for block in ("feed_forward1", "feed_forward2"):
            _clipped(audio, into, f"{layer}{block}.ffw_layer_1", 4 * hidden, hidden)
            _clipped(audio, into, f"{layer}{block}.ffw_layer_2", hidden, 4 * hidden)
            into.add(f"{layer}{block}.pre_layer_norm.weight", (hidden,))
            into.add(f"{layer}{block}.post_layer_norm.weight", (hidden,))
        for name in ("q_proj", "k_proj", "v_proj", "post"):
            _clipped(audio, into, f"{layer}self_attn.{name}", hidden, hidden)
        into.add(f"{layer}self_attn.relative_k_proj.weight", (hidden, hidden))
        into.add(f"{layer}self_attn.per_dim_scale", (hidden // heads,))
        _clipped(audio, into, f"{layer}lconv1d.linear_start", 2 * hidden, hidden)
        _clipped(audio, into, f"{layer}lconv1d.linear_end", hidden, hidden)
        into.add(f"{layer}lconv1d.depthwise_conv1d.weight", (hidden, 1, audio.size("conv_kernel_size")))
        into.add(f"{layer}lconv1d.pre_layer_norm.weight", (hidden,))
        into.add(f"{layer}lconv1d.conv_norm.weight", (hidden,))
        for name in ("norm_pre_attn", "norm_post_attn", "norm_out"):
            into.add(f"{layer}{name}.weight", (hidden,))
    outputs = audio.size("output_proj_dims", "hidden_size")
    into.add(f"{at}output_proj.weight", (outputs, hidden))
    into.add(f"{at}output_proj.bias", (outputs,))
