"""What is known of a model from its config.json and its headers, and what is said when they are wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.checkpoint.gguf_files import write_gguf
from tests.conftest import Tiny
from tests.plan.configs import MODELS, config_of, path_of
from tests.tiny.recipes import RECIPES
from tests.waiting import PATIENCE_S

from tokenwell.engine.models import registry
from tokenwell.engine.models.config import Raw
from tokenwell.plan.bytes import native_bytes
from tokenwell.plan.card import ModelCard, card_of, read_card
from tokenwell.plan.layers import FAMILIES
from tokenwell.plan.matrices import matrices_of
from tokenwell.wire.errors import CheckpointError, TokenwellError

SERVED = [name for name in MODELS if not name.startswith("Qwen3.5")]


@pytest.mark.parametrize("name", SERVED)
def test_layers_are_those_that_the_engine_reads(name: str) -> None:
    config = config_of(name)
    card, facts = card_of(config), registry.find(config).read(Raw(config))
    assert card.served
    assert (card.vocabulary, card.hidden, card.window, card.tied) == (facts.vocabulary, facts.dim, facts.window, facts.tied)
    assert (card.experts, card.experts_per_token) == ((facts.experts.count, facts.experts.chosen) if facts.experts else (0, 0))
    for index, (layer, fact) in enumerate(zip(card.layers, facts.layers, strict=True)):
        assert (layer.heads, layer.kv_heads, layer.head_dim, layer.window) == (
            fact.heads,
            fact.kv_heads,
            fact.head_dim,
            fact.window,
        )
        assert layer.owner == (index if fact.owner is None else fact.owner)
        assert (layer.folded, layer.kind) == (fact.k_eq_v, "full" if fact.window is None else "sliding")


def test_files_of_transformers_name_the_heads_of_full_layers_only_where_they_differ() -> None:
    config = config_of("gemma-4-E4B-it")
    text = config["text_config"]
    del text["global_head_dim"]
    for said, full in ((None, 512), ({}, text["head_dim"]), ({"full_attention": {"head_dim": 64}}, 64)):
        text["per_layer_config"] = said
        sizes = {layer.head_dim for layer in card_of(config).layers if layer.kind == "full"}
        assert sizes == {full}
        assert sizes == {layer.head_dim for layer in registry.find(config).read(Raw(config)).layers if layer.window is None}


def test_every_architecture_that_the_engine_serves_has_a_family() -> None:
    assert set(registry.ARCHITECTURES) == {name for name, family in FAMILIES.items() if family.served}


def test_a_hybrid_model_keeps_a_state_where_others_keep_keys() -> None:
    """architectures.md: 147 MiB for a sequence of the 122B."""
    card = card_of(config_of("Qwen3.5-122B-A10B"))
    assert not card.served
    assert [layer.kind for layer in card.layers[:5]] == ["linear", "linear", "linear", "full", "linear"]
    assert sum(layer.state_bytes for layer in card.layers) / 2**20 == pytest.approx(147, abs=0.6)
    assert sum(layer.kind == "full" for layer in card.layers) == 12


@pytest.mark.parametrize("name", RECIPES)
def test_headers_and_config_tell_the_same(name: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny(name, hub_style=True)
    told = read_card(folder)
    config_only = read_card(folder / "config.json")
    assert (told.source, config_only.source) == ("headers", "config.json")
    assert told.layers == config_only.layers
    shapes = [
        {matrix.name: (matrix.count, matrix.rows, matrix.columns) for matrix in matrices_of(card)} for card in (told, config_only)
    ]
    assert shapes[0] == shapes[1]
    assert native_bytes(told).by_role == pytest.approx(native_bytes(config_only, dtype=told.dtype).by_role)
    alone = tmp_path / name
    alone.mkdir()
    shutil.copy(folder / "config.json", alone)
    assert read_card(alone).tensors == config_only.tensors


def test_without_a_dtype_in_the_config_the_weights_tell(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("qwen3"), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in ("dtype", "torch_dtype")}))
    assert read_card(folder).dtype == "float32"
    assert read_card(path_of("gpt-oss-20b")).dtype == "bfloat16"


# ---------------------------------------------------------------- GGUF


def quantised(config: dict[str, Any], folder: Path) -> Path:
    """Qwen3.5 MoE in two parts, as llama.cpp's converter names things: experts in Q2_K and Q3_K, the rest in Q8_0 and F32."""
    text = config["text_config"]
    hidden, width, experts = text["hidden_size"], text["moe_intermediate_size"], text["num_experts"]
    keys, values = 16 * 128, text["linear_num_value_heads"] * 128
    heads = text["num_attention_heads"] * 256
    kv = text["num_key_value_heads"] * 256
    metadata = {
        "general.architecture": "qwen35moe",
        "qwen35moe.block_count": text["num_hidden_layers"] + 1,
        "qwen35moe.nextn_predict_layers": 1,
        "qwen35moe.context_length": text["max_position_embeddings"],
        "qwen35moe.embedding_length": hidden,
        "qwen35moe.attention.head_count": text["num_attention_heads"],
        "qwen35moe.attention.head_count_kv": text["num_key_value_heads"],
        "qwen35moe.attention.key_length": 256,
        "qwen35moe.expert_count": experts,
        "qwen35moe.expert_used_count": text["num_experts_per_tok"],
        "qwen35moe.expert_feed_forward_length": width,
        "qwen35moe.full_attention_interval": 4,
        "qwen35moe.ssm.conv_kernel": 4,
        "qwen35moe.ssm.state_size": 128,
        "qwen35moe.ssm.group_count": 16,
        "qwen35moe.ssm.time_step_rank": text["linear_num_value_heads"],
        "qwen35moe.ssm.inner_size": values,
        "tokenizer.ggml.tokens": ["x"] * 1000,
    }

    def tensor(name: str, kind: str, *shape: int) -> tuple[str, tuple[int, ...], int, int]:
        number, block, size = {"F32": (0, 1, 4), "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110)}[kind]
        count = 1
        for one in shape:
            count *= one
        return name, shape, number, count // block * size

    first = [
        tensor("token_embd.weight", "Q8_0", text["vocab_size"], hidden),
        tensor("output.weight", "Q8_0", text["vocab_size"], hidden),
    ]
    second = []
    for index in range(text["num_hidden_layers"] + 1):
        at = f"blk.{index}."
        part = first if index < 20 else second
        part += [tensor(f"{at}attn_norm.weight", "F32", hidden), tensor(f"{at}ffn_gate_inp.weight", "F32", experts, hidden)]
        part += [tensor(f"{at}ffn_{name}_exps.weight", "Q2_K", experts, width, hidden) for name in ("gate", "up")]
        part.append(tensor(f"{at}ffn_down_exps.weight", "Q3_K", experts, hidden, width))
        if (index + 1) % 4 and index < text["num_hidden_layers"]:
            part += [
                tensor(f"{at}attn_qkv.weight", "Q8_0", 2 * keys + values, hidden),
                tensor(f"{at}ssm_out.weight", "Q8_0", hidden, values),
            ]
            part += [tensor(f"{at}ssm_a", "F32", text["linear_num_value_heads"])]
        else:
            part += [tensor(f"{at}attn_q.weight", "Q8_0", 2 * heads, hidden), tensor(f"{at}attn_k.weight", "Q8_0", kv, hidden)]
            part += [tensor(f"{at}attn_v.weight", "Q8_0", kv, hidden), tensor(f"{at}attn_output.weight", "Q8_0", hidden, heads)]
        if index == text["num_hidden_layers"]:
            part.append(tensor(f"{at}nextn.eh_proj.weight", "Q8_0", hidden, 2 * hidden))
    write_gguf(folder / "m-00002-of-00002.gguf", {"split.no": 1}, second)
    return write_gguf(folder / "m-00001-of-00002.gguf", metadata, first)


def test_a_gguf_file_tells_what_its_config_would(tmp_path: Path) -> None:
    config = config_of("Qwen3.5-122B-A10B")
    file = quantised(config, tmp_path)
    started = time.process_time()
    card, wanted = read_card(file), card_of(config)
    assert time.process_time() - started < 2
    assert card.stored == "gguf"
    assert not card.served
    assert card.layers == wanted.layers
    assert (card.vocabulary, card.hidden, card.window, card.experts, card.experts_per_token, card.tied) == (
        wanted.vocabulary, wanted.hidden, wanted.window, wanted.experts, wanted.experts_per_token, wanted.tied,
    )  # fmt: skip
    expert = 256 * 3072 * 1024
    sizes = native_bytes(card).by_role
    assert sizes["expert"] == 48 * expert * (2 * 84 + 110) // 256
    assert {tensor.role for tensor in card.tensors if tensor.name.startswith("blk.48.")} == {"draft"}
    assert card.total_bytes > sum(sizes.values())
    assert read_card(tmp_path).tensors == card.tensors  # a folder of GGUF files


def test_a_gguf_file_tells_where_values_are_keys(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "general.architecture": "gemma4",
        "gemma4.block_count": 6,
        "gemma4.context_length": 262_144,
        "gemma4.embedding_length": 512,
        "gemma4.feed_forward_length": 1024,
        "gemma4.attention.head_count": 16,
        "gemma4.attention.head_count_kv": [8, 8, 8, 8, 8, 2],
        "gemma4.attention.key_length": 512,
        "gemma4.attention.key_length_swa": 256,
        "gemma4.attention.sliding_window": 1024,
        "gemma4.attention.sliding_window_pattern": [True] * 5 + [False],
        "gemma4.attention.shared_kv_layers": 0,
    }
    tensors = [("token_embd.weight", (1000, 512), 0, 1000 * 512 * 4)]
    for index in range(6):
        tensors.append((f"blk.{index}.attn_k.weight", (2048, 512), 8, 2048 * 512 // 32 * 34))
        if index < 5:
            tensors.append((f"blk.{index}.attn_v.weight", (2048, 512), 8, 2048 * 512 // 32 * 34))
    card = read_card(write_gguf(tmp_path / "a.gguf", metadata, tensors))
    assert [(layer.kv_heads, layer.head_dim, layer.window, layer.folded) for layer in card.layers[4:]] == [
        (8, 256, 1024, False),
        (2, 512, None, True),
    ]
    assert card.tied
    for key, said in (
        ("gemma4.block_count", "block_count"),
        ("gemma4.attention.head_count_kv", "head_count"),
        ("general.architecture", "architecture"),
    ):
        broken = write_gguf(tmp_path / "b.gguf", metadata | {key: "nonsense"}, tensors)
        with pytest.raises(CheckpointError, match=said) as told:
            read_card(broken)
        assert "b.gguf" in str(told.value)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers must be a whole number from 1 to 4096, it is 1000000000000"),
        ({"num_hidden_layers": -3}, "num_hidden_layers"),
        ({"num_hidden_layers": "36"}, "num_hidden_layers must be .* it is '36'"),
        ({"hidden_size": True}, "hidden_size"),
        ({"vocab_size": 1 << 60}, "vocab_size"),
        ({"num_key_value_heads": 7}, "32 num_attention_heads cannot share 7 num_key_value_heads"),
        ({"head_dim": 0.5}, "head_dim"),
        ({"torch_dtype": "float3"}, "dtype must be"),
        ({"architectures": ["NoSuchModel"]}, "names NoSuchModel, which is not known. Known: .*LlamaForCausalLM"),
        ({"architectures": None}, "names no architecture"),
        ({"architectures": {"a": [1]}}, "no architecture"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"use_sliding_window": True, "sliding_window": [1]}, "sliding_window"),
        ({"num_local_experts": 1 << 15}, "num_experts or num_local_experts must be a whole number from 1 to 3640"),
        ({"quantization_config": 5}, "quantization_config must be an object"),
        ({"quantization_config": {"quant_method": "wishful"}}, "wishful"),
        ({"quantization_config": {"quant_method": "awq", "bits": []}}, "integer weights of"),
        ({"quantization_config": {"quant_method": "awq", "group_size": "many"}}, "quantization_config cannot be understood"),
        ({"text_config": [1, 2]}, "text_config must be an object"),
        ({"max_position_embeddings": float("nan")}, "max_position_embeddings"),
    ],
)
def test_a_field_that_is_wrong_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**config_of("Qwen3-8B"), **changes}))
    with pytest.raises(CheckpointError, match=said) as told:
        read_card(tmp_path / "config.json")
    assert "config.json" in str(told.value)
    assert len(str(told.value)) < 500


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    for text, said in (
        ("", "not valid JSON"),
        ("[1]", "must hold a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "architecture"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=said):
            read_card(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="there is no"):
        read_card(tmp_path / "nothing here")
    with pytest.raises(CheckpointError, match=r"nothing.gguf cannot be read"):
        read_card(tmp_path / "nothing.gguf")


def test_broken_files_are_named(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("mistral", hub_style=True), tmp_path / "copy"))
    shards = sorted(folder.glob("*.safetensors"))
    whole = shards[0].read_bytes()
    for broken, said in ((whole[: len(whole) // 2], "truncated"), (b"\0" * 9, "not a safetensors file"), (b"", "truncated")):
        shards[0].write_bytes(broken)
        with pytest.raises(CheckpointError, match=said) as told:
            read_card(folder)
        assert shards[0].name in str(told.value)
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=f"{shards[0].name} is missing"):
        read_card(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(CheckpointError, match="weight_map"):
        read_card(folder)


numbers = st.integers(-3, 70) | st.sampled_from([10**12, 2**64, -(2**70), 1.5, float("inf"), float("nan")])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
ONE_OF_EACH = (
    "Qwen2.5-0.5B",
    "Qwen3-0.6B",
    "Llama-3.1-8B-Instruct",
    "gpt-oss-20b",
    "gemma-4-E2B-it",
    "gemma-4-26B-A4B-it",
    "Qwen3.5-4B",
)
STORED = (
    None,
    {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True},
    {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head"],
        "config_groups": {"a": {"weights": {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 128}}},
    },
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_config_makes_another_error_or_takes_long(data: st.DataObject) -> None:
    config: dict[str, Any] = json.loads(json.dumps(config_of(data.draw(st.sampled_from(ONE_OF_EACH)))))
    if (stored := data.draw(st.sampled_from(STORED))) is not None:
        config["quantization_config"] = json.loads(json.dumps(stored))
    for _ in range(data.draw(st.integers(1, 4))):
        place = config
        while (nested := [key for key, value in place.items() if isinstance(value, dict)]) and data.draw(st.booleans()):
            place = place[data.draw(st.sampled_from(nested))]
        if place:
            place[data.draw(st.sampled_from(sorted(place)))] = data.draw(anything)
    started = time.process_time()
    try:
        card = card_of(config)
        assert isinstance(card, ModelCard)
        native_bytes(card, "fp8", "fp8", 2)
    except TokenwellError as error:
        assert str(error)
    assert time.process_time() - started < 4


def test_a_plan_needs_no_torch_and_starts_at_once() -> None:
    code = (
        "import sys, time; started = time.process_time()\n"
        "from tokenwell.plan.card import read_card\nfrom tokenwell.plan.bytes import native_bytes\n"
        f"native_bytes(read_card({str(path_of('gemma-4-26B-A4B-it'))!r}), 'fp8')\n"
        "print(time.process_time() - started)\n"
        "assert not {'torch', 'numpy', 'httpx2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2
