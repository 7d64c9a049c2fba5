"""The mixture."""

import json

from training.generate import KINDS, dialogue
from training.world import World

WORLD = World.load("train", ("en",))


def test_a_seed_always_gives_the_same_dialogue() -> None:
    first = [json.dumps(dialogue(seed, WORLD).messages, ensure_ascii=False) for seed in range(30)]
    assert first == [json.dumps(dialogue(seed, WORLD).messages, ensure_ascii=False) for seed in range(30)]
    assert len(set(first)) == 30


def test_all_kinds_appear_in_a_sound_shape() -> None:
    seen = set()
    for seed in range(600):
        made = dialogue(seed, WORLD)
        seen.add(made.kind)
        declared = {tool["function"]["name"] for tool in made.tools}
        assert len(declared) == len(made.tools) <= 12
        assert made.messages[-1]["role"] == "assistant"
        for message in made.messages:
            assert message["content"] or message.get("tool_calls") or message["role"] == "tool"
            assert {call["function"]["name"] for call in message.get("tool_calls", ())} <= declared
    assert seen == set(KINDS)
