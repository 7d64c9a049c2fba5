"""Whatever a model without sense writes under a grammar is what was asked for: read back by the real parser."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest
from tests.chat.grammar.walks import Speaker, calls, content, output, random_schema, tool

from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.format import Call

SPELLINGS = [(format.name, call) for format in FORMATS.values() for call in format.calls]
SCHEMAS = [random_schema(random.Random(seed)) for seed in range(200)]


def test_the_schemas_say_what_they_should() -> None:
    text = json.dumps(SCHEMAS)
    for keyword in ("enum", "pattern", "anyOf", "minItems", "maximum", "minLength", "const", "null"):
        assert f'"{keyword}"' in text


@pytest.mark.parametrize(("name", "call"), SPELLINGS, ids=[f"{name}-{index}" for index, (name, _) in enumerate(SPELLINGS)])
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
def test_forced_calls_are_valid(name: str, call: Call, tokens: bool) -> None:
    speaker = Speaker.of(name, call, marks_are_tokens=tokens)
    # Half of the schemas with every format, some with marks as tokens, some as text; all of them: benchmarks/forced_calls.py.
    for seed in range(0 if tokens else 1, 200, 4):
        tools = [tool("probe", SCHEMAS[seed])]
        constraint = speaker.constrain(tools)
        ids = speaker.walk(constraint.grammar, seed)
        assert ids is not None, constraint.grammar
        made = calls(speaker.events(ids, tools))
        assert made, speaker.text(ids)
        for called, arguments in made:
            assert called == "probe"
            jsonschema.validate(json.loads(arguments), SCHEMAS[seed])


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "plain"])
def test_calls_that_open_by_themselves_are_valid(name: str) -> None:
    speaker = Speaker.of(name)
    opened = 0
    for seed in range(30):
        tools = [tool("first", SCHEMAS[seed]), tool("second", SCHEMAS[seed + 1])]
        ids = speaker.walk(speaker.constrain(tools, "auto").grammar, seed, limit=400, eager=0.02)
        if ids is None:
            continue
        for called, arguments in calls(speaker.events(ids, tools)):
            opened += 1
            jsonschema.validate(json.loads(arguments), SCHEMAS[seed + (called == "second")])
    assert opened or name == "llama3"


@pytest.mark.parametrize("name", list(FORMATS))
def test_json_content_is_valid(name: str) -> None:
    speaker = Speaker.of(name)
    for seed in range(10):
        constraint = speaker.constrain((), "auto", output=output("json_schema", SCHEMAS[seed]))
        ids = speaker.walk(constraint.grammar, seed)
        assert ids is not None
        jsonschema.validate(json.loads(content(speaker.events(ids, ()))), SCHEMAS[seed])
