"""Which file builds which architecture: one literal table, keyed by `architectures` in config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tokenwell.engine.models import gemma4, gpt_oss, llama, mistral, qwen2, qwen3
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ModelFacts, Raw
from tokenwell.engine.run.batch import Batch
from tokenwell.wire.errors import CheckpointError


class Model(Protocol):
    """A loaded model on one rank."""

    facts: ModelFacts
    dtype: torch.dtype  # that it computes in
    layers: list[Any]  # in their order

    def forward(self, batch: Batch) -> torch.Tensor:
        """Write the batch's keys and values; hidden states of its kept tokens [kept, dim]."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, dim] -> [rows, vocabulary], float32 or `dtype`"""
        ...


@dataclass(frozen=True)
class Entry:
    """How one architecture is read and built."""

    read: Callable[[Raw], ModelFacts]
    build: Callable[[Build, Raw], Model]


ARCHITECTURES: dict[str, Entry] = {
    "Gemma4ForCausalLM": Entry(gemma4.read, gemma4.build),
    "Gemma4ForConditionalGeneration": Entry(gemma4.read, gemma4.build),
    "GptOssForCausalLM": Entry(gpt_oss.read, gpt_oss.build),
    "LlamaForCausalLM": Entry(llama.read, llama.build),
    "MistralForCausalLM": Entry(mistral.read, mistral.build),
    "Qwen2ForCausalLM": Entry(qwen2.read, qwen2.build),
    "Qwen3ForCausalLM": Entry(qwen3.read, qwen3.build),
    "Qwen3MoeForCausalLM": Entry(qwen3.read_moe, qwen3.build_moe),
}


def find(config: Mapping[str, Any]) -> Entry:
    """The entry for a config.json. Raises CheckpointError with the supported list for an unknown architecture."""
    named = config.get("architectures") or []
    for name in named:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    said = ", ".join(map(str, named)) or "no architecture"
    raise CheckpointError(f"config.json names {said}, which is not supported. Supported: {', '.join(ARCHITECTURES)}")
