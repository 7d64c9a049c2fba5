"""What may open a call under a grammar: whatever the parser would read as one is held to its tool's schema."""

from __future__ import annotations

import pytest
from tests.chat.grammar.walks import Speaker, calls, tool

PING = tool("ping", {"type": "object", "properties": {}, "additionalProperties": False})


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
def test_a_call_without_its_frame_is_not_begun(tokens: bool) -> None:
    """The parser forgives a forgotten <tool_call>, so the tag inside it opens a call as well."""
    speaker = Speaker.of("qwen_xml", marks_are_tokens=tokens)
    grammar = speaker.constrain([PING], "auto").grammar
    assert calls(speaker.events(speaker.ids("Well.\n<function=ping>\n</function>"), [PING])) == [("ping", "{}")]
    assert not speaker.begins(grammar, "Well.\n<function=ping>")
    assert speaker.accepts(grammar, "Well.\n<tool_call>\n<function=ping>\n</function>\n</tool_call>")
    assert speaker.accepts(grammar, "a < b, <b>functions</b> and 1 <func")


def test_a_spelling_of_another_format_is_not_begun() -> None:
    speaker = Speaker.of("hermes")
    grammar = speaker.constrain([PING], "auto").grammar
    assert calls(speaker.events(speaker.ids("<tool_call>\n<function=ping>\n</function>\n</tool_call>"), [PING])) == [
        ("ping", "{}")
    ]
    assert not speaker.begins(grammar, "<tool_call>\n<function")
    assert speaker.accepts(grammar, "<function=ping> is no call here.")


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("id", ["", "[CALL_ID]abc123DEF"])
def test_mistral_may_give_a_call_its_id(tokens: bool, id: str) -> None:
    speaker = Speaker.of("mistral", marks_are_tokens=tokens)
    text = f"[TOOL_CALLS]ping{id}[ARGS]{{}}"
    assert speaker.accepts(speaker.constrain([PING]).grammar, text)
    assert calls(speaker.events(speaker.ids(text), [PING])) == [("ping", "{}")]
