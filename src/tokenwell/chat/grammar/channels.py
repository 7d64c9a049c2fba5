"""The grammar of an answer in channels (harmony): messages with headers. The answer starts inside a header, behind its role."""

from __future__ import annotations

from tokenwell.chat.formats.format import Channels
from tokenwell.chat.grammar.answer import Answer, Wanted, name_in
from tokenwell.chat.grammar.lark import alternatives, literal

_ROLE = "assistant"


def channels_start(answer: Answer, channels: Channels, wanted: Wanted, continues: bool) -> str:
    """The body of the start rule. `continues`: the answer starts inside a message's body."""
    reasoning = [name for name, kind in channels.kinds if kind == "reasoning"]
    content = [name for name, kind in channels.kinds if kind == "content"]
    marks = [answer.bound.spelled(mark) for mark in _marks(channels)]
    free = answer.gap(marks)
    ended = answer.lead(marks, answer.bound.spelled(channels.ends[0]))
    closed = f"{ended} {answer.spelled(channels.start)} {literal(_ROLE)}"
    call = _call(answer, wanted) if wanted.arguments else None
    if wanted.must_call or wanted.content is not None:
        options = [call] if call else []
        if wanted.content is not None and not wanted.must_call:
            options.append(wanted.content if continues else f"{_header(answer, channels, content[-1:])} {wanted.content}")
        thought = f"({_header(answer, channels, reasoning)} {_thought(answer, channels, wanted, closed)})?"
        body = f"{thought} {alternatives(options)}"
        if continues:
            return (
                f"{wanted.content} | {closed} {body}"
                if wanted.content is not None and not wanted.must_call
                else f"{closed} {body}"
            )
        return body
    header = _header(answer, channels, [*reasoning, *content])
    last = alternatives([f"{header} {free}", *([call] if call else []), ""])
    body = f"({header} {closed})* {last}"
    return f"{free} | {closed} {answer.rules.rule('rest', body)}" if continues else body


def _thought(answer: Answer, channels: Channels, wanted: Wanted, closed: str) -> str:
    """A thought and the beginning of the next message; bounded where a token ends it."""
    if answer.bound.spelled(channels.ends[0]) not in answer.ids:
        return closed
    text = answer.bounded((), wanted.thinking_tokens)
    return f"{text} {answer.spelled(channels.ends[0] + channels.start)} {literal(_ROLE)}"


def _header(answer: Answer, channels: Channels, names: list[str]) -> str:
    return f"{answer.spelled(channels.channel)} {alternatives(map(literal, names))} {answer.spelled(channels.message)}"


def _marks(channels: Channels) -> list[str]:
    return [channels.start, channels.message, channels.channel, channels.constrain, *channels.ends]


def _call(answer: Answer, wanted: Wanted) -> str:
    call = answer.bound.call
    assert call is not None, "arguments are only given when calls can be written"
    options = [f"{literal(name_in(call, name))} {answer.spelled(call.between)} {rule}" for name, rule in wanted.arguments.items()]
    return f"{answer.spelled(call.before)} {alternatives(options)} {answer.spelled(call.after)}"
