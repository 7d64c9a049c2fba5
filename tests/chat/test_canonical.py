"""Conversations that mean the same are rendered to the same tokens, with every template."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.chat.checkpoints import TEMPLATES, write_checkpoint

from tokenwell.chat.canonical import canonical, canonical_tool
from tokenwell.chat.conversation import Conversation, Message, ToolCall
from tokenwell.chat.model import ChatModel
from tokenwell.chat.nonces import NAMES, without_nonces
from tokenwell.wire.errors import SettingsError

WRITE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "write",
        "description": "Write a file.",
        "parameters": {
            "type": "object",
            "description": "Where and what.",
            "properties": {
                "path": {"type": "string", "description": "A path.", "minLength": 1},
                "content": {"type": "string", "description": "The text."},
                "append": {"type": "boolean", "description": "At the end?", "default": False},
            },
            "required": ["path", "content"],
            "additionalProperties": False,
        },
    },
}


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, chance)) for key, item in value.items()]
        chance.shuffle(items)
        return dict(items)
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def history(ids: list[str], arguments: list[dict[str, Any]], compact: bool) -> tuple[Message, ...]:
    separators = (",", ":") if compact else (", ", ": ")
    calls = tuple(ToolCall(id, "write", json.dumps(a, separators=separators)) for id, a in zip(ids, arguments, strict=True))
    return (
        Message("system", "Be brief."),
        Message("user", "Write them."),
        Message("user", "Now."),
        Message("assistant", "", None, calls),
        *(Message("tool", f"done {place}", tool_call_id=id) for place, id in enumerate(ids)),
        Message("assistant", "All done."),
        Message("user", "Thanks."),
    )


@pytest.fixture(scope="module", params=sorted(TEMPLATES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    folder = tmp_path_factory.mktemp("model")
    tokens = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    return ChatModel.load(write_checkpoint(folder, tokenizer_config={**tokens, "chat_template": TEMPLATES[request.param]}))


ARGUMENTS = st.fixed_dictionaries(
    {"path": st.text(max_size=8), "content": st.text(max_size=12)}, optional={"append": st.booleans()}
)


@given(st.lists(ARGUMENTS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_respelled_history_gives_the_same_tokens(
    model: ChatModel, arguments: list[dict[str, Any]], chance: random.Random
) -> None:
    ids = [f"call_{number}_4dfc" for number in range(len(arguments))]
    first = Conversation(history(ids, arguments, False), (WRITE,))
    again = Conversation(history([id.replace("_", "") for id in ids], arguments, True), (shuffled(WRITE, chance),))
    assert model.render(first).tokens == model.render(again).tokens


def test_tools_keep_their_meaning_and_a_fixed_order() -> None:
    chance = random.Random(1)
    for _ in range(20):
        tool = canonical_tool(shuffled(WRITE, chance))
        assert json.dumps(tool) == json.dumps(WRITE)
    odd = {"type": "function", "function": {"name": "x", "parameters": {"properties": 3, "required": "a", "type": ["b", 1]}}}
    assert canonical_tool(odd) == odd


def test_properties_called_like_keywords_stay_properties() -> None:
    parameters = {"type": "object", "properties": {"type": {"enum": ["b", "a"]}, "default": {"type": "string"}}}
    tool = canonical_tool({"type": "function", "function": {"name": "x", "parameters": parameters}})
    assert tool["function"]["parameters"] == parameters


def test_order_of_tools_and_of_lists_is_kept() -> None:
    other = {"type": "function", "function": {"name": "a"}}
    assert [tool["function"]["name"] for tool in canonical(Conversation((Message("user", "x"),), (WRITE, other))).tools] == [
        "write",
        "a",
    ]


def test_calls_with_the_same_id_keep_their_results_apart() -> None:
    one, two = ToolCall("0", "a", "{}"), ToolCall("0", "b", "{}")
    messages = (
        Message("assistant", tool_calls=(one, two)),
        Message("tool", "1", tool_call_id="0"),
        Message("tool", "2", tool_call_id="0"),
    )
    later = (Message("assistant", tool_calls=(one,)), Message("tool", "3", tool_call_id="0"), Message("tool", "4"))
    result = canonical(Conversation((*messages, *later))).messages
    assert [message.tool_call_id for message in result if message.role == "tool"] == [
        "functions.a:0",
        "functions.b:1",
        "functions.a:2",
        None,
    ]


# ---------------------------------------------------------------- nonces

BILLING = "x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=%s;"


def test_claude_codes_billing_line_is_left_out(model: ChatModel) -> None:
    def tokens(text: str) -> list[int]:
        return model.render(Conversation((Message("system", text), Message("user", "hi")))).tokens

    assert tokens(BILLING % "eb6c6" + "\n\nYou are an agent.") == tokens(BILLING % "00000" + "\n\nYou are an agent.")
    assert tokens(BILLING % "eb6c6" + "\n\nYou are an agent.") == tokens("You are an agent.")


def test_only_what_is_certainly_no_content_is_left_out() -> None:
    line = BILLING % "eb6c6"
    for message in (
        Message("user", line),
        Message("system", f"See:\n{line}"),
        Message("system", "Today is 2026-11-21 07:20."),
        Message("assistant", line),
    ):
        assert without_nonces((message,)) == (message,)
    assert without_nonces((Message("system", line), Message("user", "x"))) == (Message("user", "x"),)
    kept = (Message("system", line),)
    assert without_nonces(kept, ["claude-code-billing"]) == kept
    assert canonical(Conversation(kept)).messages == kept  # nothing else to say


def test_openclaws_message_ids() -> None:
    block = '{\n  "schema": "openclaw.inbound_meta.v1",\n  "message_id": "%s",\n  "chat_id": "7",\n  "reply_to_id": "%s"\n}'
    [first] = without_nonces((Message("system", "Meta:\n" + block % ("6678", "1")),))
    [second] = without_nonces((Message("system", "Meta:\n" + block % ("6680", "2")),))
    assert first == second
    assert json.loads(first.content.removeprefix("Meta:\n")) == {"schema": "openclaw.inbound_meta.v1", "chat_id": "7"}


def test_cache_hints_of_tools() -> None:
    hinted = {**WRITE, "cache_control": {"type": "ephemeral"}}
    plain = Conversation((Message("user", "x"),), (WRITE,))
    assert canonical(msgspec.structs.replace(plain, tools=(hinted,))) == canonical(plain)
    assert canonical(msgspec.structs.replace(plain, tools=(hinted,)), ["cache-control"]) != canonical(plain)


def test_unknown_rules_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model\.keep_nonces: 'x'.*claude-code-billing"):
        ChatModel.load(write_checkpoint(tmp_path), keep_nonces=["x"])
    page = (Path(__file__).parents[2] / "docs/agents.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in NAMES)
