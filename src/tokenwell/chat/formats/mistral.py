"""Mistral: calls behind [TOOL_CALLS], as name and arguments with tokens between (v11 on) or as one JSON list (before)."""

from __future__ import annotations

from tokenwell.chat.formats.format import Call, Format, Thinking

MISTRAL = Format(
    name="mistral",
    marks=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[THINK]", "[/THINK]"),
    thinking=Thinking("[THINK]", "[/THINK]"),
    calls=(
        Call(before="[TOOL_CALLS]", between="[ARGS]", arguments="json", after="", call_id="[CALL_ID]"),
        Call(
            begin="[TOOL_CALLS][",
            before='{"name": "',
            between='", "arguments": ',
            arguments="json",
            after="}",
            separator=", ",
            end="]",
            envelope=("name", "arguments"),
        ),
    ),
    starts=("[THINK]",),
    signs=("[INST]",),
)
