"""The shape of a very small Qwen3 and random weights that are the same on every machine, for a vocabulary of any size.

Knows nothing of torch and of the tokenizer but its size. The tensors' names and shapes are those of Qwen3ForCausalLM.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 20_261_121
LAYERS, HIDDEN, INTERMEDIATE = 4, 64, 192
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32

_EMBEDDING_SCALE = 0.2  # logits spread by a few units, and a token does not just ask for itself again


def config_json(vocab_size: int, context_tokens: int, end_ids: list[int]) -> dict[str, Any]:
    """The content of config.json. `end_ids`: the ids that end a turn, the padding id last."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": end_ids[0],
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": context_tokens,
        "max_window_layers": LAYERS,
        "model_type": "qwen3",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": end_ids[-1],
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1_000_000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab_size,
    }


def tensors(vocab_size: int) -> dict[str, NDArray[np.float32]]:
    """All weights by name, float32."""
    source = np.random.PCG64(SEED)  # its raw numbers are part of numpy's compatibility promise; distributions are not
    weights: dict[str, NDArray[np.float32]] = {}

    def matrix(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        # Uniform with the variance scale² / columns, so that a product keeps its input's size.
        reach = np.float32(scale * math.sqrt(3 / columns))
        weights[name] = (_uniform(source, rows * columns) * reach).reshape(rows, columns)

    def norm(name: str, size: int) -> None:
        weights[name] = np.float32(1) + _uniform(source, size) * np.float32(0.25)

    matrix("model.embed_tokens.weight", vocab_size, HIDDEN, scale=_EMBEDDING_SCALE * math.sqrt(HIDDEN))
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        norm(at + "input_layernorm.weight", HIDDEN)
        matrix(at + "self_attn.q_proj.weight", HEADS * HEAD_DIM, HIDDEN)
        matrix(at + "self_attn.k_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(at + "self_attn.v_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(at + "self_attn.o_proj.weight", HIDDEN, HEADS * HEAD_DIM)
        norm(at + "self_attn.q_norm.weight", HEAD_DIM)
        norm(at + "self_attn.k_norm.weight", HEAD_DIM)
        norm(at + "post_attention_layernorm.weight", HIDDEN)
        matrix(at + "mlp.gate_proj.weight", INTERMEDIATE, HIDDEN)
        matrix(at + "mlp.up_proj.weight", INTERMEDIATE, HIDDEN)
        matrix(at + "mlp.down_proj.weight", HIDDEN, INTERMEDIATE)
    norm("model.norm.weight", HIDDEN)
    return weights


def _uniform(source: np.random.PCG64, count: int) -> NDArray[np.float32]:
    """Numbers from -1 to below 1 in steps of 2^-23: exact in float32, so no machine rounds them differently."""
    raw = np.asarray(source.random_raw(count), dtype=np.uint64)
    return (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
