"""The bundled checkpoint: the same bytes everywhere, built once, built again when damaged, loadable by others' tools."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from tokenwell.bundled.checkpoint import NAME, VERSION, bundled_checkpoint
from tokenwell.bundled.vocabulary import learn
from tokenwell.chat.conversation import Conversation, Message, ToolCall
from tokenwell.chat.model import ChatModel
from tokenwell.wire.errors import CheckpointError

# The bytes of VERSION 1. If they have to change, raise VERSION: caches of the old one are then left alone.
DIGESTS = {
    "config.json": "908c4af9f94b2534962584d2d46efe526268646a2bd08ca620cd1b9edbf9e16d",
    "generation_config.json": "9e9d2455d340be174a0699571cd3d0323a78077d2460f7a4c9cf7cdd545f556b",
    "model.safetensors": "f3ace35c67a66d585d28cc01fbb456aaa4cedf363398101d37277ea3268c3863",
    "tokenizer.json": "3d35f871f9ff27bbf1f75f6cc3c6675d5bae2878299c55865c5a6e675d628d2f",
    "tokenizer_config.json": "55e7b233c23ea89acee82481a42c43a08185b68b8095c8a78165baab82829816",
}

_BUILD = """
import sys
from pathlib import Path
from tokenwell.bundled.checkpoint import bundled_checkpoint
print(bundled_checkpoint(Path(sys.argv[1])))
assert not {"torch", "transformers"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled_checkpoint(tmp_path_factory.mktemp("cache"))


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != "manifest.json"}


def test_the_bytes_are_those_of_this_version(folder: Path) -> None:
    assert VERSION == 1
    assert _digests(folder) == DIGESTS


def test_the_folder_has_the_served_name_and_nothing_is_left_beside_it(folder: Path) -> None:
    assert folder.name == NAME
    assert sorted(path.name for path in folder.parent.iterdir()) == ["lock", NAME]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_an_intact_folder_is_not_built_again_and_need_not_be_writable(tmp_path: Path) -> None:
    first = bundled_checkpoint(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    (first.parent / "lock").unlink()
    first.parent.chmod(0o555)
    assert bundled_checkpoint(tmp_path) == first
    first.parent.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before
    assert not (first.parent / "lock").exists()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", "gone"),
        ("manifest.json", "gone"),
        ("model.safetensors", "truncated"),
        ("model.safetensors", "changed"),
        ("tokenizer.json", "empty"),
        ("manifest.json", "empty"),
    ],
)
def test_a_damaged_folder_is_built_again(tmp_path: Path, name: str, damage: str) -> None:
    path = bundled_checkpoint(tmp_path) / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[:-7], "changed": bytes([data[0] ^ 1]) + data[1:], "empty": b""}[damage])
    folder = bundled_checkpoint(tmp_path)
    assert _digests(folder) == DIGESTS
    assert sorted(path.name for path in folder.parent.iterdir()) == ["lock", NAME]


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b'{"version": 1, "sha256": []}', b'{"version": 0, "sha256": {}}', b"\xff"]
)
def test_a_strange_manifest_is_damage(tmp_path: Path, content: bytes) -> None:
    (bundled_checkpoint(tmp_path) / "manifest.json").write_bytes(content)
    assert json.loads((bundled_checkpoint(tmp_path) / "manifest.json").read_text())["sha256"] == DIGESTS


def test_a_file_in_the_folders_place_and_an_interrupted_build_are_cleared(tmp_path: Path) -> None:
    home = tmp_path / "bundled" / str(VERSION)
    (home / ".building-0").mkdir(parents=True)
    (home / ".building-0" / "config.json").write_text("{")
    (home / NAME).write_text("not a folder")
    assert _digests(bundled_checkpoint(tmp_path)) == DIGESTS
    assert sorted(path.name for path in home.iterdir()) == ["lock", NAME]


def test_many_first_starts_at_once_build_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _BUILD, str(tmp_path)]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {start.communicate()[0].strip() for start in starts}
    assert [start.returncode for start in starts] == [0] * 4
    assert len(folders) == 1
    assert _digests(Path(folders.pop())) == DIGESTS


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot be written to .*tokenwell-tiny: Not a directory; .*XDG_CACHE_HOME"):
        bundled_checkpoint(tmp_path / "cache")


# ---------------------------------------------------------------- what is in it


def test_the_weights_have_the_configs_shapes_and_sane_values(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    assert len(weights) == 2 + 11 * config["num_hidden_layers"]
    assert weights["model.embed_tokens.weight"].shape == (config["vocab_size"], config["hidden_size"])
    rows = config["num_key_value_heads"] * config["head_dim"]
    assert weights["model.layers.3.self_attn.k_proj.weight"].shape == (rows, config["hidden_size"])
    for tensor in weights.values():
        assert tensor.dtype == np.float32
        assert np.isfinite(tensor).all()
        assert tensor.std() > 0.01


def test_every_token_of_the_model_has_a_text(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert sorted(tokenizer.get_vocab(with_added_tokens=True).values()) == list(range(vocab_size))


def test_end_ids_are_the_end_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    generation = json.loads((folder / "generation_config.json").read_text())
    assert [tokenizer.id_to_token(token) for token in generation["eos_token_id"]] == ["<|im_end|>", "<|endoftext|>"]
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == generation["eos_token_id"][0]


@given(text=st.text())
def test_text_survives_the_tokenizer(folder: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    normal = tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == normal


def test_english_takes_few_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(tokenizer.encode("The people came for water and then they went back to work.").ids) <= 16


def test_the_template_renders_turns_and_tools(folder: Path) -> None:
    model = ChatModel.load(folder)
    call = ToolCall("1", "add", '{"a": 1}')
    messages = (
        Message("system", "Be kind."),
        Message("user", "Add."),
        Message("assistant", tool_calls=(call,)),
        Message("tool", "2", tool_call_id="1"),
    )
    plain = model.render(Conversation(messages[:2])).text
    assert plain == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n"
    tool = {"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}
    tools = model.render(Conversation(messages, tools=(tool,), add_generation_prompt=False)).text
    assert tools.startswith("<|im_start|>system\nBe kind.\n\nYou may call these functions")
    assert '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n' in tools
    assert tools.endswith("<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n")
    assert tools.count("Be kind.") == 1


def test_learning_more_than_the_corpus_holds_is_an_error() -> None:
    with pytest.raises(ValueError, match="the corpus gives only 259 tokens, not 300"):
        learn("abc abc", 300)


def test_the_most_frequent_pair_is_merged_first_and_ties_go_by_order() -> None:
    _, merges = learn("ab ab ba ba ba", 258)  # " ba" three times: ("b", "a") and ("Ġ", "b") are as frequent
    assert merges == [("b", "a"), ("Ġ", "ba")]


def test_transformers_loads_it(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # here, because it takes seconds

    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    text = "<|im_start|>user\nHow are you?<|im_end|>\n"
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids
