"""What a chat computed is not computed again: turns, shared system prompts, retries; windows that slide, and full attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from tests.conftest import Tiny
from tests.e2e import service as services
from tests.e2e.checkpoints import variant
from tests.e2e.service import Service

# Windows of 12 tokens beside full layers, of 8 beside full layers, of 12 in every layer; none.
MODELS = ("gemma4-e", "gpt-oss", "mistral-sliding", "qwen3")
# Its template puts markup between the generation prompt and a past answer, so answers are not found again as generated.
REWRITTEN = "gpt-oss"
CHUNK = 16
# Characters that the tiny tokenizers never merge, so that an answer made of them has one spelling in tokens.
UNMERGED = "XZJQK;$%^~|"
SYSTEM = "You are the assistant of a small workshop. " + " ".join(
    f"Rule {number}: answer question {number * 7} with the tool number {number * 13} and be brief." for number in range(8)
)


@dataclass
class Pair:
    """The same checkpoint with and without a prefix cache; the cached one computes few tokens a step."""

    name: str
    cached: Service
    fresh: Service


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    logs = tmp_path_factory.mktemp("prefix")
    folder = variant(tiny(request.param), logs / request.param, config={"max_position_embeddings": 1 << 14})
    flags = ("--dtype=float32", "--threads=1", "--kv-cache-gib=0.5", "--max-num-seqs=8")
    cached = services.start(folder, logs / "cached.log", *flags, f"--max-num-batched-tokens={CHUNK}")
    fresh = services.start(folder, logs / "fresh.log", *flags, "--no-prefix-cache")
    try:
        services.wait_healthy(cached)
        services.wait_healthy(fresh)
        yield Pair(request.param, cached, fresh)
    finally:
        services.stop(cached)
        services.stop(fresh)


def biased(service: Service) -> dict[str, float]:
    """Only UNMERGED is ever said."""
    tokens: list[int] = service.post("/tokenize", {"prompt": UNMERGED, "add_special_tokens": False})[1]["tokens"]
    assert len(tokens) == len(UNMERGED)
    return {str(token): 100.0 for token in tokens}


@dataclass
class Turn:
    """One answer and what it cost."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


def ask(service: Service, messages: list[Any], tokens: int = 70, **more: Any) -> Turn:
    body = {"messages": messages, "max_tokens": tokens, "seed": 1, "ignore_eos": True, "logit_bias": biased(service), **more}
    status, answer = service.post("/v1/chat/completions", body)
    assert status == 200, answer
    usage = answer["usage"]
    return Turn(
        answer["choices"][0]["message"]["content"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_every_turn_reuses_the_ones_before(pair: Pair) -> None:
    messages = [said("system", SYSTEM), said("user", f"First question of the {pair.name} chat.")]
    before = ask(pair.cached, messages)
    assert before.prompt_tokens > 300
    answers = [before.text]
    for question in ("And then?", "Are you sure? Say it again, with more words.", "Thanks."):
        messages += [said("assistant", answers[-1]), said("user", question)]
        turn = ask(pair.cached, messages)
        known = before.prompt_tokens if pair.name == REWRITTEN else before.prompt_tokens + before.completion_tokens
        assert turn.cached_tokens >= 0.9 * known
        # Not just 90 %: all but a page or two of the full layers, and never less than a turn before.
        assert turn.cached_tokens >= known - 2 * CHUNK
        before = turn
        answers.append(turn.text)
    check_without_cache(pair, messages, answers)


def check_without_cache(pair: Pair, messages: list[Any], answers: list[str]) -> None:
    """Each turn gives the same text where every prompt is computed from its beginning."""
    for index, answer in enumerate(answers):
        turn = ask(pair.fresh, messages[: 2 + 2 * index])
        assert turn.cached_tokens == 0
        assert turn.text == answer


def test_a_shared_system_prompt(pair: Pair) -> None:
    system = said("system", f"Shared by two agents of {pair.name}. " + SYSTEM)
    alone = pair.cached.post("/tokenize", {"messages": [system], "add_generation_prompt": False})[1]["count"]
    ask(pair.cached, [system, said("user", "I am the first agent, and I ask about the weather in Paris.")])
    other = [system, said("user", "Quite another question: how are keys and values stored?")]
    second = ask(pair.cached, other)
    assert second.cached_tokens >= 0.9 * alone
    assert second.text == ask(pair.fresh, other).text


def test_the_same_prompt_again(pair: Pair) -> None:
    messages = [said("system", SYSTEM), said("user", "Asked twice, as agents do after a time-out.")]
    first, again = ask(pair.cached, messages), ask(pair.cached, messages)
    assert again.text == first.text
    assert again.cached_tokens == again.prompt_tokens - 1


def test_a_retry_goes_on_where_a_disconnect_ended_the_prefill(pair: Pair) -> None:
    service = pair.cached
    prompt = [(index * index + 7 * index) % 251 + 20 for index in range(6000)]
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    before = service.metric("tokenwell_engine_steps_total")
    with (
        httpx2.Client() as client,
        client.stream("POST", service.url + "/v1/completions", json={**body, "stream": True}) as answer,
    ):
        assert answer.status_code == 200
        service.wait_until("a part of the prefill", lambda: service.metric("tokenwell_engine_steps_total") > before + 40)
    service.wait_until("the abort", service.idle)
    steps = service.metric("tokenwell_engine_steps_total") - before
    assert steps * CHUNK < len(prompt)
    status, answered = service.post("/v1/completions", body)
    assert status == 200
    found = answered["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert (steps - 2) * CHUNK <= found <= steps * CHUNK
    assert answered["choices"][0]["text"] == pair.fresh.post("/v1/completions", body)[1]["choices"][0]["text"]
