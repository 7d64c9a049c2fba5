"""Steps that are planned before the result of the step before is known: pending tokens, stale rows, rows that close."""

from __future__ import annotations

import pytest
from tests.engine.schedule.device import Loop, continuation, group, prompt_logprob

from tokenwell.engine.schedule.plan import Sampled, StepResult
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.engine.schedule.sequence import Status
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling

FULL = group(8)
SLIDING = group(4, 12)


def text(length: int, seed: int = 0) -> list[int]:
    """Token ids that differ from seed to seed from the first on."""
    return [(seed * 1000 + at * at) % 50_021 for at in range(length)]


def stop_at(prompt: list[int], tokens: int) -> tuple[int, int]:
    """A stop id, and a min_tokens, with which a request ends after about so many tokens."""
    told = continuation(prompt, Sampling(max_tokens=tokens), 1000).tokens
    return told[-1], tokens - 1


def test_a_row_goes_on_before_its_token_is_known() -> None:
    loop = Loop(FULL)
    loop.add("a", text(5), max_tokens=4)
    plans = [loop.launch()]
    for _ in range(3):
        plans.append(loop.launch())
        loop.collect()
    runs = [(run.start, run.count, run.sample, run.pending) for plan in plans if plan for run in plan.run]
    assert runs == [(0, 5, True, False), (5, 1, True, True), (6, 1, True, True), (7, 1, True, True)]
    assert len(loop.told["a"].tokens) == 3
    assert loop.launch() is None  # the token in flight is the last one
    loop.collect()
    assert loop.told["a"].finish == "length" and loop.scheduler.idle


def test_no_third_step_is_planned_before_the_first_is_booked() -> None:
    loop = Loop(FULL)
    loop.add("a", text(5), max_tokens=9)
    loop.launch()
    loop.launch()
    with pytest.raises(RuntimeError, match="before apply\\(\\) of step 1"):
        loop.scheduler.schedule()
    with pytest.raises(ValueError, match="result of step 2, but step 1 comes first"):
        loop.scheduler.apply(StepResult(2, (Sampled(0, 5),)))


def test_whose_last_token_is_in_flight_makes_room_at_once() -> None:
    loop = Loop(FULL, max_num_seqs=1)
    loop.add("first", text(8), max_tokens=1)
    loop.add("second", text(20, 1), max_tokens=2)
    loop.launch()
    plan = loop.launch()
    assert plan is not None and plan.drop == (0,) and [add.row for add in plan.add] == [0]
    assert loop.scheduler.stats().running == 1 and loop.told["first"].outputs == []
    loop.collect()
    assert loop.told["first"].finish == "length"
    loop.overlap_all()
    assert loop.told["second"].finish == "length"


@pytest.mark.parametrize("groups", [(FULL,), (SLIDING,), (FULL, SLIDING)])
@pytest.mark.parametrize("tokens", range(1, 17))
def test_a_stale_row_writes_where_nobody_reads(groups: tuple, tokens: int) -> None:  # type: ignore[type-arg]
    loop = Loop(*groups, num_pages=60, budget=32)
    prompt = text(21)
    stop, least = stop_at(prompt, tokens)
    loop.add("a", prompt, max_tokens=50, stop_ids=(stop,), min_tokens=least)
    while loop.told["a"].finish is None:
        loop.overlap()
    assert len(loop.device.queue) == 1 and loop.scheduler.idle  # one more step was under way
    assert loop.scheduler.stats().pages_active == 0
    said = loop.told["a"].tokens
    assert len(said) == tokens
    # These share, copy and take the pages that the stale row still writes into.
    for number, tail in enumerate(([], [3], [4, 4], text(30, 7))):
        loop.add(f"next {number}", prompt + said + tail, max_tokens=9)
    loop.add("other", text(120, 9), max_tokens=9)
    loop.overlap_all()
    for id, told in loop.told.items():
        assert told.finish is not None, id
    for number, tail in enumerate(([], [3], [4, 4], text(30, 7))):
        whole = prompt + said + tail
        assert loop.told[f"next {number}"].tokens == continuation(whole, Sampling(max_tokens=9), 200).tokens
    assert loop.told["next 0"].cached == 20 + tokens


@pytest.mark.parametrize("in_flight", [1, 2])
def test_an_abort_does_not_wait_for_what_is_in_flight(in_flight: int) -> None:
    loop = Loop(FULL)
    loop.add("a", text(5), max_tokens=9)
    loop.add("b", text(6, 1), max_tokens=9)
    loop.overlap()
    loop.overlap()
    if in_flight == 2:
        loop.launch()
    assert loop.scheduler.abort("a") and loop.scheduler.stats().pages_active == 1
    loop.scheduler.check()
    loop.add("a", text(7, 2), max_tokens=3)  # the id is free again, and this is another request
    if in_flight == 2:
        loop.collect()
    loop.overlap_all()
    assert loop.told["a"].tokens == continuation(text(7, 2), Sampling(max_tokens=3), 200).tokens
    assert len(loop.told["b"].tokens) == 9


def test_an_abort_right_after_the_prompt_expects_no_more_prompt_logprobs() -> None:
    loop = Loop(FULL)
    loop.add("a", text(5), max_tokens=9, prompt_logprobs=0)
    loop.launch()
    loop.launch()
    loop.scheduler.abort("a")
    loop.collect()
    loop.collect()
    assert loop.told["a"].outputs == [] and loop.scheduler.idle


def test_a_request_that_closes_can_be_aborted() -> None:
    loop = Loop(FULL)
    loop.add("a", text(5), max_tokens=1)
    loop.launch()
    assert loop.launch() is None
    assert not loop.scheduler.idle and loop.scheduler.abort("a") and loop.scheduler.idle
    loop.collect()
    assert loop.told["a"].outputs == []


def test_a_row_that_is_preempted_keeps_its_pending_token() -> None:
    loop = Loop(FULL, num_pages=26, max_num_seqs=2)
    loop.add("old", text(5), max_tokens=190)
    loop.add("young", text(6, 1), max_tokens=190)
    while loop.scheduler.stats().preemptions == 0:
        before = len(loop.told["young"].tokens)
        plan = loop.overlap()
    assert plan is not None and [run.row for run in plan.run] == [0]
    said = list(loop.told["young"].tokens)
    assert len(said) == before + 1
    while not (plan := loop.overlap()) or not plan.add:
        pass
    assert plan.add[0].tokens == text(6, 1) + said
    loop.overlap_all()
    for id, prompt in (("old", text(5)), ("young", text(6, 1))):
        assert loop.told[id].tokens == continuation(prompt, Sampling(max_tokens=190), 200).tokens


def test_a_request_may_end_while_it_waits_again() -> None:
    prompt = text(6, 1)
    for tokens in range(80, 110):
        stop, least = stop_at(prompt, tokens)
        loop = Loop(FULL, num_pages=26, max_num_seqs=2)
        loop.add("old", text(5), max_tokens=190)
        loop.add("young", prompt, max_tokens=190, stop_ids=(stop,), min_tokens=least)
        while loop.told["young"].finish is None:
            loop.overlap()
        if loop.scheduler.stats().preemptions and len(loop.told["young"].tokens) == tokens:
            break
    assert loop.scheduler.stats().preemptions == 1 and loop.scheduler.stats().waiting == 0
    assert loop.told["young"].outputs[-1].stop_id == stop
    loop.overlap_all()


def test_prompt_logprobs_survive_a_preemption_right_after_the_prompt() -> None:
    seen = 0
    for length in range(94, 104):
        loop = Loop(group(1), num_pages=201, max_num_seqs=2, budget=2)
        loop.add("old", text(2), max_tokens=150)
        loop.add("young", text(length, 1), max_tokens=5, prompt_logprobs=0)
        young = loop.scheduler._sequences["young"]
        while loop.told["young"].finish is None:
            plan = loop.launch()
            seen += young.status is Status.WAITING and young.pending == 1 and len(young.tokens) == length
            if len(loop.device.queue) > 1 or plan is None:
                loop.collect()
        outputs = loop.told["young"].outputs
        assert outputs[0].prompt_logprobs == [prompt_logprob(at, text(length, 1)[at]) for at in range(1, length)]
        assert len(outputs) == 5 and not any(output.prompt_logprobs for output in outputs[1:])
    assert seen


@pytest.mark.parametrize("kind", ["ends 4", "over 4", "breaks 4", "fails 4"])
def test_a_grammar_that_ends_makes_the_next_row_stale(kind: str) -> None:
    loop = Loop(FULL)
    loop.add("a", text(5), max_tokens=20, grammar=kind)
    loop.add("b", text(6, 1), max_tokens=20)
    loop.overlap_all()
    expected = continuation(text(5), Sampling(max_tokens=20, grammar=kind), 200)
    assert (loop.told["a"].tokens, loop.told["a"].finish) == (expected.tokens, expected.finish)
    assert len(loop.told["b"].tokens) == 20


def test_both_ways_of_stepping_may_take_turns() -> None:
    scheduler = Scheduler((FULL,), 100, 4, 64, 100)
    scheduler.add(Generate("a", [1, 2, 3], Sampling(max_tokens=6)))
    told: list[int] = []
    first = scheduler.schedule()
    assert first is not None
    told += scheduler.apply(StepResult(1, (Sampled(0, 11),)))[0].tokens
    assert scheduler.schedule() is not None
    third = scheduler.schedule()
    assert third is not None and third.run[0].pending
    told += scheduler.apply(StepResult(2, (Sampled(0, 12),)))[0].tokens
    told += scheduler.apply(StepResult(3, (Sampled(0, 13),)))[0].tokens
    fourth = scheduler.schedule()
    assert fourth is not None and not fourth.run[0].pending and fourth.run[0].start == 5
    assert told == [11, 12, 13]
