"""A whole tool turn over HTTP in every chat format: the scripted engine writes, the real parser and grammars read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.e2e.service import Service, serve

from tokenwell.chat.formats import FORMATS

PARAMETERS = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "text": {"type": "string", "minLength": 2},
        "mode": {"enum": ["new", "append"]},
        "lines": {"type": "array", "items": {"type": "integer", "minimum": 10}, "minItems": 1},
    },
    "required": ["path", "text", "lines"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "write", "parameters": PARAMETERS}}]
ARGUMENTS = {"path": "ö.txt", "text": '"a"\n  b}', "mode": "append", "lines": [10, 11]}
ORDER = {"role": "user", "content": f"[[think hm]] [[call write {json.dumps(ARGUMENTS)}]] [[say written]]"}


@pytest.fixture(scope="module", params=[name for name, format in FORMATS.items() if format.calls])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp(request.param)
    environment = {"XDG_CACHE_HOME": str(folder)}
    with serve(Path("scripted"), folder / "log", f"--chat-format={request.param}", environment=environment) as running:
        yield running


def _choice(service: Service, *messages: dict[str, Any], **fields: Any) -> Any:
    status, body = service.post("/v1/chat/completions", {"messages": list(messages), **fields})
    assert status == 200, body
    return body["choices"][0]


def test_a_call_is_made_and_its_result_answered(service: Service) -> None:
    first = _choice(service, ORDER, tools=TOOLS)
    [call] = first["message"]["tool_calls"]
    assert first["finish_reason"] == "tool_calls"
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("write", ARGUMENTS)
    assert first["message"].get("reasoning_content") in ("hm", None)
    result = {"role": "tool", "tool_call_id": call["id"], "content": "[[say no]]"}
    second = _choice(service, ORDER, first["message"], result, tools=TOOLS)
    assert (second["finish_reason"], second["message"]["content"]) == ("stop", "written")


def test_a_forced_call_is_valid(service: Service) -> None:
    user = {"role": "user", "content": "hello"}
    named = {"type": "function", "function": {"name": "write"}}
    for tool_choice in ("required", named):
        choice = _choice(service, user, tools=TOOLS, tool_choice=tool_choice)
        [call] = choice["message"]["tool_calls"]
        jsonschema.Draft202012Validator(PARAMETERS).validate(json.loads(call["function"]["arguments"]))


def test_a_schema_is_answered_with_an_instance(service: Service) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": PARAMETERS}}
    choice = _choice(service, {"role": "user", "content": "hello"}, response_format=form)
    jsonschema.Draft202012Validator(PARAMETERS).validate(json.loads(choice["message"]["content"]))


def test_no_call_is_made_where_none_may_be(service: Service) -> None:
    choice = _choice(service, ORDER, tools=TOOLS, tool_choice="none")
    assert not choice["message"].get("tool_calls")
    assert choice["finish_reason"] == "stop"
