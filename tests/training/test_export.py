"""The folder is an ordinary Hugging Face folder in small shards."""

import json
from pathlib import Path

import pytest
import torch
from tests.training.conftest import SMALL
from training import export, tokenizer
from training.export import MANTISSA, mean, read, rounded, save
from training.model import Mini

from tokenwell.chat.defaults import Defaults
from tokenwell.chat.tokenizer import Tokenizer


def test_transformers_reads_the_folder_and_renders_the_same(checkpoint: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(checkpoint)
    assert config.architectures == ["Gemma4ForCausalLM"]
    assert config.num_kv_shared_layers == SMALL.shared and config.layer_types[-1] == "full_attention"
    loaded = AutoTokenizer.from_pretrained(checkpoint)
    text = loaded.apply_chat_template([{"role": "user", "content": "hi 天"}], add_generation_prompt=True, tokenize=False)
    assert text == "<bos><|turn>user\nhi 天<turn|>\n<|turn>model\n"
    assert loaded(text, add_special_tokens=False)["input_ids"] == tokenizer.encode([text])[0]


def test_the_service_stops_where_a_turn_ends_and_decodes_greedily(checkpoint: Path) -> None:
    defaults = Defaults.load(checkpoint, Tokenizer.load(checkpoint))
    assert set(tokenizer.ids("<turn|>", "<|tool_response>", "<eos>")) <= set(defaults.stop_ids)
    assert json.loads((checkpoint / "generation_config.json").read_text())["do_sample"] is False


def test_shards_are_small_and_give_the_weights_back(tmp_path: Path) -> None:
    weights = Mini(SMALL).state_dict()
    whole = sum(tensor.numel() * 2 for tensor in weights.values())
    old, export.SHARD_BYTES = export.SHARD_BYTES, whole // 3
    try:
        save(weights, tmp_path)
        save(weights, tmp_path)  # what was there before goes
    finally:
        export.SHARD_BYTES = old
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) >= 3
    index = json.loads((tmp_path / export.INDEX).read_text())
    assert index["metadata"]["total_size"] == whole
    assert {file.name for file in files} == set(index["weight_map"].values())
    again = read(tmp_path)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], tensor.bfloat16()) for name, tensor in weights.items())


def test_a_mean_weighs_its_parts_and_wants_whole_shares() -> None:
    first, second = {"a": torch.tensor([1.0, -2.0])}, {"a": torch.tensor([3.0, 2.0])}
    assert mean([(0.75, first), (0.25, second)])["a"].tolist() == [1.5, -1.0]
    with pytest.raises(ValueError, match="add up"):
        mean([(0.75, first), (0.5, second)])


def test_rounded_weights_are_near_and_stay_where_they_are() -> None:
    weights = {"matrix": torch.randn(64, 64).bfloat16(), "norm": torch.randn(64).bfloat16(), "zero": torch.zeros(2, 2)}
    once = rounded(weights)
    assert torch.equal(once["norm"], weights["norm"]) and torch.equal(once["zero"], weights["zero"])
    apart = (once["matrix"].float() - weights["matrix"].float()).abs() / weights["matrix"].float().abs()
    assert 0 < float(apart.max()) <= 2.0 ** -(MANTISSA + 1)
    assert once["matrix"].dtype == torch.bfloat16 and torch.equal(rounded(once)["matrix"], once["matrix"])
    assert (once["matrix"].view(torch.int16) & 0b1111 == 0).all()  # the bits that are left out
