"""Llama 3.x: a call is the whole answer, a JSON object with `parameters`, sometimes behind <|python_tag|>."""

from __future__ import annotations

from tokenwell.chat.formats.format import Call, Format

_JSON = Call(
    before='{"name": "',
    between='", "parameters": ',
    arguments="json",
    after="}",
    envelope=("name", "parameters"),
    whole=True,
    single=True,
)

LLAMA3 = Format(
    name="llama3",
    marks=("<|python_tag|>",),
    calls=(
        _JSON,
        Call(
            begin="<|python_tag|>",
            before=_JSON.before,
            between=_JSON.between,
            arguments="json",
            after="}",
            envelope=_JSON.envelope,
            separator="; ",
        ),
    ),
    signs=("<|start_header_id|>", '"parameters"'),
)
