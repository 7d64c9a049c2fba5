"""Dialogues of single and parallel calls."""

import json
from random import Random

import pytest
from training.dialogue import Dialogue
from training.mixed import mixed
from training.prompts import system_prompt
from training.single import parallel, single
from training.world import World

WORLD = World.load("train", ("en",))
WORDS = WORLD.language("en")


def _check(made: Dialogue) -> None:
    declared = {tool["function"]["name"]: tool["function"]["parameters"] for tool in made.tools}
    heard = ""
    open_calls: list[str] = []
    for message in made.messages:
        if message["role"] == "user":
            assert not open_calls
            heard += "\n" + message["content"]
        for call in message.get("tool_calls", ()):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            assert set(declared[name].get("required", ())) <= set(arguments) <= set(declared[name]["properties"])
            for value in arguments.values():
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str) and declared[name]["properties"]:
                        squeezed = text.lower().replace("_", " ")
                        said = squeezed in heard.lower() or text.lower() in heard.lower()
                        explained = said or text in json.dumps(made.tools, ensure_ascii=False)
                        assert explained, (text, heard)
            open_calls.append(call["id"])
        if message["role"] == "tool":
            assert message["tool_call_id"] == open_calls.pop(0)
    assert made.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize("make", [single, parallel, mixed])
def test_every_value_of_a_call_was_said(make: object) -> None:
    for seed in range(300):
        _check(make(Random(seed), WORDS))  # type: ignore[operator]


def test_parallel_calls_stand_in_one_message_in_the_order_of_the_request() -> None:
    several = 0
    for seed in range(100):
        made = parallel(Random(seed), WORDS)
        first = next(message for message in made.messages if message.get("tool_calls"))
        several += len(first["tool_calls"]) > 1
        ids = [call["id"] for call in first["tool_calls"]]
        assert ids == sorted(ids, key=lambda name: int(name.split("_")[1]))
    assert several == 100


def test_a_request_for_several_values_has_a_call_for_each() -> None:
    found = 0
    for seed in range(300):
        made = parallel(Random(seed), WORDS)
        for before, message in zip(made.messages, made.messages[1:], strict=False):
            names = [call["function"]["name"] for call in message.get("tool_calls", ())]
            arguments = [json.dumps(call["function"]["arguments"]) for call in message.get("tool_calls", ())]
            if len(names) > 1 and len(set(names)) == 1:
                found += 1
                assert len(set(arguments)) > 1 or all(text == "{}" for text in arguments), before["content"]
    assert found > 20


def test_some_system_prompts_are_long() -> None:
    random = Random(1)
    prompts = [system_prompt(random, WORDS) for _ in range(3000)]
    assert 0.3 < prompts.count(None) / 3000 < 0.5
    lengths = [len(prompt) for prompt in prompts if prompt]
    assert max(lengths) > 8000
    assert sorted(lengths)[len(lengths) // 2] < 400
