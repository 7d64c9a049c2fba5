"""gpt-oss (GptOssForCausalLM): attention with sinks and biases, experts in MXFP4 or, converted, in bfloat16."""

from __future__ import annotations

from tokenwell.plan.fields import Fields
from tokenwell.plan.tensors.tensor import Inventory
from tokenwell.wire.errors import CheckpointError

_BLOCK = 32  # values that share an MXFP4 scale: 16 bytes of codes and one of scale


def gpt_oss(fields: Fields, into: Inventory) -> None:
    """All tensors of a gpt-oss checkpoint."""
    hidden, vocabulary = fields.size("hidden_size"), fields.size("vocab_size")
    heads, kv_heads, head_dim = fields.heads()
    count, width = fields.size("num_local_experts", "num_experts"), fields.size("intermediate_size")
    bias = fields.flag("attention_bias", default=True)
    into.add("model.embed_tokens.weight", (vocabulary, hidden))
    for index in range(fields.layers()):
        at = f"model.layers.{index}."
        into.add(f"{at}input_layernorm.weight", (hidden,))
        for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            into.linear(f"{at}self_attn.{name}_proj", rows * head_dim, hidden, bias)
        into.linear(f"{at}self_attn.o_proj", hidden, heads * head_dim, bias=bias)
        into.add(f"{at}self_attn.sinks", (heads,))
        into.add(f"{at}post_attention_layernorm.weight", (hidden,))
        into.add(f"{at}mlp.router.weight", (count, hidden))
        into.add(f"{at}mlp.router.bias", (count,))
        _experts(into, f"{at}mlp.experts.", count, hidden, width)
    into.add("model.norm.weight", (hidden,))
    if not fields.flag("tie_word_embeddings"):
        into.add("lm_head.weight", (vocabulary, hidden))


def _experts(into: Inventory, at: str, count: int, hidden: int, width: int) -> None:
    into.add(f"{at}gate_up_proj_bias", (count, 2 * width))
    into.add(f"{at}down_proj_bias", (count, hidden))
    if into.recipe.stored != "mxfp4":
        # The only matrices of the family that are stored [in, out].
        into.add(f"{at}gate_up_proj", (count, hidden, 2 * width))
        into.add(f"{at}down_proj", (count, width, hidden))
        return
    for name, rows, columns in (("gate_up_proj", 2 * width, hidden), ("down_proj", hidden, width)):
        if columns % _BLOCK:
            raise CheckpointError(f"config.json: MXFP4 needs rows of whole blocks of {_BLOCK} values, {name} has {columns}")
        into.add(f"{at}{name}_blocks", (count, rows, columns // _BLOCK, _BLOCK // 2), "U8")
        into.add(f"{at}{name}_scales", (count, rows, columns // _BLOCK), "U8")
