"""Hermes: calls are JSON objects between <tool_call> tags, as in Qwen2.5 and Qwen3, which also think between <think> tags."""

from __future__ import annotations

from tokenwell.chat.formats.format import Call, Format, Thinking

XML = Call(
    before="<tool_call>\n<function=",
    between=">\n",
    arguments="xml",
    after="</function>\n</tool_call>",
    separator="\n",
)
JSON = Call(
    before='<tool_call>\n{"name": "',
    between='", "arguments": ',
    arguments="json",
    after="}\n</tool_call>",
    separator="\n",
    envelope=("name", "arguments"),
)
THINK = Thinking("<think>", "</think>", padding=("\n", "\n"), after="\n\n")

HERMES = Format(
    name="hermes",
    marks=("<think>", "</think>", "<tool_call>", "</tool_call>"),
    thinking=THINK,
    calls=(JSON,),
    mixed=(XML,),
    starts=("<think>",),
    signs=("<tool_call>", '"arguments"'),
)
