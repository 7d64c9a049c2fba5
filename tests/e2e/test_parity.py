"""Every architecture through the real HTTP API in float32 against transformers: greedy tokens and prompt log-probabilities.

One service takes whole prompts; the other computes at most 16 tokens a step in a cache too small for the batch.

transformers runs once over each prompt with the continuation that the first service gave. If its best token after every position
is the next one, that continuation is its own greedy one, by induction; where it is not, `expected` says what would be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SAME_NUMBERS, Tiny
from tests.e2e import service as services
from tests.e2e.service import Service
from tests.tiny.recipes import RECIPES
from tests.tiny.reference import logprobs

from tokenwell.engine.models.config import ModelFacts, Raw
from tokenwell.engine.models.registry import find
from tokenwell.plan.bytes import kv_groups
from tokenwell.plan.card import read_card
from tokenwell.wire.cache import sequence_pages

LENGTHS = (3, 9, 17, 24, 31, 40, 52, 61)
NEW_TOKENS = 96
WINDOW = 192
CHUNK = 16
# Once more with the keys that published files use where transformers writes others: only reading them differs.
PUBLISHED = ("gemma4-e", "gemma4-moe", "gpt-oss-mxfp4", "llama3", "qwen3-moe")


def prompts() -> list[list[int]]:
    """Eight different prompts."""
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(0, 380, (length,), generator=generator).tolist() for length in LENGTHS]


@dataclass
class Pair:
    """Two services of one checkpoint and what transformers says of it."""

    whole: Service
    chunked: Service
    given: list[list[int]]  # per prompt: how the first service went on, alone and with nothing in its cache
    expected: list[tuple[list[int], torch.Tensor]]  # per prompt: transformers' continuation, log-probabilities
    grows: bool  # some layer needs more pages as a sequence gets longer


def facts_of(folder: Path) -> ModelFacts:
    config = json.loads((folder / "config.json").read_text())
    return find(config).read(Raw(config))


def grows(folder: Path) -> bool:
    return any(layer.window is None for layer in facts_of(folder).layers)


def small_cache_gib(folder: Path) -> float:
    """A KV cache that holds about one and a half sequences of WINDOW tokens, as they are stored on this device."""
    kind = "cuda" if torch.accelerator.is_available() else "cpu"
    groups, page_bytes = kv_groups(read_card(folder), device_kind=kind, dtype="float32")
    return (1.5 * sequence_pages(WINDOW, CHUNK, groups) + 1) * page_bytes / (1 << 30)


def judge(folder: Path, prompt: list[int], given: list[int]) -> tuple[list[int], torch.Tensor]:
    """What transformers says of a continuation: the greedy token after each position, all log-probabilities."""
    table = logprobs(folder, prompt + given)
    return table[len(prompt) - 1 : -1].argmax(-1).tolist(), table


@pytest.fixture(scope="module", params=RECIPES)
def pair(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    name = request.param
    folder = tiny(name)
    logs = tmp_path_factory.mktemp("parity")
    small = [
        f"--max-num-batched-tokens={CHUNK}",
        f"--max-model-len={WINDOW}",
        f"--kv-cache-gib={small_cache_gib(folder):.9f}",
    ]
    whole = services.start(folder, logs / "whole.log", "--dtype=float32", "--threads=1")
    chunked = services.start(folder, logs / "chunked.log", "--dtype=float32", "--threads=1", *small)
    try:
        services.wait_healthy(whole)
        services.wait_healthy(chunked)
        given = [continuation(whole, prompt) for prompt in prompts()]
        same = tiny(SAME_NUMBERS.get(name, name))
        expected = [judge(same, prompt, ids) for prompt, ids in zip(prompts(), given, strict=True)]
        yield Pair(whole, chunked, given, expected, grows(folder))
    finally:
        services.stop(whole)
        services.stop(chunked)


def complete(service: Service, prompt: list[int], new_tokens: int, **more: Any) -> dict[str, Any]:
    """A greedy completion; the response."""
    body = {"prompt": prompt, "max_tokens": new_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **more}
    status, answer = service.post("/v1/completions", body)
    assert status == 200, answer
    response: dict[str, Any] = answer
    return response


def continuation(service: Service, prompt: list[int], new_tokens: int = NEW_TOKENS) -> list[int]:
    ids: list[int] = complete(service, prompt, new_tokens)["choices"][0]["token_ids"]
    return ids


def check_prompt_logprobs(service: Service, pair: Pair) -> None:
    for prompt, (_, table) in zip(prompts(), pair.expected, strict=True):
        choice = complete(service, prompt, 1, echo=True, logprobs=1)["choices"][0]
        logprobs = choice["logprobs"]["token_logprobs"][: len(prompt)]
        assert logprobs[0] is None
        expected = [table[position - 1, prompt[position]].item() for position in range(1, len(prompt))]
        assert logprobs[1:] == pytest.approx(expected, abs=1e-3)


def test_one_request_at_a_time(pair: Pair) -> None:
    assert pair.given == [expected for expected, _ in pair.expected]


def test_prompt_logprobs(pair: Pair) -> None:
    check_prompt_logprobs(pair.whole, pair)


def test_after_a_prefix_hit(pair: Pair) -> None:
    """The prompt plus some of its continuation: all of it but one token comes from the cache, generated tokens included."""
    for prompt, (expected, _) in list(zip(prompts(), pair.expected, strict=True))[::2]:
        longer = prompt + expected[:32]
        response = complete(pair.whole, longer, 32)
        assert response["usage"]["prompt_tokens_details"]["cached_tokens"] == len(longer) - 1
        assert response["choices"][0]["token_ids"] == expected[32:64]


def test_eight_requests_at_once(pair: Pair) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda prompt: continuation(pair.whole, prompt), prompts()))
    assert answers == [expected for expected, _ in pair.expected]


def test_chunked_prefill(pair: Pair) -> None:
    for prompt, (expected, _) in zip(prompts()[-3:], pair.expected[-3:], strict=True):
        assert continuation(pair.chunked, prompt) == expected


def test_prompt_logprobs_in_chunks(pair: Pair) -> None:
    check_prompt_logprobs(pair.chunked, pair)


def test_under_preemption(pair: Pair) -> None:
    """One HTTP request with eight prompts; again where they reached the engine one after the other, so that each found room."""
    before = pair.chunked.metric("tokenwell_preemptions_total")
    body = {"prompt": prompts(), "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    for _ in range(5):
        status, response = pair.chunked.post("/v1/completions", body)
        assert status == 200, response
        answers = [choice["token_ids"] for choice in response["choices"]]
        assert answers == [expected for expected, _ in pair.expected]
        preempted = pair.chunked.metric("tokenwell_preemptions_total") > before
        if preempted or not pair.grows:
            break
    # Where all layers slide, a sequence's need is known when it is admitted: it waits, and none is preempted.
    assert preempted == pair.grows


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_keys(name: str, tiny: Tiny, tmp_path: Path) -> None:
    with services.serve(tiny(name, hub_style=True), tmp_path / "log", "--dtype=float32", "--threads=1") as service:
        for prompt in prompts()[::3]:
            given = continuation(service, prompt)
            assert judge(tiny(SAME_NUMBERS.get(name, name)), prompt, given)[0] == given
