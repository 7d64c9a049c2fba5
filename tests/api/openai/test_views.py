"""The parts of the dialect that are pure functions: seeds, deltas, messages, legacy log-probabilities."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.api.openai.logprobs import IMPOSSIBLE, LegacyLogprobs, TokenNames, chat_logprobs, prompt_logprobs
from tokenwell.api.openai.message import delta_of, message_of
from tokenwell.api.sampling import seed_of_choice
from tokenwell.api.server import capacity
from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolEnd, ToolStart
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.messages import Ready, TokenLogprob

EVENTS: list[Event] = [
    Reasoning("let me "),
    Reasoning("look"),
    Content("I will "),
    Content("look."),
    ToolStart(0, "call_a", "read"),
    ToolArguments(0, '{"path":'),
    ToolArguments(0, '"a"}'),
    ToolEnd(0),
    ToolStart(1, "call_b", "list"),
    ToolArguments(1, "{}"),
    ToolEnd(1),
]

BOTH = ("reasoning_content", "reasoning")


@given(st.integers(-(2**63), 2**63 - 1))
def test_seeds_of_choices(seed: int) -> None:
    seeds = [seed_of_choice(seed, index) for index in range(16)]
    assert seeds[0] == seed and len(set(seeds)) == 16
    assert all(-(2**63) <= value < 2**63 for value in seeds)


def test_a_whole_message() -> None:
    assert message_of(EVENTS, BOTH) == {
        "role": "assistant",
        "content": "I will look.",
        "refusal": None,
        "reasoning_content": "let me look",
        "reasoning": "let me look",
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "read", "arguments": '{"path":"a"}'}},
            {"id": "call_b", "type": "function", "function": {"name": "list", "arguments": "{}"}},
        ],
    }
    assert message_of([], BOTH) == {"role": "assistant", "content": "", "refusal": None}
    assert message_of(EVENTS[4:8], BOTH)["content"] is None


def test_the_first_delta_of_a_call_has_id_and_name() -> None:
    [opening] = delta_of(EVENTS[4:5], BOTH)["tool_calls"]
    assert opening == {"index": 0, "id": "call_a", "type": "function", "function": {"name": "read", "arguments": ""}}
    assert delta_of(EVENTS[5:6], BOTH) == {"tool_calls": [{"index": 0, "function": {"arguments": '{"path":'}}]}
    assert delta_of(EVENTS[7:8], BOTH) == {}


def test_a_delta_of_many_events_names_each_call_once() -> None:
    delta = delta_of(EVENTS, BOTH)
    assert delta["content"] == "I will look." and delta["reasoning"] == delta["reasoning_content"] == "let me look"
    assert [(call["index"], call["id"], call["function"]["arguments"]) for call in delta["tool_calls"]] == [
        (0, "call_a", '{"path":"a"}'),
        (1, "call_b", "{}"),
    ]


def test_thoughts_go_under_the_name_that_is_set() -> None:
    assert delta_of(EVENTS[:2], ("reasoning",)) == {"reasoning": "let me look"}


@pytest.fixture(scope="module")
def names(checkpoint: Path) -> TokenNames:
    return TokenNames(Tokenizer.load(checkpoint), as_ids=False)


def test_impossible_tokens_are_still_json(names: TokenNames) -> None:
    known = TokenLogprob(-math.inf, [(20, -0.5), (21, -math.inf)])
    [entry] = chat_logprobs([22], [known], 2, names)
    assert entry["logprob"] == IMPOSSIBLE and [top["logprob"] for top in entry["top_logprobs"]] == [-0.5, IMPOSSIBLE]
    legacy = LegacyLogprobs(2, names).add([22], [known])
    assert legacy["token_logprobs"] == [IMPOSSIBLE]


def test_tokens_of_the_same_text_keep_the_likeliest(names: TokenNames) -> None:
    broken = [token for token in range(3, 260) if names.text(token) == "\ufffd"][:2]
    assert len(broken) == 2
    known = TokenLogprob(-3.0, [(broken[0], -1.0)])
    assert LegacyLogprobs(1, names).add([broken[1]], [known])["top_logprobs"] == [{"\ufffd": -1.0}]


def test_offsets_run_on_over_pieces(names: TokenNames) -> None:
    legacy = LegacyLogprobs(0, names)
    first = legacy.add([20, 21], [None, TokenLogprob(-1.0)])
    second = legacy.add([22], [TokenLogprob(-1.0)])
    assert first["text_offset"] + second["text_offset"] == [0, 1, 2] and first["top_logprobs"] is None


def test_rank_is_null_when_it_is_not_known(names: TokenNames) -> None:
    assert prompt_logprobs([20, 21], [TokenLogprob(-4.0, [(30, -0.1)])], names) == [
        None,
        {
            "30": {"logprob": -0.1, "rank": 1, "decoded_token": names.text(30)},
            "21": {"logprob": -4.0, "rank": None, "decoded_token": names.text(21)},
        },
    ]


def test_capacity_counts_sliding_windows_per_group() -> None:
    full = KvGroup("full", (0,), 1, 64, None, 100, 16)
    sliding = KvGroup("sliding-64", (1, 2), 1, 64, 64, 200, 8)

    def ready(*groups: KvGroup) -> Ready:
        return Ready("X", "cpu", "float32", 400, 1024, 8, 32, 0, 1600, 201, groups, 0.0, [])

    assert capacity(ready(full)) == "3 sessions x 1024 tokens or 8 sessions x 256 tokens"
    assert capacity(ready(full, sliding)) == "2 sessions x 1024 tokens or 7 sessions x 256 tokens or 8 sessions x 64 tokens"
