"""Qwen3-Coder and Qwen3.5: calls are XML-like tags; a parameter's value is raw text whose type follows from the tool's schema."""

from __future__ import annotations

from tokenwell.chat.formats.format import Format
from tokenwell.chat.formats.hermes import JSON, THINK, XML

QWEN_XML = Format(
    name="qwen_xml",
    marks=("<think>", "</think>", "<tool_call>", "</tool_call>"),
    thinking=THINK,
    calls=(XML,),
    mixed=(JSON,),
    starts=("<think>",),
    signs=("<tool_call>", "<function=", "<parameter="),
)
