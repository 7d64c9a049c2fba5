"""Makes the tiny checkpoints of tests/tiny/recipes.py with transformers: random weights in which nothing is neutral.

The same recipe gives the same files every time. Importing this module is cheap; transformers is imported by what needs it.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.tiny import hub
from tests.tiny.mxfp4 import random_mxfp4, values
from tests.tiny.recipes import RECIPES, Recipe
from tests.tiny.tokenizer import FAMILIES, eos_ids, special_ids, write_tokenizer

Tensors = dict[str, torch.Tensor]


def build(name: str, folder: Path, *, hub_style: bool = False) -> Path:
    """Write the checkpoint `name` into `folder` and return the folder.

    `hub_style`: config.json with the keys of published checkpoints where those that transformers writes differ.
    """
    return write(RECIPES[name], folder, hub_style=hub_style)


def write(recipe: Recipe, folder: Path, *, hub_style: bool = False) -> Path:
    """The same for a recipe that may have no name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own deprecations are not what the tests are about
        model = _random_model(recipe)
        model.save_pretrained(folder, max_shard_size=recipe.shard_size)
    if recipe.mxfp4:
        _rewrite(folder, lambda tensors: _quantise_experts(tensors, recipe))
    if recipe.extra_shared_kv:
        _rewrite(folder, lambda tensors: _add_shared_kv(tensors, recipe))
    config = json.loads((folder / "config.json").read_text())
    if recipe.mxfp4:
        config["quantization_config"] = hub.MXFP4
    (folder / "config.json").write_text(json.dumps(hub.published(config) if hub_style else config, indent=2))
    write_tokenizer(recipe.family, folder)
    return folder


def _random_model(recipe: Recipe) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    ids, family = special_ids(recipe.family), FAMILIES[recipe.family]
    tokens = {
        "bos_token_id": ids[family.bos] if family.bos else None,
        "eos_token_id": eos_ids(recipe.family)[0],
        "pad_token_id": ids[family.pad] if family.pad else None,
    }
    arguments = {**recipe.config, "text_config": {**recipe.text, **tokens}} if recipe.text else {**recipe.config, **tokens}
    model = getattr(transformers, recipe.architecture)(getattr(transformers, recipe.configuration)(**arguments))
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name not in tied:
                tensor.copy_(_random(name, tensor, recipe))
    return model.to(getattr(torch, recipe.dtype))


def _random(name: str, tensor: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Values by role. The seed depends on the name alone, so that variants of a recipe share what they have in common."""
    generator = _generator(name)
    last = name.rsplit(".", 1)[-1]
    if last.endswith(("_min", "_max")):  # limits of the towers' clipped linears
        return torch.full_like(tensor, -9.0 if last.endswith("_min") else 9.0)
    if recipe.family == "gemma4" and name.endswith("embed_tokens.weight"):
        # Small beside what the layers add, or the tied head would repeat the last token for ever.
        return torch.empty_like(tensor).normal_(0.0, 0.07, generator=generator)
    if recipe.family == "gemma4" and name.endswith(("model.norm.weight", "language_model.norm.weight")):
        return torch.empty_like(tensor).uniform_(3.0, 5.0, generator=generator)
    if last in ("layer_scalar", "scale", "per_expert_scale", "std_scale") or ("norm" in name and tensor.ndim == 1):
        return torch.empty_like(tensor).uniform_(0.6, 1.6, generator=generator)
    if last == "sinks":
        return torch.empty_like(tensor).normal_(0.0, 1.5, generator=generator)
    if last in ("gate_up_proj", "down_proj") and recipe.architecture == "GptOssForCausalLM":
        # [experts, in, out]; the quantised form is [experts, out, in]
        experts, inputs, outputs = tensor.shape
        return values(*random_mxfp4((experts, outputs, inputs), generator)).transpose(1, 2)
    return torch.empty_like(tensor).normal_(0.0, recipe.spread, generator=generator)


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def _quantise_experts(tensors: Tensors, recipe: Recipe) -> Tensors:
    """The same experts as blocks and scales: drawn again from the same seeds, not quantised from the values."""
    quantised: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = tensor.shape
            blocks, scales = random_mxfp4((experts, outputs, inputs), _generator(name))
            quantised |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            quantised[name] = tensor
    return quantised


def _add_shared_kv(tensors: Tensors, recipe: Recipe) -> Tensors:
    """Published files carry k_proj, v_proj and k_norm of layers that share K/V; nothing may depend on them."""
    layers, shared = recipe.text["num_hidden_layers"], recipe.text["num_kv_shared_layers"]
    added = dict(tensors)
    for layer in range(layers - shared, layers):
        prefix = f"model.language_model.layers.{layer}.self_attn."
        if (query := tensors.get(f"{prefix}q_proj.weight")) is None:
            continue  # in another shard
        head_dim = query.shape[0] // recipe.text["num_attention_heads"]
        rows = recipe.text["num_key_value_heads"] * head_dim
        for name, shape in (("k_proj", (rows, query.shape[1])), ("v_proj", (rows, query.shape[1])), ("k_norm", (head_dim,))):
            added[f"{prefix}{name}.weight"] = torch.full(shape, 7.0)
    return added


def _rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Pass the tensors of each file through `change` and bring the index up to date."""
    weight_map = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = change(load_file(file))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        index.write_text(json.dumps({**json.loads(index.read_text()), "weight_map": weight_map}))
