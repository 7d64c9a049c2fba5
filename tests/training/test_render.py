"""What is trained on is what the checkpoint's template prints, in the service and in transformers."""

import json
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from training import render as module
from training import tokenizer
from training.dialogue import Dialogue, assistant, calls, results, system, user
from training.export import HERE
from training.feed import fresh, seeds
from training.model import Shape
from training.render import prompt, render

from tokenwell.chat.conversation import Conversation, Message, ToolCall
from tokenwell.chat.model import ChatModel
from tokenwell.chat.template import Template

TEMPLATE = HERE / "chat_template.jinja"
NESTED = {
    "type": "object",
    "properties": {
        "Zone": {"type": ["string", "null"], "description": "Which zone"},
        "count": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        "list": {"type": "array", "items": {"type": "string"}},
        "place": {"type": "object", "properties": {"kind": {"type": "string", "enum": ["a b", "c"]}}, "required": ["kind"]},
        "any": {},
    },
    "required": ["Zone", "place"],
}
TOOLS = [
    {"type": "function", "function": {"name": "a.b-c", "description": " Does it. ", "parameters": NESTED}},
    {"type": "function", "function": {"name": "bare"}},
]


def long_dialogue() -> list[dict[str, Any]]:
    messages = [system("Be short. "), user(" hello")]
    messages.append(calls(messages, [("a.b-c", {"Zone": "x\ny", "list": [1, 2.5, True, None, {"b": "c"}]}), ("bare", {})]))
    messages += results(messages[-1], ['{"a": "b"}', " second "])
    messages.append(calls(messages, [("bare", {})]))
    messages += results(messages[-1], ["third"])
    return [*messages, assistant("Done. "), user("更多"), assistant("好的。")]


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.load(HERE) or pytest.fail("no template")


def printed(template: Template, messages: list[dict[str, Any]], tools: list[dict[str, Any]], opened: bool) -> str:
    return template.render(messages, tools, {"bos_token": "<bos>"}, opened)


@pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "none"])
@pytest.mark.parametrize("first", [0, 1], ids=["system", "no system"])
def test_rendered_pieces_are_the_templates_text(template: Template, tools: list[dict[str, Any]], first: int) -> None:
    messages = long_dialogue()[first:]
    for end in range(1, len(messages) + 1):
        some = messages[:end]
        text = "".join(piece for piece, _ in render(Dialogue(some, tools)))
        if some[-1].get("tool_calls"):
            text = text.removesuffix(module.STOP_OF_CALLS)
        assert text == printed(template, some, tools, False)
        assert prompt(some, tools) == printed(template, some, tools, True) or some[-1]["role"] == "assistant"


def test_generated_dialogues_too(template: Template) -> None:
    for made in islice(fresh("train", seeds(0, 0, 0)), 60):
        text = "".join(piece for piece, _ in render(made))
        stop = module.STOP_OF_CALLS if made.messages[-1].get("tool_calls") else ""
        assert text == printed(template, made.messages, made.tools, False) + stop


def test_what_the_assistant_wrote_is_learned_with_its_stop_token() -> None:
    learned = [piece for piece, learn in render(Dialogue(long_dialogue(), TOOLS)) if learn]
    assert learned == [
        '<|tool_call>call:a.b-c{list:[1,2.5,true,null,{b:<|"|>c<|"|>}],Zone:<|"|>x\ny<|"|>}<tool_call|>'
        "<|tool_call>call:bare{}<tool_call|><|tool_response>",
        "<|tool_call>call:bare{}<tool_call|><|tool_response>",
        "Done.<turn|>",
        "好的。<turn|>",
    ]


def test_a_prompt_begins_the_next_one(template: Template) -> None:
    messages = long_dialogue()
    prompts = [printed(template, messages[:end], TOOLS, True) for end in (2, 5, 7, 9)]
    for shorter, longer in pairwise(prompts):
        assert longer.startswith(shorter)


def test_a_user_who_interrupts_open_calls_gets_a_turn(template: Template) -> None:
    messages = [*long_dialogue()[:5], user("stop")]
    assert printed(template, messages, [], True).endswith(
        "<tool_response|><turn|>\n<|turn>user\nstop<turn|>\n<|turn>model\n"
    )  # fmt: skip


def test_parts_of_a_content_are_joined(template: Template) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\nab<turn|>" in printed(template, [{"role": "user", "content": parts}], [], True)


def test_the_service_chooses_gemma4_and_repairs_nothing_that_matters(checkpoint: Path) -> None:
    model = ChatModel.load(checkpoint)
    choices = {choice.what: choice.chosen for choice in model.choices}
    assert choices["chat format"] == "gemma4"
    assert "lacks" not in " ".join(choices)
    assert model.reads_tools
    text = model.render(Conversation((Message("system", "S"), Message("user", "u")), tuple(TOOLS))).text
    assert text == prompt([system("S"), user("u")], TOOLS)
    assert Shape.load().vocabulary == model.tokenizer.vocab_size


def conversation(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Conversation:
    """The messages as a client sends them."""
    sent = []
    for message in messages:
        made = tuple(
            ToolCall(call["id"], call["function"]["name"], json.dumps(call["function"]["arguments"]))
            for call in message.get("tool_calls") or ()
        )
        sent.append(Message(message["role"], message["content"], tool_calls=made, tool_call_id=message.get("tool_call_id")))
    return Conversation(tuple(sent), tuple(tools))


def test_the_service_asks_the_model_what_it_was_trained_on(checkpoint: Path) -> None:
    model = ChatModel.load(checkpoint)
    for made in islice(fresh("train", seeds(0, 0, 2)), 40):
        for end, message in enumerate(made.messages):
            if message["role"] == "assistant":
                asked = model.render(conversation(made.messages[:end], made.tools))
                assert asked.text == prompt(made.messages[:end], made.tools)
                assert list(asked.tokens) == tokenizer.encode([asked.text])[0]
