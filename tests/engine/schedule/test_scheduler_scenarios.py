"""Whole busy days in the life of a scheduler: crowded pools, chats that continue, the same prompt many times at once.

Where the state machine explores the order of calls, this one makes long sequences compete for few pages.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.schedule.device import VOCABULARY, Device, continuation, group

from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.wire.cache import sequence_pages
from tokenwell.wire.messages import Generate, Stats
from tokenwell.wire.sampling import Sampling

MAX_MODEL_LEN = 240
KINDS = ("ends", "over", "breaks", "fails")  # of grammars
PLENTY = 9000  # pages for everything that a seed can ask, so that nothing is ever evicted


def play(
    seed: int, prefix_cache: bool, pages: int | None = None, overlap: bool = False
) -> tuple[dict[str, list[int]], Stats, int]:
    """Tokens of every request, the final stats, and the tokens computed; the requests depend on the seed alone.

    `pages`: spare pages beside those that one sequence needs; None: as the seed says. `overlap`: a step is planned before the
    result of the one before is known.
    """
    chance = random.Random(seed)
    sizes = [chance.choice([1, 4, 8, 16]) for _ in range(chance.randint(1, 3))]
    groups = tuple(group(size, chance.choice([None, 1, 2, 7, 30, 100])) for size in sizes)
    budget = chance.choice([1, 3, 8, 32, 128])
    max_num_seqs = chance.randint(1, 6)
    spare = chance.choice([0, 2, 10, 40, 200])
    num_pages = sequence_pages(MAX_MODEL_LEN, budget, groups) + 1 + (spare if pages is None else pages)
    mixed = random.Random(seed).choice([None, 8, 32])
    scheduler = Scheduler(groups, num_pages, max_num_seqs, budget, MAX_MODEL_LEN, prefix_cache, mixed)
    device = Device(groups, num_pages, max_num_seqs, budget)
    texts: list[list[int]] = [[chance.randrange(VOCABULARY) for _ in range(100)] for _ in range(2)]
    requests = []
    for number in range(chance.randint(2, 12)):
        text = chance.choice(texts)
        own = [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 20))]
        prompt = text[: chance.choice([0, 0, len(text), chance.randint(0, len(text))])] + own
        sampling = Sampling(
            max_tokens=chance.choice([0, 1, 10, 100, 1000, 1000]),
            stop_ids=chance.choice([(), (), (), (), (2,)]),
            prompt_logprobs=chance.choice([None, None, None, 1]),
            grammar=chance.choice([None, None, None, f"{chance.choice(KINDS)} {chance.randint(1, 60)}"]),
        )
        prompt = prompt[:MAX_MODEL_LEN]
        requests.append(Generate(f"r{number}", prompt, sampling))
        texts.append(prompt + continuation(prompt, sampling, MAX_MODEL_LEN).tokens)
    arrivals = sorted(chance.choice([0, 0, chance.randint(0, 200)]) for _ in requests)
    told: dict[str, list[int]] = {}
    prompt_logprobs: dict[str, int] = {}
    ended: list[str] = []
    step = 0
    while len(ended) < len(requests):
        while len(told) < len(requests) and arrivals[len(told)] <= step:
            request = requests[len(told)]
            told[request.id] = []
            assert scheduler.add(request) is None
        step += 1
        plan = scheduler.schedule()
        if not device.queue:
            assert (plan is None) == scheduler.idle
        if plan is not None:
            device.launch(plan)
        if len(device.queue) < (2 if overlap and plan is not None else 1):
            continue
        for output in scheduler.apply(device.collect()):
            told[output.id] += output.tokens
            if output.prompt_logprobs is not None:
                assert prompt_logprobs.setdefault(output.id, len(output.prompt_logprobs)) == len(output.prompt_logprobs)
            if output.finish:
                ended.append(output.id)
        if num_pages < 1000 or step % 64 == 0:
            scheduler.check()
    for request in requests:
        expected = len(request.prompt) - 1 if request.sampling.prompt_logprobs is not None else None
        assert prompt_logprobs.get(request.id) == expected
        assert told[request.id] == continuation(request.prompt, request.sampling, MAX_MODEL_LEN).tokens
    assert sorted(ended) == sorted(told)
    if device.queue:  # a step for stale rows alone
        assert scheduler.apply(device.collect()) == []
    scheduler.check()
    stats = scheduler.stats()
    assert stats.pages_active == stats.running == stats.waiting == 0
    assert stats.generated_tokens == sum(map(len, told.values()))
    assert stats.prompt_tokens == sum(len(request.prompt) for request in requests)
    return told, stats, device.computed_tokens


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=70, deadline=None)
def test_every_sequence_ends_with_the_tokens_it_would_have_alone(seed: int, prefix_cache: bool, overlap: bool) -> None:
    play(seed, prefix_cache, overlap=overlap)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_cache_and_pool_size_change_the_work_but_not_the_tokens(seed: int) -> None:
    plain, _, plain_work = play(seed, prefix_cache=False, pages=PLENTY)
    cached, stats, cached_work = play(seed, prefix_cache=True, pages=PLENTY)
    tight, _, _ = play(seed, prefix_cache=True, pages=0)
    overlapped, _, _ = play(seed, prefix_cache=True, pages=0, overlap=True)
    assert plain == cached == tight == overlapped
    assert stats.preemptions == 0
    assert cached_work == plain_work - stats.cached_tokens


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("overlap", [True, False])
def test_a_crowded_pool_preempts(prefix_cache: bool, overlap: bool) -> None:
    assert sum(play(seed, prefix_cache, 2, overlap)[1].preemptions for seed in range(12)) > 0
