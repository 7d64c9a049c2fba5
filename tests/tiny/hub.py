"""config.json as published checkpoints write it, where transformers 5 writes other keys for the same facts."""

from __future__ import annotations

from typing import Any

MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
}


def published(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a configuration that transformers wrote, with the older keys."""
    if "text_config" in config:
        return {**config, "text_config": published(config["text_config"])}
    change = {"gemma4_text": _gemma4, "qwen3_moe": _qwen3_moe, "gpt_oss": _gpt_oss}.get(config["model_type"], _decoder)
    return change(dict(config))


def _gemma4(config: dict[str, Any]) -> dict[str, Any]:
    overrides = next(iter(config.pop("per_layer_config").values()))
    config["global_head_dim"] = overrides["head_dim"]
    config["num_global_key_value_heads"] = overrides.get("num_key_value_heads")
    return config


def _decoder(config: dict[str, Any]) -> dict[str, Any]:
    """Rope in two keys, `torch_dtype`, no per-layer list, and a window that is written although it is not used."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    if config["model_type"] == "llama" and config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        del config["head_dim"]
    if config["model_type"].startswith("qwen") and not config["use_sliding_window"]:
        config["sliding_window"] = 4
    return config


def _qwen3_moe(config: dict[str, Any]) -> dict[str, Any]:
    config["num_experts"] = config.pop("num_local_experts")
    return _decoder(config)


def _gpt_oss(config: dict[str, Any]) -> dict[str, Any]:
    layer_types = config["layer_types"]
    config["initial_context_length"] = config["rope_parameters"]["original_max_position_embeddings"]
    config["experts_per_token"] = config["num_experts_per_tok"]
    config.pop("swiglu_alpha", None)  # newer versions of transformers write it
    return {**_decoder(config), "layer_types": layer_types}
