"""Random configurations of every architecture: what published checkpoints combine in their ways, others may combine otherwise.

Owns which keys a configuration may have and what they may be; `draw` gives a recipe to each seed.
"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.tiny.recipes import FULL, SLIDING, VOCABULARY, Recipe

Config = dict[str, Any]


def draw(seed: int) -> Recipe:
    """A recipe of the architecture number `seed`, counted round and round."""
    random = Random(seed)
    return _MAKERS[seed % len(_MAKERS)](random, _decoder(random))


def _decoder(random: Random) -> Config:
    """What all architectures have."""
    kv_heads = random.choice((1, 1, 2, 3))
    config = {
        "vocab_size": random.choice((VOCABULARY, VOCABULARY + 11)),
        "hidden_size": random.choice((32, 48, 64, 96)),
        "intermediate_size": random.choice((40, 72, 88, 130)),
        "num_hidden_layers": random.choice((1, 2, 3, 5)),
        "num_attention_heads": kv_heads * random.choice((1, 2, 3, 4)),
        "num_key_value_heads": kv_heads,
        "head_dim": random.choice((8, 16, 24, 32, 48, 64, 80, 128)),
        "max_position_embeddings": random.choice((256, 1024)),
        "tie_word_embeddings": random.random() < 0.5,
        "rms_norm_eps": random.choice((1e-6, 1e-5, 1e-3)),
    }
    return config | ({"rope_parameters": _rope(random)} if random.random() < 0.85 else {})


def _rope(random: Random) -> Config:
    rope: Config = {"rope_theta": random.choice((10_000.0, 500_000.0)), "rope_type": random.choice(tuple(_SCALING))}
    return rope | _SCALING[rope["rope_type"]](random)


_OLD = {"original_max_position_embeddings": 64}
_SCALING: dict[str, Any] = {
    "default": lambda random: {},
    "linear": lambda random: {"factor": random.choice((2.0, 4.0))},
    "dynamic": lambda random: {"factor": 2.0},
    "llama3": lambda random: {"factor": random.choice((8.0, 32.0)), "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_OLD},
    "yarn": lambda random: {
        "factor": 4.0, **random.choice(({}, {"beta_fast": 24.0, "beta_slow": 2.0}, {"attention_factor": 0.9})), **_OLD,
    },
}  # fmt: skip


def _kinds(random: Random, count: int) -> list[str]:
    return [random.choice((SLIDING, FULL)) for _ in range(count)]


def _chance(random: Random) -> bool:
    return random.random() < 0.4


def _llama(random: Random, config: Config) -> Recipe:
    config["hidden_size"] = 16 * config["num_attention_heads"]
    config |= {"attention_bias": _chance(random), "mlp_bias": _chance(random), "hidden_act": _activation(random)}
    return Recipe("LlamaForCausalLM", "LlamaConfig", "llama3", config)


def _mistral(random: Random, config: Config) -> Recipe:
    config |= {"sliding_window": random.choice((None, 5, 16, 33)), "hidden_act": _activation(random)}
    return Recipe("MistralForCausalLM", "MistralConfig", "mistral", config)


def _activation(random: Random) -> str:
    return random.choice(("silu", "silu", "gelu", "gelu_pytorch_tanh", "relu"))


def _qwen2(random: Random, config: Config) -> Recipe:
    del config["head_dim"]
    config["hidden_size"] = config["num_attention_heads"] * random.choice((8, 16, 24))
    layers = config["num_hidden_layers"]
    if _chance(random):
        config |= {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": random.randint(0, layers)}
    elif _chance(random):
        config |= {"use_sliding_window": True, "sliding_window": 9, "layer_types": _kinds(random, layers)}
    return Recipe("Qwen2ForCausalLM", "Qwen2Config", "qwen", config)


def _qwen3(random: Random, config: Config) -> Recipe:
    config["attention_bias"] = _chance(random)
    if _chance(random):
        first = random.randint(0, config["num_hidden_layers"])
        config |= {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": first}
    return Recipe("Qwen3ForCausalLM", "Qwen3Config", "qwen", config)


def _qwen3_moe(random: Random, config: Config) -> Recipe:
    experts = random.choice((2, 4, 7, 16))
    config |= {
        "attention_bias": _chance(random),
        "num_experts": experts,
        "num_experts_per_tok": random.randint(1, min(experts, 4)),
        "moe_intermediate_size": random.choice((16, 24, 40)),
        "norm_topk_prob": random.random() < 0.5,
        "decoder_sparse_step": random.choice((1, 1, 2)),
        "mlp_only_layers": [layer for layer in range(config["num_hidden_layers"]) if random.random() < 0.2],
    }
    return Recipe("Qwen3MoeForCausalLM", "Qwen3MoeConfig", "qwen", config)


def _gpt_oss(random: Random, config: Config) -> Recipe:
    experts = random.choice((2, 4, 6, 9))
    rope = {"rope_type": "yarn", "rope_theta": 150_000.0, "factor": 8.0, "truncate": random.random() < 0.5, **_OLD}
    config |= {
        "rope_parameters": random.choice((rope, {"rope_type": "default", "rope_theta": 10_000.0})),
        "hidden_size": random.choice((32, 64)),
        "intermediate_size": random.choice((32, 64, 96)),
        "num_local_experts": experts,
        "num_experts_per_tok": random.randint(1, min(experts, 4)),
        "sliding_window": random.choice((4, 8, 31)),
        "tie_word_embeddings": False,
        "attention_bias": not _chance(random),
    }
    if _chance(random):
        config["layer_types"] = _kinds(random, config["num_hidden_layers"])
    return Recipe("GptOssForCausalLM", "GptOssConfig", "gpt-oss", config)


def _gemma4(random: Random, config: Config) -> Recipe:
    config.pop("rope_parameters", None)
    kinds = [*_kinds(random, random.choice((1, 2, 4, 7))), FULL]
    config |= {
        "num_hidden_layers": len(kinds),
        "layer_types": kinds,
        "global_head_dim": random.choice((config["head_dim"], 16, 64)),
        "sliding_window": random.choice((5, 12, 40)),
        "final_logit_softcapping": random.choice((None, 6.0, 30.0)),
        "tie_word_embeddings": random.random() < 0.8,
        "hidden_size_per_layer_input": random.choice((0, 0, 8, 13)),
        "vocab_size_per_layer_input": config["vocab_size"],
    }
    if _chance(random):
        config |= _shared(random, kinds)
    if _chance(random):
        heads = config["num_attention_heads"]
        shares = [count for count in range(1, heads + 1) if heads % count == 0]
        config |= {"attention_k_eq_v": True, "num_global_key_value_heads": random.choice(shares)}
    if _chance(random):
        experts = random.choice((3, 5, 8))
        config |= {"enable_moe_block": True, "num_experts": experts, "top_k_experts": random.randint(1, 3)}
        config["moe_intermediate_size"] = random.choice((12, 20))
    if _chance(random):
        turning = {"rope_type": "proportional", "partial_rotary_factor": random.choice((0.25, 0.5, 1.0)), "rope_theta": 1e6}
        config["rope_parameters"] = {SLIDING: {"rope_type": "default", "rope_theta": 50_000.0}, FULL: turning}
    return Recipe("Gemma4ForCausalLM", "Gemma4TextConfig", "gemma4", config)


def _shared(random: Random, kinds: list[str]) -> Config:
    """Some of the last layers take K and V of an earlier one of their kind, if there is one for each."""
    able = [count for count in range(1, len(kinds)) if set(kinds[-count:]) <= set(kinds[:-count])]
    if not able:
        return {}
    # transformers cannot compute layers that share without per-layer inputs
    return {
        "num_kv_shared_layers": random.choice(able), "use_double_wide_mlp": random.random() < 0.5,
        "hidden_size_per_layer_input": random.choice((8, 13)),
    }  # fmt: skip


_MAKERS = (_gemma4, _llama, _gpt_oss, _mistral, _gemma4, _qwen2, _qwen3, _qwen3_moe)
