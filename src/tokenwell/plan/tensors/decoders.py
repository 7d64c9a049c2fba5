"""Llama, Mistral, Qwen2 and Qwen3: the plain decoder, dense or with a mixture of experts (Qwen3)."""

from __future__ import annotations

from tokenwell.plan.fields import Fields
from tokenwell.plan.tensors.tensor import Inventory


def llama(fields: Fields, into: Inventory) -> None:
    """LlamaForCausalLM, MistralForCausalLM."""
    bias = fields.flag("attention_bias")
    _decoder(fields, into, qkv_bias=bias, o_bias=bias)


def qwen2(fields: Fields, into: Inventory) -> None:
    """Qwen2ForCausalLM, which Qwen2.5 and the DeepSeek-R1 distillations on it are too."""
    _decoder(fields, into, qkv_bias=True)


def qwen3(fields: Fields, into: Inventory) -> None:
    """Qwen3ForCausalLM and Qwen3MoeForCausalLM: normalised queries and keys."""
    bias = fields.flag("attention_bias")
    _decoder(fields, into, qkv_bias=bias, o_bias=bias, qk_norm=True)


def _decoder(fields: Fields, into: Inventory, *, qkv_bias: bool, o_bias: bool = False, qk_norm: bool = False) -> None:
    hidden, vocabulary = fields.size("hidden_size"), fields.size("vocab_size")
    heads, kv_heads, head_dim = fields.heads()
    into.add("model.embed_tokens.weight", (vocabulary, hidden))
    for index in range(fields.layers()):
        at = f"model.layers.{index}."
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            into.linear(f"{at}self_attn.{name}_proj", count * head_dim, hidden, qkv_bias)
        into.linear(f"{at}self_attn.o_proj", hidden, heads * head_dim, o_bias)
        if qk_norm:
            into.add(f"{at}self_attn.q_norm.weight", (head_dim,))
            into.add(f"{at}self_attn.k_norm.weight", (head_dim,))
        if _has_experts(fields, index):
            _experts(fields, into, f"{at}mlp.", hidden)
        else:
            mlp(into, f"{at}mlp.", hidden, fields.size("intermediate_size"), fields.flag("mlp_bias"))
        into.add(f"{at}input_layernorm.weight", (hidden,))
        into.add(f"{at}post_attention_layernorm.weight", (hidden,))
    into.add("model.norm.weight", (hidden,))
    if not fields.flag("tie_word_embeddings"):
        into.add("lm_head.weight", (vocabulary, hidden))


def experts(into: Inventory, at: str, count: int, hidden: int, width: int) -> None:
    """Gated experts: two stacks, or, in quantised files, three matrices an expert."""
    if into.packs(f"{at}experts.0.gate_proj"):
        for expert in range(count):
            mlp(into, f"{at}experts.{expert}.", hidden, width)
    else:
        into.add(f"{at}experts.gate_up_proj", (count, 2 * width, hidden))
        into.add(f"{at}experts.down_proj", (count, hidden, width))


def mlp(into: Inventory, at: str, hidden: int, width: int, bias: bool = False) -> None:
    """A gated feed-forward block."""
    into.linear(f"{at}gate_proj", width, hidden, bias)
    into.linear(f"{at}up_proj", width, hidden, bias)
    into.linear(f"{at}down_proj", hidden, width, bias)


def _has_experts(fields: Fields, index: int) -> bool:
    if fields.get("num_experts", "num_local_experts") is None:
        return False
    dense = fields.get("mlp_only_layers", default=[])
    if not isinstance(dense, list):
        raise fields.wrong("mlp_only_layers", "a list of layers", dense)
    return index not in dense and (index + 1) % fields.size("decoder_sparse_step", default=1) == 0


def _experts(fields: Fields, into: Inventory, at: str, hidden: int) -> None:
    """The hub's files hold three matrices an expert."""
    count, width = fields.size("num_experts", "num_local_experts", most=1 << 16), fields.size("moe_intermediate_size")
    into.add(f"{at}gate.weight", (count, hidden))
    for expert in range(count):
        mlp(into, f"{at}experts.{expert}.", hidden, width)
