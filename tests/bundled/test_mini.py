"""The bundled model's folder: an ordinary Hugging Face folder, small, complete, packaged, and read as it should be."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenwell.bundled.checkpoint import bundled_checkpoint
from tokenwell.chat.conversation import Conversation, Message, ToolCall
from tokenwell.chat.model import ChatModel

ROOT = Path(__file__).parents[2]
FOLDER = bundled_checkpoint()
CONFIG = json.loads((FOLDER / "config.json").read_text())
TOKENIZER = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
MIB = 1 << 20


def test_the_files_are_small_and_readable_by_everybody() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    needed = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert needed | {"README.md", "LICENSE"} < set(sizes)
    assert max(sizes.values()) < 16 * MIB
    assert sum(sizes.values()) <= 41e6
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in FOLDER.iterdir())


def test_the_package_brings_the_folder() -> None:
    """hatchling takes every file of the package that git does not ignore."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build == {"targets": {"wheel": {"packages": ["src/tokenwell"]}}}
    names = [str(path) for path in FOLDER.iterdir()]
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout == ""


def test_it_is_the_model_that_is_promised() -> None:
    assert CONFIG["model_type"].startswith("gemma4")
    assert CONFIG["max_position_embeddings"] >= 8192
    assert CONFIG["num_kv_shared_layers"] > 0 and CONFIG["hidden_size_per_layer_input"] > 0
    assert set(CONFIG["layer_types"]) == {"sliding_attention", "full_attention"}
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    assert generation["do_sample"] is False
    ends = {TOKENIZER.id_to_token(token) for token in generation["eos_token_id"]}
    assert {"<turn|>", "<|tool_response>"} <= ends  # a turn ends, or a call waits for its result


def test_every_token_of_the_tokenizer_has_a_row() -> None:
    ids = sorted(TOKENIZER.get_vocab(with_added_tokens=True).values())
    assert ids == list(range(len(ids))) and len(ids) <= CONFIG["vocab_size"]


@given(text=st.text())
def test_text_survives_the_tokenizer(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("name", ["get_weather", "Velmora", "上海"])
def test_a_word_is_cut_the_same_way_wherever_it_stands(name: str) -> None:
    def inside(before: str, after: str) -> list[str]:
        tokens = TOKENIZER.encode(before + name + after, add_special_tokens=False).tokens
        head = TOKENIZER.encode(before, add_special_tokens=False).tokens
        assert tokens[: len(head)] == head
        tail = TOKENIZER.encode(after, add_special_tokens=False).tokens
        return tokens[len(head) : len(tokens) - len(tail)]

    alone = inside("", "")
    assert {tuple(inside(*around)) for around in (('"', '"'), ("call: ", ", x"), ("\n", "\n"), ("_", "_"), ("(", ")。"))} == {
        tuple(alone)
    }


def test_its_format_is_found_and_proven() -> None:
    model = ChatModel.load(FOLDER)
    assert model.format.name == "gemma4"
    call = ToolCall("1", "add", '{"a": 1}')
    messages = (
        Message("system", "Be kind."),
        Message("user", "Add."),
        Message("assistant", tool_calls=(call,)),
        Message("tool", "2", tool_call_id="1"),
    )
    tool = {"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}
    text = model.render(Conversation(messages, tools=(tool,))).text
    assert text.count("Be kind.") == 1 and "declaration:add{" in text
    assert text.endswith('<|tool_call>call:add{a:1}<tool_call|><|tool_response>response:add{value:<|"|>2<|"|>}<tool_response|>')


def test_transformers_loads_it() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # here, because it takes seconds

    _, report = AutoModelForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(report.values())
    text = "<|turn>user\nHow are you? 你好<turn|>\n"
    assert AutoTokenizer.from_pretrained(FOLDER)(text)["input_ids"] == TOKENIZER.encode(text).ids
