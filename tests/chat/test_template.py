"""Where templates are found and which one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.chat.checkpoints import write_checkpoint

from tokenwell.chat.template import Template
from tokenwell.wire.errors import CheckpointError, SettingsError

TOOL = {"type": "function", "function": {"name": "f"}}


def text(template: Template | None, tools: tuple[dict[str, Any], ...] = ()) -> str:
    assert template is not None
    return template.render([{"role": "user", "content": "hi"}], tools, {}, True)


def test_no_template(tmp_path: Path) -> None:
    assert Template.load(write_checkpoint(tmp_path)) is None
    assert Template.load(write_checkpoint(tmp_path, tokenizer_config={"chat_template": None})) is None


def test_places_in_order(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tokenizer_config={"chat_template": "config"})
    assert text(Template.load(tmp_path)) == "config"
    write_checkpoint(tmp_path, chat_template={"chat_template": "json"})
    assert text(Template.load(tmp_path)) == "json"
    write_checkpoint(tmp_path, chat_template_jinja="jinja\n")
    template = Template.load(tmp_path)
    assert text(template) == "jinja"
    assert template is not None and template.origin.endswith("chat_template.jinja")
    (tmp_path / "mine.jinja").write_text("mine é", encoding="utf-8")
    assert text(Template.load(tmp_path, tmp_path / "mine.jinja")) == "mine é"


@pytest.mark.parametrize(
    "entry",
    [
        [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}],
        {"default": "d", "tool_use": "t"},
    ],
)
def test_tool_use_is_taken_when_there_are_tools(tmp_path: Path, entry: object) -> None:
    template = Template.load(write_checkpoint(tmp_path, tokenizer_config={"chat_template": entry}))
    assert text(template) == "d"
    assert text(template, (TOOL,)) == "t"


def test_additional_templates(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "additional_chat_templates", tool_use_jinja="t")
    assert text(Template.load(tmp_path)) == "t"
    write_checkpoint(tmp_path, chat_template_jinja="d")
    assert text(Template.load(tmp_path)) == "d"
    assert text(Template.load(tmp_path), (TOOL,)) == "t"


def test_several_without_a_default(tmp_path: Path) -> None:
    entry = [{"name": "rag", "template": "r"}, {"name": "other", "template": "o"}]
    write_checkpoint(tmp_path, tokenizer_config={"chat_template": entry})
    with pytest.raises(
        CheckpointError, match=r'tokenizer_config\.json: has the chat templates other, rag and none is called "default"'
    ):
        Template.load(tmp_path)


@pytest.mark.parametrize("entry", [3, [3], [{"name": "x"}], {"default": 3}])
def test_entries_that_are_no_template(tmp_path: Path, entry: object) -> None:
    write_checkpoint(tmp_path, tokenizer_config={"chat_template": entry})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: chat_template must be"):
        Template.load(tmp_path)


@pytest.mark.parametrize("entry", [[], {}])
def test_no_template_in_a_list(tmp_path: Path, entry: object) -> None:
    write_checkpoint(tmp_path, tokenizer_config={"chat_template": entry})
    with pytest.raises(CheckpointError, match="is empty"):
        Template.load(tmp_path)


def test_syntax_errors_name_the_file_and_line(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, chat_template_jinja="a\nb\n{% if x %}")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: line 3 of the chat template is not valid Jinja"):
        Template.load(tmp_path)
    entry = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "\n{{ x | nope }}"}]
    write_checkpoint(tmp_path / "b", tokenizer_config={"chat_template": entry})
    with pytest.raises(
        CheckpointError, match=r"tokenizer_config\.json: line 2 of the chat template \(the one called 'tool_use'\)"
    ):
        Template.load(tmp_path / "b")


def test_an_override_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model\.chat_template: there is no file .*nowhere\.jinja"):
        Template.load(tmp_path, tmp_path / "nowhere.jinja")
    (tmp_path / "binary.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"binary\.jinja: is not UTF-8"):
        Template.load(tmp_path, tmp_path / "binary.jinja")


def test_variables_that_are_always_there() -> None:
    source = "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ bos_token }}"
    template = Template({"default": source}, "test")
    assert template.render([], (), {"bos_token": "<s>"}, False) == "TrueTrueFalse<s>"
    assert template.render([], (TOOL,), {"documents": []}, True) == "FalseFalseTrue"
