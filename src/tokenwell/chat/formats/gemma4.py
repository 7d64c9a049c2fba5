"""Gemma 4: every piece of markup is a token of its own; arguments in a notation with bare keys and delimited strings.

Syntax as the public template of google/gemma-4 checkpoints prints it.
"""

from __future__ import annotations

from tokenwell.chat.formats.format import Call, Format, Thinking

STRING = '<|"|>'

GEMMA4 = Format(
    name="gemma4",
    marks=("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", STRING),
    thinking=Thinking("<|channel>", "<channel|>", label="thought\n", padding=("", "\n")),
    calls=(Call(before="<|tool_call>call:", between="", arguments="gemma", after="<tool_call|>"),),
    signs=("<|tool_call>", "<|channel>"),
)
