"""Qwen3.5, dense and mixture of experts: Gated DeltaNet layers between gated full-attention layers, a picture tower, and
the layers that predict further tokens (`mtp.`).
"""

from __future__ import annotations

from tokenwell.plan.fields import Fields
from tokenwell.plan.layers import family_of
from tokenwell.plan.tensors.decoders import experts, mlp
from tokenwell.plan.tensors.tensor import Inventory


def qwen35(fields: Fields, into: Inventory) -> None:
    """Qwen3_5(Moe)ForConditionalGeneration, and Qwen3_5(Moe)ForCausalLM, whose files have the text part alone."""
    text = fields.inner("text_config")
    nested = text is not fields
    body = "model.language_model." if nested else "model."
    hidden, vocabulary = text.size("hidden_size"), text.size("vocab_size")
    into.add(f"{body}embed_tokens.weight", (vocabulary, hidden))
    for index, kind in enumerate(layer.kind for layer in family_of(fields).layers(fields)):
        _layer(text, into, f"{body}layers.{index}.", kind)
    into.add(f"{body}norm.weight", (hidden,))
    if not (text if text.get("tie_word_embeddings") is not None else fields).flag("tie_word_embeddings"):
        into.add("lm_head.weight", (vocabulary, hidden))
    vision = fields.part("vision_config")
    if nested and vision is not None:
        _vision(vision, into, "model.visual.")
    if text.get("mtp_num_hidden_layers"):
        _drafter(text, into, text.layers("mtp_num_hidden_layers"))


def _layer(text: Fields, into: Inventory, at: str, kind: str) -> None:
    hidden = text.size("hidden_size")
    if kind == "linear":
        _delta_net(text, into, f"{at}linear_attn.", hidden)
    else:
        heads, kv_heads, head_dim = text.heads()
        bias = text.flag("attention_bias")
        gates = 2 if text.flag("attn_output_gate", default=True) else 1  # each head's query channels, then its gate's
        into.linear(f"{at}self_attn.q_proj", gates * heads * head_dim, hidden, bias)
        into.linear(f"{at}self_attn.k_proj", kv_heads * head_dim, hidden, bias)
        into.linear(f"{at}self_attn.v_proj", kv_heads * head_dim, hidden, bias)
        into.linear(f"{at}self_attn.o_proj", hidden, heads * head_dim, bias)
        into.add(f"{at}self_attn.q_norm.weight", (head_dim,))
        into.add(f"{at}self_attn.k_norm.weight", (head_dim,))
    if text.get("num_experts") is None:
        mlp(into, f"{at}mlp.", hidden, text.size("intermediate_size"))
    else:
        _mixture(text, into, f"{at}mlp.", hidden)
    into.add(f"{at}input_layernorm.weight", (hidden,))
    into.add(f"{at}post_attention_layernorm.weight", (hidden,))


def _delta_net(text: Fields, into: Inventory, at: str, hidden: int) -> None:
    key_heads, value_heads = text.size("linear_num_key_heads", default=16), text.size("linear_num_value_heads", default=32)
    key_dim = text.size("linear_key_head_dim", default=128)
    value_dim = text.size("linear_value_head_dim", default=128)
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    into.add(f"{at}conv1d.weight", (channels, 1, text.size("linear_conv_kernel_dim", default=4)))
    into.add(f"{at}dt_bias", (value_heads,), "F32")
    into.add(f"{at}A_log", (value_heads,), "F32")
    into.add(f"{at}norm.weight", (value_dim,), "F32")
    into.linear(f"{at}out_proj", hidden, value_heads * value_dim)
    into.linear(f"{at}in_proj_qkv", channels, hidden)
    into.linear(f"{at}in_proj_z", value_heads * value_dim, hidden)
    # A number a head: too small to be worth quantising, and no published file does.
    into.add(f"{at}in_proj_b.weight", (value_heads, hidden))
    into.add(f"{at}in_proj_a.weight", (value_heads, hidden))


def _mixture(text: Fields, into: Inventory, at: str, hidden: int) -> None:
    count, width = text.size("num_experts"), text.size("moe_intermediate_size")
    into.add(f"{at}gate.weight", (count, hidden))
    experts(into, at, count, hidden, width)
    if shared := text.size("shared_expert_intermediate_size", default=0, least=0):
        mlp(into, f"{at}shared_expert.", hidden, shared)
        into.add(f"{at}shared_expert_gate.weight", (1, hidden))


def _drafter(text: Fields, into: Inventory, layers: int) -> None:
    hidden = text.size("hidden_size")
    into.add("mtp.fc.weight", (hidden, 2 * hidden))
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        into.add(f"mtp.{name}.weight", (hidden,))
    if text.flag("mtp_use_dedicated_embeddings"):
        into.add("mtp.embed_tokens.weight", (text.size("vocab_size"), hidden))
    for index in range(layers):
        _layer(text, into, f"mtp.layers.{index}.", "full")


def _vision(vision: Fields, into: Inventory, at: str) -> None:
    """Pictures cut into patches, a plain encoder with biases, and a merger of squares of patches."""

    def add(name: str, *shape: int, bias: bool = True) -> None:
        into.add(f"{at}{name}.weight", shape)
        if bias:
            into.add(f"{at}{name}.bias", shape[:1])

    hidden, width = vision.size("hidden_size"), vision.size("intermediate_size")
    patch, frames = vision.size("patch_size"), vision.size("temporal_patch_size", default=2)
    merged = hidden * vision.size("spatial_merge_size", default=2) ** 2
    add("patch_embed.proj", hidden, vision.size("in_channels", default=3), frames, patch, patch)
    add("pos_embed", vision.size("num_position_embeddings"), hidden, bias=False)
    for index in range(vision.layers("depth")):
        block = f"blocks.{index}."
        add(f"{block}norm1", hidden)
        add(f"{block}norm2", hidden)
        add(f"{block}attn.qkv", 3 * hidden, hidden)
        add(f"{block}attn.proj", hidden, hidden)
        add(f"{block}mlp.linear_fc1", width, hidden)
        add(f"{block}mlp.linear_fc2", hidden, width)
    deep = vision.get("deepstack_visual_indexes", default=[])
    if not isinstance(deep, list):
        raise vision.wrong("deepstack_visual_indexes", "a list of layers", deep)
    for index, merger in enumerate(["merger", *(f"deepstack_merger_list.{place}" for place in range(len(deep)))]):
        add(f"{merger}.norm", merged if index else hidden)
        add(f"{merger}.linear_fc1", merged, merged)
        add(f"{merger}.linear_fc2", vision.size("out_hidden_size"), merged)
