"""Writes a checkpoint folder of real shapes with random bf16 weights, for benchmarks that need no meaning."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tokenwell.bundled.checkpoint import bundled_checkpoint

# Shapes as published in the models' config.json.
QWEN2_5_0_5B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151643,
}


def write(folder: Path, config: dict[str, Any], layers_in_a_file: int = 8) -> Path:
    """Write config, weights and the bundled tokenizer into `folder` unless they are there. Qwen2 shapes only."""
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(bundled_checkpoint() / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    dim, width = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", dim // heads)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns) / math.sqrt(columns)).bfloat16()

    def layer(prefix: str) -> dict[str, torch.Tensor]:
        tensors = {f"{prefix}{norm}_layernorm.weight": torch.ones(dim).bfloat16() for norm in ("input", "post_attention")}
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = matrix(count * head_dim, dim)
            tensors[f"{prefix}self_attn.{name}_proj.bias"] = torch.randn(count * head_dim).bfloat16()
        tensors[f"{prefix}self_attn.o_proj.weight"] = matrix(dim, heads * head_dim)
        for name in ("gate", "up"):
            tensors[f"{prefix}mlp.{name}_proj.weight"] = matrix(width, dim)
        tensors[f"{prefix}mlp.down_proj.weight"] = matrix(dim, width)
        return tensors

    count = config["num_hidden_layers"]
    weight_map: dict[str, str] = {}
    files = -(-count // layers_in_a_file)
    for number in range(files):
        tensors: dict[str, torch.Tensor] = {}
        for index in range(number * layers_in_a_file, min(count, (number + 1) * layers_in_a_file)):
            tensors |= layer(f"model.layers.{index}.")
        if number == 0:
            tensors["model.embed_tokens.weight"] = matrix(config["vocab_size"], dim)
            tensors["model.norm.weight"] = torch.ones(dim).bfloat16()
        name = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    index_json = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_json))
    (folder / "complete").touch()
    return folder
