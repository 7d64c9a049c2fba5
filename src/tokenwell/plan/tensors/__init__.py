"""Every tensor of a checkpoint from its config.json alone: names, shapes and stored dtypes as on the hub, towers included.

A family is one function that writes its tensors down; quantised matrices are spelt by `Inventory`. Nothing is read but the
config, and nothing is taken from a model's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenwell.checkpoint.recipe import read_recipe
from tokenwell.plan.fields import DTYPES, Fields
from tokenwell.plan.layers import family_of
from tokenwell.plan.roles import role_of
from tokenwell.plan.tensors.decoders import llama, qwen2, qwen3
from tokenwell.plan.tensors.gemma4 import gemma4
from tokenwell.plan.tensors.gpt_oss import gpt_oss
from tokenwell.plan.tensors.qwen35 import qwen35
from tokenwell.plan.tensors.tensor import DTYPE_BITS, Inventory, TensorFacts

__all__ = ["DTYPE_BITS", "TensorFacts", "role_of", "tensors_of"]

FAMILIES: dict[str, Callable[[Fields, Inventory], None]] = {
    "Gemma4ForCausalLM": gemma4,
    "Gemma4ForConditionalGeneration": gemma4,
    "GptOssForCausalLM": gpt_oss,
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": llama,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3MoeForCausalLM": qwen3,
    "Qwen3_5ForCausalLM": qwen35,
    "Qwen3_5ForConditionalGeneration": qwen35,
    "Qwen3_5MoeForCausalLM": qwen35,
    "Qwen3_5MoeForConditionalGeneration": qwen35,
}


def tensors_of(config: Mapping[str, Any]) -> tuple[TensorFacts, ...]:
    """All tensors of the checkpoint that a config.json belongs to. Raises CheckpointError naming the field that is wrong."""
    fields = Fields(config)
    family_of(fields)  # raises for what is not known
    family = next(FAMILIES[name] for name in config["architectures"] if name in FAMILIES)
    dtype = fields.inner("text_config").dtype() or fields.dtype() or "bfloat16"
    inventory = Inventory(DTYPES[dtype], read_recipe(config))
    family(fields, inventory)
    return tuple(inventory.tensors)
