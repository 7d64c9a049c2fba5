"""What tiny checkpoints there are: one literal table, name -> architecture, configuration and how it is stored.

Owns sizes and features only. Every layer type appears at least twice, windows are shorter than test prompts, no size is
a convenient multiple, and everything that could be left out of an implementation unnoticed (biases, sinks, scalars,
soft-caps, sharing) is on somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 389  # a few ids more than the tokenizers have, as in published checkpoints
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Recipe:
    """One tiny checkpoint. `config` are the arguments of the transformers configuration class."""

    architecture: str  # a transformers model class
    configuration: str  # its configuration class
    family: str  # special tokens and chat template, see tests/tiny/tokenizer.py
    config: dict[str, Any]
    spread: float = 0.2  # standard deviation of the weights
    dtype: str = "float32"  # as stored
    shard_size: str = "1GB"
    text: dict[str, Any] = field(default_factory=dict)  # text_config of a wrapped model
    mxfp4: bool = False  # experts stored as blocks and scales
    extra_shared_kv: bool = False  # files carry unused k/v projections of layers that share K/V


_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 88,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
_LLAMA3: dict[str, Any] = {
    **_DECODER,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
_MISTRAL: dict[str, Any] = {
    **_DECODER,
    "hidden_size": 48,
    "head_dim": 16,
    "sliding_window": None,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
_QWEN2: dict[str, Any] = {
    **_DECODER,
    "num_attention_heads": 6,
    "hidden_size": 48,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
_QWEN3: dict[str, Any] = {
    **_DECODER,
    "head_dim": 24,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
_GEMMA4: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "hidden_size_per_layer_input": 0,
    "layer_types": [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL],
    "sliding_window": 12,
    "max_position_embeddings": 1024,
    "final_logit_softcapping": 6.0,
    "tie_word_embeddings": True,
}
_GEMMA4_E: dict[str, Any] = {
    **_GEMMA4,
    "num_hidden_layers": 10,
    "num_key_value_heads": 1,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 4,
    "use_double_wide_mlp": True,
    "layer_types": [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL, SLIDING, FULL, SLIDING, FULL],
}
_GEMMA4_MOE: dict[str, Any] = {
    **_GEMMA4,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "enable_moe_block": True,
    "num_experts": 7,
    "top_k_experts": 3,
    "moe_intermediate_size": 20,
    "use_bidirectional_attention": "vision",
}
_GEMMA4_DENSE: dict[str, Any] = {
    **_GEMMA4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 2,
    "use_bidirectional_attention": "vision",
}
_GEMMA4_TOWERS: dict[str, Any] = {
    "tie_word_embeddings": True,
    "image_token_id": 380,
    "video_token_id": 381,
    "audio_token_id": 382,
    "boi_token_id": 383,
    "eoi_token_id": 384,
    "boa_token_id": 385,
    "eoa_token_index": 386,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "patch_size": 4,
        "position_embedding_size": 16,
        "use_clipped_linears": True,
        "standardize": True,
    },
    "audio_config": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [8, 4],
        "conv_kernel_size": 3,
        "output_proj_dims": 24,
    },
}
_GPT_OSS: dict[str, Any] = {
    **_DECODER,
    "head_dim": 16,
    "intermediate_size": 32,
    "num_local_experts": 6,
    "num_experts_per_tok": 3,
    "sliding_window": 8,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 150_000.0,
        "factor": 8.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 128,
    },
}

RECIPES: dict[str, Recipe] = {
    "llama3": Recipe("LlamaForCausalLM", "LlamaConfig", "llama3", _LLAMA3),
    "llama3-tied": Recipe("LlamaForCausalLM", "LlamaConfig", "llama3", {**_LLAMA3, "tie_word_embeddings": True}),
    "mistral": Recipe("MistralForCausalLM", "MistralConfig", "mistral", _MISTRAL, shard_size="100KB"),
    "mistral-sliding": Recipe("MistralForCausalLM", "MistralConfig", "mistral", {**_MISTRAL, "sliding_window": 12}),
    "qwen2": Recipe("Qwen2ForCausalLM", "Qwen2Config", "qwen", _QWEN2, dtype="bfloat16"),
    "qwen2-sliding": Recipe(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        "qwen",
        {**_QWEN2, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    ),
    "qwen3": Recipe("Qwen3ForCausalLM", "Qwen3Config", "qwen", _QWEN3),
    "qwen3-moe": Recipe(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        "qwen",
        {
            **_QWEN3,
            "num_hidden_layers": 5,
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "mlp_only_layers": [1, 3],
        },
        shard_size="200KB",
    ),
    "gemma4-e": Recipe("Gemma4ForCausalLM", "Gemma4TextConfig", "gemma4", _GEMMA4_E),
    "gemma4-moe": Recipe("Gemma4ForCausalLM", "Gemma4TextConfig", "gemma4", _GEMMA4_MOE, shard_size="200KB"),
    "gemma4-dense": Recipe("Gemma4ForCausalLM", "Gemma4TextConfig", "gemma4", _GEMMA4_DENSE),
    "gemma4-wrapped": Recipe(
        "Gemma4ForConditionalGeneration",
        "Gemma4Config",
        "gemma4",
        _GEMMA4_TOWERS,
        text=_GEMMA4_E,
        extra_shared_kv=True,
        shard_size="300KB",
    ),
    "gpt-oss": Recipe("GptOssForCausalLM", "GptOssConfig", "gpt-oss", _GPT_OSS, dtype="bfloat16"),
    "gpt-oss-mxfp4": Recipe("GptOssForCausalLM", "GptOssConfig", "gpt-oss", _GPT_OSS, dtype="bfloat16", mxfp4=True),
}
