"""DeepSeek: R1 thinks between <think> tags; V3 and V3.1 call tools between tokens of their own, each version in its own way."""

from __future__ import annotations

from tokenwell.chat.formats.format import Call, Format
from tokenwell.chat.formats.hermes import THINK

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEP, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"

DEEPSEEK = Format(
    name="deepseek",
    marks=("<think>", "</think>", _BEGIN, _END, _CALL, _SEP, _CALL_END),
    thinking=THINK,
    calls=(
        Call(  # V3.1
            begin=_BEGIN,
            before=_CALL,
            between=_SEP,
            arguments="json",
            after=_CALL_END,
            end=_END,
        ),
        Call(  # V3 and R1
            begin=_BEGIN,
            before=f"{_CALL}function{_SEP}",
            between="\n```json\n",
            arguments="json",
            after=f"\n```{_CALL_END}",
            separator="\n",
            end=_END,
        ),
    ),
    starts=("<think>",),
    signs=("<｜Assistant｜>",),
)
