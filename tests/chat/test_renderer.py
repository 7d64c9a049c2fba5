"""Conversations as agents send them, through templates in the styles of public ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chat.checkpoints import TEMPLATES

from tokenwell.chat import repairs
from tokenwell.chat.conversation import ChatError, Conversation, Message, ToolCall
from tokenwell.chat.renderer import Renderer
from tokenwell.chat.sandbox import Limits
from tokenwell.chat.template import Template

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def renderer_of(source: str, limits: Limits = Limits()) -> Renderer:  # noqa: B008 (frozen)
    template = Template({"default": source}, "test", limits, lambda: datetime(2026, 3, 9))
    return Renderer(template, {"bos_token": "<s>", "eos_token": "</s>"})


RENDERERS = {name: renderer_of(source) for name, source in TEMPLATES.items()}
STYLES = pytest.mark.parametrize("style", sorted(TEMPLATES))


def render(style: str, *messages: Message, **fields: object) -> str:
    return RENDERERS[style].render(Conversation(messages=messages, **fields))  # type: ignore[arg-type]


def in_order(text: str, words: Sequence[str]) -> bool:
    place = 0
    for word in words:
        place = text.find(word, place) + 1
        if not place:
            return False
    return True


CALL = ToolCall("call_1", "get_weather", '{"city": "Paris"}')
OTHER = ToolCall("call_2", "get_time", '{"zone": "CET"}')
AGENT = (
    Message("system", "S1."),
    Message("developer", "S2."),
    Message("user", "U1."),
    Message("user", "U2."),
    Message("assistant", "", reasoning="T1.", tool_calls=(CALL, OTHER)),
    Message("tool", "R1.", tool_call_id="call_1"),
    Message("tool", "R2.", tool_call_id="call_2"),
    Message("assistant", "A1."),
    Message("user", "U3."),
    Message("assistant", "A2."),
    Message("system", "S3."),
    Message("user", "U4."),
)


@STYLES
def test_what_agents_send_renders_everywhere_and_nothing_is_lost(style: str) -> None:
    text = render(style, *AGENT, tools=(TOOL,))
    assert in_order(text, ["U1.", "U2.", "get_weather", "Paris", "R1.", "A1.", "U3.", "A2.", "S3.", "U4."])
    assert in_order(text, ["get_time", "CET", "R2.", "A1."])
    assert in_order(text, ["S1.", "S2."])


@STYLES
def test_the_same_conversation_gives_the_same_text(style: str) -> None:
    text = render(style, *AGENT)
    render(style, Message("assistant", "first"))
    assert render(style, *AGENT) == text
    assert renderer_of(TEMPLATES[style]).render(Conversation(messages=AGENT)) == text


@pytest.mark.parametrize("style", sorted(set(TEMPLATES) - {"mistral"}))  # that one moves the system message to the last user
@pytest.mark.parametrize("length", [3, 4, 8, 10])
def test_a_longer_conversation_begins_with_the_shorter(style: str, length: int) -> None:
    shorter = render(style, *AGENT[:length], add_generation_prompt=False)
    closing = "<end_of_turn>\n"  # where the next message is merged in
    assert render(style, *AGENT, add_generation_prompt=False).startswith(shorter.removesuffix(closing))


@STYLES
def test_odd_conversations_render(style: str) -> None:
    for messages in (
        [Message("system", "S.")],
        [Message("assistant", "A."), Message("user", "U.")],
        [Message("assistant", "A.")],
        [Message("user", "")],
        [Message("user", "U."), Message("assistant", "A."), Message("assistant", "B.")],
        [
            Message("user", "U."),
            Message("assistant", tool_calls=(CALL,)),
            Message("tool", "R.", tool_call_id="call_1"),
            Message("user", "V."),
        ],
        [Message("user", "U."), Message("assistant", tool_calls=(ToolCall("", "f", "nonsense"),)), Message("tool", "R.")],
        [Message("user", "U."), Message("assistant", "B.", tool_calls=(CALL,)), Message("user", "V.")],
        [Message("developer", "D."), Message("developer", "E."), Message("user", "U.")],
    ):
        text = render(style, *messages)
        visible = [message.content for message in messages if message.content and not message.tool_calls]
        assert all(word in text for word in visible), (style, messages, text)


def test_repairs_are_those_that_each_style_needs() -> None:
    names = {style: set(renderer.abilities.repairs) for style, renderer in RENDERERS.items()}
    assert names["chatml"] == {repairs.DEVELOPER_AS_SYSTEM}
    assert names["strict_chatml"] == {
        repairs.DEVELOPER_AS_SYSTEM,
        repairs.LEADING_MERGED,
        repairs.LATER_AS_USER,
        repairs.SOME_USER,
    }
    assert names["llama3"] == {repairs.DEVELOPER_AS_SYSTEM, repairs.CALLS_ONE_BY_ONE, repairs.TEXT_BEFORE_CALLS}
    assert repairs.LEADING_AS_USER in names["gemma2"] and repairs.TOOLS_AS_TEXT in names["gemma2"]
    assert repairs.SHORT_CALL_IDS in names["mistral"] and repairs.USERS_MERGED in names["mistral"]
    assert repairs.TOOLS_AS_TEXT not in names["mistral"]
    assert repairs.DEVELOPER_AS_SYSTEM not in names["harmony"] | names["gemma4"]
    assert {repairs.CALLS_ONE_BY_ONE, repairs.TEXT_INTO_REASONING} <= names["harmony"]
    assert {repairs.ARGUMENTS_AS_TEXT, repairs.NO_CONTENT_BESIDE_CALLS} <= names["deepseek"]


def test_results_join_their_calls_where_the_template_wants_them_there() -> None:
    assert repairs.RESPONSES_BESIDE_CALLS in RENDERERS["gemma4"].abilities.repairs
    calls = (Message("user", "u"), Message("assistant", tool_calls=(CALL,)), Message("tool", "r", tool_call_id="call_1"))
    text = render("gemma4", *calls)
    opened = '<|turn>model\n<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>'
    opened += '<|tool_response>response:get_weather{value:<|"|>r<|"|>}<tool_response|>'
    assert text.endswith(opened)
    longer = render("gemma4", *calls, Message("assistant", "done"), Message("user", "v"))
    assert longer.startswith(text + "done<turn|>\n<|turn>user\nv<turn|>\n")
    with_text = (
        Message("user", "u"),
        Message("assistant", "look", tool_calls=(CALL,)),
        Message("tool", "r", tool_call_id="call_1"),
    )
    assert "<|turn>model\nlook<turn|>\n" + opened in render("gemma4", *with_text)


def test_schemas_that_a_template_refuses_are_narrowed() -> None:
    odd = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": odd}}}}
    for messages in ((Message("user", "u"),), (Message("assistant", "a"),), AGENT):
        text = render("gemma4", *messages, tools=(tool, TOOL))
        assert '<|tool>declaration:f{x:{type:<|"|>NUMBER<|"|>}}<tool|>' in text
    assert "anyOf" in render("chatml", Message("user", "u"), tools=(tool,))


def test_only_the_first_message_stays_a_developer_where_it_is_known() -> None:
    text = render("gemma4", Message("system", "S"), Message("developer", "D"), Message("user", "u"))
    assert text.startswith("<s><|turn>system\nS<turn|>\n<|turn>system\nD<turn|>\n")


def test_what_a_template_takes_is_rendered_as_sent() -> None:
    text = render(
        "chatml", Message("system", "S"), Message("user", "a"), Message("user", "b"), Message("system", "L"), tools=(TOOL,)
    )
    assert "user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>system\nL<|im_end|>" in text
    assert '"name": "f"' in text
    assert text.endswith("<|im_start|>assistant\n")


def test_arguments_reach_the_template_as_an_object() -> None:
    text = render("chatml", Message("user", "u"), Message("assistant", tool_calls=(ToolCall("1", "f", '{"a":"<é>"}'),)))
    assert '{"name": "f", "arguments": {"a": "<é>"}}' in text


def test_reasoning_is_replayed() -> None:
    text = render("chatml", Message("user", "u"), Message("assistant", "a", reasoning="why"), Message("user", "v"))
    assert "<think>\nwhy\n</think>\n\na<|im_end|>" in text
    text = render("harmony", Message("user", "u"), Message("assistant", "text", reasoning="why", tool_calls=(CALL,)))
    assert "analysis<|message|>why\n\ntext<|end|>" in text


def test_parallel_calls_and_results_alternate_where_one_call_a_message_is_all() -> None:
    text = render("harmony", *AGENT)
    assert in_order(
        text,
        ["functions.get_weather<", "functions.get_weather to=assistant", "R1.", "functions.get_time<", "get_time to=", "R2."],
    )


def test_template_arguments_are_variables() -> None:
    assert render("chatml", Message("user", "u"), template_arguments={"enable_thinking": False}).endswith(
        "<think>\n\n</think>\n\n"
    )
    for name in ("messages", "tools", "add_generation_prompt"):
        with pytest.raises(ChatError, match=name):
            render("chatml", Message("user", "u"), template_arguments={name: []})
    for name in ("self", "loop", "range", "raise_exception", "namespace", "", "a b"):
        render("chatml", Message("user", "u"), template_arguments={name: 1})


def test_no_messages() -> None:
    with pytest.raises(ChatError, match="no messages"):
        render("chatml")


@STYLES
def test_continue_final_message(style: str) -> None:
    messages = (Message("user", "u"), Message("assistant", "The answer is  "))
    text = render(style, *messages, continue_final_message=True)
    assert text.endswith(("The answer is  ", "The answer is"))
    closed = render(style, *messages, add_generation_prompt=False)
    assert len(closed) > len(text.rstrip())
    assert closed.startswith(text.rstrip())


def test_continue_final_message_needs_one_that_is_rendered() -> None:
    for messages in ([Message("user", "u")], [Message("user", "u"), Message("assistant", "a", tool_calls=(CALL,))]):
        with pytest.raises(ChatError, match="continue_final_message"):
            render("chatml", *messages, continue_final_message=True)
    hiding = renderer_of("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}")
    with pytest.raises(ChatError, match="cannot be continued"):
        hiding.render(Conversation(messages=(Message("user", "u"), Message("assistant", "a")), continue_final_message=True))


def test_the_mark_of_an_open_message_may_occur_in_the_conversation() -> None:
    messages = (Message("user", "<<open-0>> <<open-1>>"), Message("assistant", "a<<open-2>> "))
    text = render("chatml", *messages, continue_final_message=True)
    assert text.endswith("<<open-0>> <<open-1>><|im_end|>\n<|im_start|>assistant\na<<open-2>> ")


def test_without_a_template_messages_are_lines() -> None:
    plain = Renderer(None, {})
    messages = (Message("system", "s"), Message("user", "u"), Message("assistant", tool_calls=(CALL,)), Message("tool", "r"))
    text = plain.render(Conversation(messages=messages))
    assert text.startswith("system: s\n\nuser: u\n\nassistant: <tool_call>") and text.endswith("</tool_response>\n\nassistant:")
    open_text = plain.render(
        Conversation(messages=(Message("user", "u"), Message("assistant", "It ")), continue_final_message=True)
    )
    assert open_text == "user: u\n\nassistant: It "
    assert [choice.chosen for choice in plain.choices()] == ["none"]


def test_a_template_that_always_raises_is_told_at_load_and_a_chat_error() -> None:
    broken = renderer_of("{{ raise_exception('never') }}")
    assert "never" in broken.choices()[0].reason
    with pytest.raises(ChatError, match="rejects these messages: never"):
        broken.render(Conversation(messages=(Message("user", "u"),)))


def test_a_template_that_never_ends_is_told_at_load_and_a_chat_error() -> None:
    forever = renderer_of("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", Limits(seconds=0.2))
    assert "did not finish" in forever.choices()[0].reason
    with pytest.raises(ChatError, match="did not finish"):
        forever.render(Conversation(messages=(Message("user", "u"),)))


def test_error_words_are_not_those_of_an_overflow() -> None:
    """Agents read `exceed`, `limit`, `max` near `prompt` as a full context and start to compact."""
    for source in ("{{ raise_exception('no') }}", "{{ messages[0].content + 3 }}"):
        with pytest.raises(ChatError) as caught:
            renderer_of(source).render(Conversation(messages=(Message("user", "u"),)))
        assert not any(word in str(caught.value).lower() for word in ("exceed", "limit", "max", "too long", "context"))


def test_an_unforeseen_refusal_is_repaired_once_and_told(caplog: pytest.LogCaptureFixture) -> None:
    source = "{% if messages[0].role == 'assistant' %}{{ raise_exception('who?') }}{% endif %}"
    source += "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    renderer = renderer_of(source)
    with caplog.at_level(logging.INFO, logger="tokenwell"):
        for _ in range(2):
            assert renderer.render(Conversation(messages=(Message("assistant", "a"), Message("user", "u")))) == "[][a][u]"
    assert [record.message for record in caplog.records] == [
        "the chat template refused a conversation; repaired: an empty user message opens the conversation"
    ]


def test_the_date_is_told() -> None:
    assert any(choice.what == "date" for choice in RENDERERS["harmony"].choices())
    assert "2026-03-09" in render("harmony", Message("user", "u"))


MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "developer", "user", "assistant"]),
        content=st.sampled_from(["", "a", "<|im_end|>", "{{ x }}", "é\n"]),
        reasoning=st.sampled_from([None, "r"]),
    ),
    min_size=1,
    max_size=6,
)


@STYLES
@settings(max_examples=30, deadline=None)
@given(messages=MESSAGES)
def test_any_order_of_roles_renders(style: str, messages: list[Message]) -> None:
    assert isinstance(render(style, *messages), str)
