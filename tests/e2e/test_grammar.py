"""A random model behind the real service writes only what the request's grammar says, beside rows that are free."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import jsonschema
import pytest
from tests.conftest import Tiny
from tests.e2e import service as services
from tests.e2e.service import Service

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "kind": {"enum": ["Größe 🙂", "plain"]},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["city", "kind", "days"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def service(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("grammar") / "service.log"
    with services.serve(tiny("qwen2"), log, "--dtype=float32", "--threads=1", "--kv-cache-gib=0.05") as running:
        yield running


def chat(service: Service, seed: int, **more: Any) -> tuple[int, Any]:
    messages = [{"role": "user", "content": f"What of number {seed}?"}]
    return service.post("/v1/chat/completions", {"messages": messages, "seed": seed, "max_tokens": 300, "temperature": 1, **more})


def content(answer: tuple[int, Any]) -> list[str]:
    status, body = answer
    assert status == 200, body
    assert all(choice["finish_reason"] == "stop" for choice in body["choices"]), body
    return [choice["message"]["content"] for choice in body["choices"]]


def test_constrained_and_free_requests_at_once(service: Service) -> None:
    free = {"ignore_eos": True, "max_tokens": 40}
    alone = chat(service, 100, **free)[1]["choices"][0]["message"]["content"]
    with ThreadPoolExecutor(9) as pool:
        other = pool.submit(chat, service, 100, **free)
        texts = list(pool.map(lambda seed: content(chat(service, seed, response_format=FORMAT, n=2)), range(8)))
    assert other.result()[1]["choices"][0]["message"]["content"] == alone
    for text in chain.from_iterable(texts):
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize("more", [{"ignore_eos": True}, {"min_tokens": 200}, {"temperature": 0}, {"logit_bias": {"5": -100}}])
def test_other_settings_do_not_break_it(service: Service, more: dict[str, Any]) -> None:
    (text,) = content(chat(service, 1, response_format=FORMAT, **more))
    jsonschema.validate(json.loads(text), SCHEMA)


def test_a_grammar_that_cannot_be_used_is_a_bad_request(service: Service) -> None:
    status, body = chat(service, 1, structured_outputs={"grammar": "start: nowhere"})
    assert status == 400 and "nowhere" in body["error"]["message"]
    assert service.health()[0] == 200
