"""The inventory against the networks that transformers builds, and against what is published of the real files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.plan.configs import MODELS, config_of

from tokenwell.plan.layers import FAMILIES as LAYER_FAMILIES
from tokenwell.plan.tensors import FAMILIES, TensorFacts, tensors_of
from tokenwell.wire.errors import CheckpointError

# Numbers of parameters, as the hub's pages count them from the files' headers.
PUBLISHED = {
    "gemma-4-E2B-it": 5_123_178_979,
    "gemma-4-E4B-it": 7_996_157_418,
    "gemma-4-26B-A4B-it": 25_805_936_206,
    "gemma-4-31B-it": 31_273_088_876,
    "Qwen3.5-4B": 4_659_865_088,
    "Qwen3.5-27B": 27_781_427_952,
    "Qwen3.5-35B-A3B": 35_951_822_704,
    "Llama-3.1-8B-Instruct": 8_030_261_248,
    "Qwen3-8B": 8_190_735_360,
}


def built(config: dict[str, Any], folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network that transformers builds for a config, without memory for it."""
    import torch  # seconds to import: only the tests that build networks pay
    import transformers

    (folder / "config.json").write_text(json.dumps(config))
    read = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, config["architectures"][0])(read)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.get_text_config().tie_word_embeddings:
        found.pop("lm_head.weight", None)
    return found


def unread(tensor: TensorFacts, layers: int, shared: int) -> bool:
    """Whether files hold a tensor that the network does not have: drafting layers, keys of layers that read another's."""
    parts = tensor.name.split(".")
    keys = "self_attn" in parts and parts[-2] in ("k_proj", "v_proj", "k_norm") and "language_model" in parts
    return tensor.role == "draft" or (keys and int(parts[parts.index("layers") + 1]) >= layers - shared)


@pytest.mark.parametrize("model", MODELS)
def test_names_and_shapes_are_those_of_the_network(model: str, tmp_path: Path) -> None:
    config = config_of(model)
    if config.get("quantization_config", {}).get("quant_method") == "mxfp4":
        del config["quantization_config"]  # transformers unpacks it when it loads
    text = config.get("text_config", config)
    layers, shared = text["num_hidden_layers"], text.get("num_kv_shared_layers", 0)
    mine = {tensor.name: tensor.shape for tensor in tensors_of(config) if not unread(tensor, layers, shared)}
    assert mine == built(config, tmp_path)


@pytest.mark.parametrize("model", sorted(PUBLISHED))
def test_as_many_values_as_published(model: str) -> None:
    assert sum(math.prod(tensor.shape) for tensor in tensors_of(config_of(model))) == PUBLISHED[model]


def test_gpt_oss_has_the_bytes_that_its_index_says() -> None:
    """total_size of model.safetensors.index.json."""
    assert sum(tensor.nbytes for tensor in tensors_of(config_of("gpt-oss-20b"))) == 13_761_264_768


def test_roles_are_told() -> None:
    roles = {tensor.role for model in MODELS for tensor in tensors_of(config_of(model))}
    assert roles == {"embedding", "head", "linear", "expert", "router", "norm", "lookup", "tower", "draft", "buffer", "other"}


def test_every_family_with_layers_has_tensors() -> None:
    assert FAMILIES.keys() == LAYER_FAMILIES.keys()


def quantised(model: str, **settings: Any) -> dict[str, TensorFacts]:
    config = config_of(model)
    config["quantization_config"] = settings
    return {tensor.name: tensor for tensor in tensors_of(config)}


def test_fp8_in_blocks() -> None:
    found = quantised(
        "Qwen3-8B", quant_method="fp8", weight_block_size=[128, 128], modules_to_not_convert=["model.layers.0.self_attn.q_proj"]
    )
    down = found["model.layers.3.mlp.down_proj.weight"]
    assert (down.dtype, down.shape, down.nbytes) == ("F8_E4M3", (4096, 12288), 4096 * 12288)
    assert found["model.layers.3.mlp.down_proj.weight_scale_inv"].shape == (32, 96)
    assert found["model.layers.0.self_attn.q_proj.weight"].dtype == "BF16"
    assert found["lm_head.weight"].dtype == "BF16"


def test_four_bits_take_half_a_byte() -> None:
    awq = quantised("Qwen3-8B", quant_method="awq", bits=4, group_size=128, zero_point=True)
    gptq = quantised("Qwen3-8B", quant_method="gptq", bits=4, group_size=128, desc_act=False)
    for found in (awq, gptq):
        assert found["model.layers.0.mlp.up_proj.qweight"].nbytes == 4096 * 12288 // 2
        assert found["model.layers.0.mlp.up_proj.scales"].shape == (32, 12288)
        assert "model.layers.0.mlp.up_proj.weight" not in found
    assert awq["model.layers.0.mlp.up_proj.qweight"].shape == (4096, 1536)
    assert gptq["model.layers.0.mlp.up_proj.qweight"].shape == (512, 12288)


def test_quantised_mixtures_are_stored_by_expert() -> None:
    weights = {"type": "float", "num_bits": 8, "strategy": "channel"}
    found = quantised(
        "Qwen3.5-35B-A3B", quant_method="compressed-tensors", config_groups={"group_0": {"weights": weights}}, ignore=["lm_head"]
    )
    assert found["model.language_model.layers.0.mlp.experts.255.up_proj.weight"].shape == (512, 2048)
    assert found["model.language_model.layers.0.mlp.experts.255.up_proj.weight_scale"].shape == (512, 1)


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("Qwen3-8B", {"hidden_size": None}, "hidden_size"),
        ("Qwen3-8B", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("Qwen3-8B", {"vocab_size": "many"}, "vocab_size"),
        ("Qwen3-8B", {"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ("Qwen3-8B", {"torch_dtype": "float7"}, "dtype"),
        ("Qwen3-8B", {"num_key_value_heads": 7}, "num_key_value_heads"),
        ("gpt-oss-20b", {"intermediate_size": 2881}, "MXFP4"),
        ("gpt-oss-20b", {"num_local_experts": -1}, "num_local_experts"),
    ],
)
def test_a_bad_field_is_named(model: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        tensors_of({**config_of(model), **change})


def test_a_bad_field_of_a_tower_is_named() -> None:
    config = config_of("gemma-4-E4B-it")
    config["audio_config"]["subsampling_conv_channels"] = [128, None]
    with pytest.raises(CheckpointError, match=r"audio_config: subsampling_conv_channels"):
        tensors_of(config)
    config = config_of("Qwen3.5-4B")
    config["vision_config"]["depth"] = 0
    with pytest.raises(CheckpointError, match=r"vision_config: depth"):
        tensors_of(config)
