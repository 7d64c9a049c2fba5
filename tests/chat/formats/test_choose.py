"""The format is chosen by what a template prints, and proven by reading it back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.chat.checkpoints import TEMPLATES

from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.choose import Checkpoint, Chosen, choose
from tokenwell.chat.renderer import Renderer
from tokenwell.chat.repairs import TOOLS_AS_TEXT
from tokenwell.chat.template import Template

OWN = {path.stem: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "templates").glob("*.jinja"))}
STOPS = ("<|im_end|>", "</s>", "<|eot_id|>", "<turn|>", "<|call|>", "<|return|>", "<｜end▁of▁sentence｜>")
# Added to Qwen's and DeepSeek's vocabularies, but not special.
VISIBLE = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def chosen(folder: Path, text: str, asked: str = "auto") -> Chosen:
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    template = Template.load(folder, None)
    assert template is not None
    renderer = Renderer(template, {"bos_token": "<s>", "eos_token": "</s>"})
    abilities = renderer.abilities
    marks = [mark for format in FORMATS.values() for mark in format.marks if mark in text and mark not in VISIBLE]
    return choose(
        Checkpoint(
            renders=renderer,
            sources=tuple(template.sources.values()),
            reads_tools=abilities.reads_tools and TOOLS_AS_TEXT not in abilities.repairs,
            special={mark: id for id, mark in enumerate(dict.fromkeys(marks))},
            stops=STOPS,
        ),
        asked,
    )


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("chatml", "hermes"),
        ("gemma4", "gemma4"),
        ("harmony", "harmony"),
        ("mistral", "mistral"),
        ("qwen3", "hermes"),
        ("qwen_coder", "qwen_xml"),
        ("llama31", "llama3"),
        ("deepseek_v3", "deepseek"),
        ("deepseek_v31", "deepseek"),
        ("mistral_v11", "mistral"),
        ("own_tags", "derived"),
        ("own_object", "derived"),
    ],
)
def test_calls_of_the_template_are_read_back(tmp_path: Path, name: str, format: str) -> None:
    found = chosen(tmp_path, (TEMPLATES | OWN)[name])
    assert (found.bound.name, found.calls) == (format, True), found.choice.reason
    assert "read back" in found.choice.reason


def test_the_spelling_that_is_written_is_the_templates(tmp_path: Path) -> None:
    v3, v31 = chosen(tmp_path, OWN["deepseek_v3"]).bound.call, chosen(tmp_path, OWN["deepseek_v31"]).bound.call
    assert v3 is not None and v31 is not None
    assert (v3.separator, v3.between) == ("\n", "\n```json\n") and (v31.separator, v31.between) == ("", "<｜tool▁sep｜>")
    old = chosen(tmp_path, TEMPLATES["mistral"]).bound.call
    assert old is not None and (old.begin, old.separator, old.end) == ("[TOOL_CALLS] [", ", ", "]")
    tags, object_ = chosen(tmp_path, OWN["own_tags"]).bound.call, chosen(tmp_path, OWN["own_object"]).bound.call
    assert tags is not None and (tags.before, tags.between, tags.after) == ("<<run ", " with ", " >>")
    assert object_ is not None and object_.envelope == ("function", "params")
    assert (object_.begin, object_.separator, object_.end) == ("<functioncall>[", ", ", "]</functioncall>")


@pytest.mark.parametrize(("name", "format"), [("r1", "deepseek"), ("gemma2", "plain"), ("llama3", "plain")])
def test_without_calls_tools_are_refused_and_reasoning_is_still_told(tmp_path: Path, name: str, format: str) -> None:
    found = chosen(tmp_path, (TEMPLATES | OWN)[name])
    assert (found.bound.name, found.calls) == (format, False)
    assert "requests with tools are refused" in found.choice.reason and "--chat-format" in found.choice.reason


def test_calls_in_a_notation_that_nobody_knows_are_refused_loudly(tmp_path: Path) -> None:
    lines = "(call.function.arguments | items | map('join', '=') | join(';'))"
    found = chosen(tmp_path, OWN["own_tags"].replace("(call.function.arguments | tojson)", lines))
    assert (found.bound.name, found.calls) == ("plain", False)
    assert "could not be read back" in found.choice.reason


def test_what_is_asked_for_is_taken_and_what_it_can_is_told(tmp_path: Path) -> None:
    right, wrong = chosen(tmp_path, OWN["qwen3"], "hermes"), chosen(tmp_path, OWN["qwen3"], "llama3")
    assert right.calls and re.search("set by model.chat_format; .*read back", right.choice.reason)
    assert wrong.bound.name == "llama3" and "not proven" in wrong.choice.reason
