"""Qwen3-Coder and Qwen3.5: calls are XML-like tags; a parameter's value is raw text whose type follows from the tool's schema."""

from __future__ import annotations

from tokenwell.chat.formats.format import Call, Format
from tokenwell.chat.formats.hermes import THINK

QWEN_XML = Format(
    name="qwen_xml",
    marks=("<think>", "</think>", "<tool_call>", "</tool_call>"),
    thinking=THINK,
    calls=(
        Call(
            before="<tool_call>\n<function=",
            between=">\n",
            arguments="xml",
            after="</function>\n</tool_call>",
            separator="\n",
        ),
    ),
    starts=("<think>",),
    signs=("<tool_call>", "<function=", "<parameter="),
)
