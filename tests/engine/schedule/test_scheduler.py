"""The scheduler's rules, one by one, on a device that checks every plan."""

from __future__ import annotations

import pytest
from tests.engine.schedule.device import Device, Loop, group, prompt_logprob

from tokenwell.engine.schedule.plan import Sampled, StepResult
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.wire.cache import NULL_PAGE, KvGroup, sequence_pages
from tokenwell.wire.errors import CapacityError
from tokenwell.wire.messages import Generate, Stats, TokenLogprob
from tokenwell.wire.sampling import Sampling

FULL = group(8)
SLIDING = group(4, 12)


def text(length: int, seed: int = 0) -> list[int]:
    """Token ids that differ from seed to seed from the first on."""
    return [(seed * 1000 + at * at) % 50_021 for at in range(length)]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "code", "words"),
    [
        ([], 4, "invalid_request", "prompt is empty"),
        (text(201), 4, "context_length_exceeded", "maximum context length is 200 tokens. However, your prompt has 201 tokens"),
        ([1, -1], 4, "invalid_request", "cannot be a token id"),
        ([1, 2**32], 4, "invalid_request", "cannot be a token id"),
        ([1], -1, "invalid_request", "max_tokens is -1"),
    ],
)
def test_what_can_never_run_is_answered(prompt: list[int], max_tokens: int, code: str, words: str) -> None:
    scheduler = Loop(FULL).scheduler
    output = scheduler.add(Generate("a", prompt, Sampling(max_tokens=max_tokens)))
    assert output is not None and output.finish == "error" and output.error is not None
    assert (output.id, output.error.code) == ("a", code)
    assert words in output.error.message
    assert scheduler.idle and scheduler.schedule() is None


def test_an_id_is_refused_only_while_it_is_in_use() -> None:
    loop = Loop(FULL)
    loop.add("a", [1, 2], max_tokens=2)
    output = loop.scheduler.add(Generate("a", [3], Sampling()))
    assert output is not None and output.error is not None and "'a' is in progress" in output.error.message
    loop.drain()
    loop.ask("a", [3], max_tokens=2)


def test_a_pool_too_small_for_one_sequence_is_refused() -> None:
    with pytest.raises(CapacityError, match=r"max_model_len is 100 tokens, but 12 KV pages hold one sequence of 96"):
        Scheduler((FULL,), 13, 4, 64, 100)
    Scheduler((FULL,), 14, 4, 64, 100)
    with pytest.raises(ValueError, match="at least"):
        Scheduler((), 14, 4, 64, 100)
    with pytest.raises(ValueError, match="at least"):
        Scheduler((FULL,), 14, 0, 64, 100)


def test_wrong_use_is_an_error() -> None:
    scheduler = Loop(FULL).scheduler
    with pytest.raises(ValueError, match="result of step 1"):
        scheduler.apply(StepResult(1))
    scheduler.add(Generate("a", [1, 2, 3], Sampling(logprobs=0, prompt_logprobs=0)))
    scheduler.schedule()
    sampled = (Sampled(0, 5, TokenLogprob(-1.0)),)
    with pytest.raises(ValueError, match="result of step 2"):
        scheduler.apply(StepResult(2, sampled))
    with pytest.raises(ValueError, match=r"rows \[\] were sampled instead of \[0\]"):
        scheduler.apply(StepResult(1))
    with pytest.raises(ValueError, match="sampled token's logprob is missing"):
        scheduler.apply(StepResult(1, (Sampled(0, 5),)))
    with pytest.raises(ValueError, match="0 prompt logprobs instead of 2"):
        scheduler.apply(StepResult(1, sampled))
    with pytest.raises(ValueError, match="no token, and no reason"):
        scheduler.apply(StepResult(1, (Sampled(0, None),)))
    outputs = scheduler.apply(StepResult(1, sampled, {0: [TokenLogprob(-2.0), TokenLogprob(-3.0)]}))
    assert outputs[0].tokens == [5]
    with pytest.raises(ValueError, match="it was applied"):
        scheduler.apply(StepResult(1, sampled))


# ---------------------------------------------------------------- how a sequence ends


def _answer(scheduler: Scheduler, tokens: list[int]) -> tuple[list[int], str | None, int | None]:
    """Sample these tokens for row 0 until the sequence ends."""
    told: list[int] = []
    for token in tokens:
        plan = scheduler.schedule()
        assert plan is not None
        (output,) = scheduler.apply(StepResult(plan.step, (Sampled(0, token),)))
        told += output.tokens
        if output.finish:
            return told, output.finish, output.stop_id
    return told, None, None


@pytest.mark.parametrize(
    ("sampled", "told"),
    [
        (Sampled(0, 5, ended=True), ([5], "stop", None)),
        (Sampled(0, 8, ended=True), ([8], "stop", 8)),
        (Sampled(0, None, ended=True), ([], "stop", None)),
        (Sampled(0, None, error="too complex"), ([], "error", None)),
        (Sampled(0, 5, error="too complex"), ([5], "error", None)),
    ],
)
def test_a_grammar_ends_or_fails_its_row_alone(sampled: Sampled, told: tuple[list[int], str, int | None]) -> None:
    scheduler = Loop(FULL).scheduler
    scheduler.add(Generate("held", [1, 2], Sampling(max_tokens=1, stop_ids=(8,))))
    scheduler.add(Generate("free", [3, 4], Sampling(max_tokens=9, stop_ids=(8,))))
    plan = scheduler.schedule()
    assert plan is not None
    held, free = scheduler.apply(StepResult(plan.step, (sampled, Sampled(1, 5))))
    assert (held.tokens, held.finish, held.stop_id) == told
    assert (held.error.message if held.error else None) == sampled.error
    assert (free.tokens, free.finish) == ([5], None)
    scheduler.check()


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        (Sampling(max_tokens=9, stop_ids=(7, 8)), ([5, 6, 8], "stop", 8)),
        (Sampling(max_tokens=3, stop_ids=(8,)), ([5, 6, 8], "stop", 8)),  # both at once: it stopped
        (Sampling(max_tokens=2, stop_ids=(8,)), ([5, 6], "length", None)),
        (Sampling(max_tokens=9, min_tokens=2, stop_ids=(8,)), ([5, 6, 8], "stop", 8)),
        (Sampling(max_tokens=9, min_tokens=3, stop_ids=(8,)), ([5, 6, 8, 9], None, None)),
        (Sampling(max_tokens=9, min_tokens=3, stop_ids=(8, 9)), ([5, 6, 8, 9], "stop", 9)),
        (Sampling(max_tokens=9), ([5, 6, 8, 9], None, None)),
    ],
)
def test_stop_ids_and_lengths(sampling: Sampling, told: tuple[list[int], str | None, int | None]) -> None:
    scheduler = Scheduler((FULL,), 100, 4, 64, 100)
    scheduler.add(Generate("a", [1, 2, 3], sampling))
    assert _answer(scheduler, [5, 6, 8, 9]) == told


def test_prompt_and_output_together_reach_the_window_and_no_further() -> None:
    loop = Loop(FULL, max_model_len=20)
    told = loop.ask("a", text(17), max_tokens=100)
    assert (len(told.tokens), told.finish) == (3, "length")
    told = loop.ask("b", text(20), max_tokens=100)
    assert (told.tokens, told.finish) == ([], "length")


def test_max_tokens_zero_computes_the_prompt_and_samples_nothing() -> None:
    loop = Loop(FULL, budget=4)
    loop.add("a", text(10), max_tokens=0, prompt_logprobs=0)
    plans = [loop.step() for _ in range(3)]
    assert [(row.start, row.count, row.sample) for plan in plans for row in plan.run] == [
        (0, 4, False),
        (4, 4, False),
        (8, 2, False),
    ]
    (output,) = loop.told["a"].outputs
    assert (output.tokens, output.finish) == ([], "length")
    assert output.prompt_logprobs == [prompt_logprob(at, text(10)[at]) for at in range(1, 10)]
    assert loop.scheduler.idle


def test_logprobs_are_reported_when_asked_for() -> None:
    loop = Loop(FULL)
    assert loop.ask("a", [1], max_tokens=1, logprobs=2).outputs[0].logprobs == [TokenLogprob(-1.0)]
    assert loop.ask("b", [1], max_tokens=1).outputs[0].logprobs is None


def test_the_prompt_logprobs_of_one_token_are_an_empty_list() -> None:
    assert Loop(FULL).ask("a", [1], max_tokens=2, prompt_logprobs=0).outputs[0].prompt_logprobs == []


# ---------------------------------------------------------------- the budget


def test_decoding_rows_come_first_and_prompts_take_turns_for_the_rest() -> None:
    loop = Loop(FULL, budget=12)
    loop.add("decodes", [1], max_tokens=50)
    loop.step()
    loop.add("long", text(100, 1), max_tokens=1)
    loop.add("short", text(3, 2), max_tokens=1)
    loop.add("other", text(90, 3), max_tokens=1)
    assert [(row.start, row.count) for row in loop.step().run] == [(1, 1), (0, 3), (0, 8)]
    assert loop.told["short"].finish == "length"
    run = loop.step().run  # of the two the other one has less to do
    assert [(row.start, row.count) for row in run] == [(2, 1), (8, 11)]


def test_the_queue_is_served_in_order_while_rows_are_free() -> None:
    loop = Loop(FULL, max_num_seqs=2)
    for number in range(4):
        loop.add(f"r{number}", [number], max_tokens=2)
    assert [add.tokens for add in loop.step().add] == [[0], [1]]
    loop.step()
    plan = loop.step()
    assert [add.tokens for add in plan.add] == [[2], [3]]
    assert sorted(plan.drop) == sorted(add.row for add in plan.add)  # rows are reused at once


def test_no_more_are_admitted_than_a_step_has_tokens() -> None:
    loop = Loop(FULL, budget=3)
    for number in range(5):
        loop.add(f"r{number}", text(10, number), max_tokens=1)
    plan = loop.step()
    assert [row.count for row in plan.run] == [3]
    assert len(plan.add) == 3


def test_no_more_rows_run_than_the_budget_has_tokens() -> None:
    loop = Loop(FULL, budget=2, max_num_seqs=5, max_model_len=100)
    for number in range(5):
        loop.add(f"r{number}", text(4, number), max_tokens=20)
    while not loop.scheduler.idle:
        running = len(loop.step().run)
        assert running <= 2
    assert all(len(told.tokens) == 20 for told in loop.told.values())


def test_a_step_is_longer_only_where_nobody_waits_for_a_token() -> None:
    loop = Loop(FULL, budget=16, mixed=8)
    loop.add("long", text(60, 1), max_tokens=1)
    assert [row.count for row in loop.step().run] == [16]
    loop.add("short", text(3, 2), max_tokens=3)
    assert [row.count for row in loop.step().run] == [5, 3]  # the short one has its token after a usual step
    assert [row.count for row in loop.step().run] == [7, 1]
    assert [row.count for row in loop.step().run] == [7, 1]
    assert loop.told["short"].finish == "length"
    assert [row.count for row in loop.step().run] == [16]
    assert [row.count for row in loop.step().run] == [9]  # not more than there is to do
    assert loop.told["long"].finish == "length"


def test_of_equal_prompts_one_after_the_other_is_done() -> None:
    loop = Loop(FULL, budget=16, mixed=8, prefix_cache=False)
    for number in range(3):
        loop.add(f"r{number}", text(10, number), max_tokens=1)
    assert [row.count for row in loop.step().run] == [10, 6]  # a usual step would end none
    assert [told.finish for told in loop.told.values()] == ["length", None, None]
    assert [row.count for row in loop.step().run] == [4, 4]
    assert [told.finish for told in loop.told.values()] == ["length", "length", None]
    assert [row.count for row in loop.step().run] == [6]


# ---------------------------------------------------------------- rows and aborts


def test_drops_alone_make_no_plan_and_come_with_the_next_one() -> None:
    loop = Loop(FULL)
    loop.ask("a", [1], max_tokens=1)
    assert loop.scheduler.schedule() is None
    loop.add("b", [2], max_tokens=1)
    plan = loop.step()
    assert (plan.drop, [add.row for add in plan.add]) == ((0,), [0])


def test_an_abort_frees_everything_at_once() -> None:
    loop = Loop(FULL, SLIDING, max_num_seqs=1, budget=16)
    loop.add("prefills", text(100), max_tokens=5)
    loop.add("waits", text(100, 1), max_tokens=5)
    loop.step()
    assert loop.scheduler.stats().pages_active > 0
    assert loop.scheduler.abort("waits") and loop.scheduler.abort("prefills")
    assert not loop.scheduler.abort("prefills")
    stats = loop.scheduler.stats()
    assert (stats.pages_active, stats.running, stats.waiting) == (0, 0, 0)
    assert loop.scheduler.idle and loop.scheduler.schedule() is None
    assert loop.ask("again", text(100), max_tokens=5).cached == 16  # what was computed is not lost


def test_the_result_of_a_row_aborted_in_flight_is_ignored() -> None:
    loop = Loop(FULL)
    loop.add("a", text(5), max_tokens=5)
    loop.add("b", text(5, 1), max_tokens=5)
    plan = loop.scheduler.schedule()
    assert plan is not None
    assert loop.scheduler.abort("a")
    assert loop.scheduler.stats().pages_active == 1
    loop.add("a", text(7, 2), max_tokens=3)  # the id is free again, and this is another request
    loop.finish(plan)
    assert loop.told["a"].outputs == [] and len(loop.told["b"].tokens) == 1
    loop.drain()
    assert len(loop.told["a"].tokens) == 3


# ---------------------------------------------------------------- the prefix cache


@pytest.mark.parametrize("groups", [(FULL,), (SLIDING,), (FULL, SLIDING), (SLIDING, FULL, group(16, 30))])
def test_the_next_turn_of_a_chat_computes_only_what_is_new(groups: tuple[KvGroup, ...]) -> None:
    loop = Loop(*groups)
    first = loop.ask("turn 1", text(77), max_tokens=30)
    assert first.cached == 0
    second = loop.ask("turn 2", text(77) + first.tokens + [1, 2, 3], max_tokens=4)
    assert second.cached == 77 + 29  # the last token was sampled but never computed
    assert [output.cached_tokens for output in second.outputs] == [106, 0, 0, 0]


def test_a_next_turn_that_branches_off_at_the_end_of_the_prompt_finds_the_window_there() -> None:
    loop = Loop(FULL, SLIDING, budget=16, num_pages=70)
    loop.ask("turn 1", text(77), max_tokens=100)  # fills most of the pool
    loop.ask("other", text(60, 5), max_tokens=20)  # and this evicts pages that the answer left behind its window
    assert loop.ask("turn 2", text(77) + text(9, 7), max_tokens=4).cached == 77


def test_requests_that_share_a_system_prompt_meet_where_they_branch_off() -> None:
    loop = Loop(FULL, group(4, 8), budget=16, num_pages=70)
    system = text(90)
    loop.ask("a", system + text(80, 1), max_tokens=20)
    loop.ask("b", text(100, 2), max_tokens=90)  # evicts the sliding pages that "a" left in mid-prompt
    assert loop.ask("c", system + text(80, 3), max_tokens=1).cached == 0
    assert loop.ask("d", system + text(30, 4), max_tokens=1).cached == 90  # where "c" left known ground is remembered


def test_a_full_hit_leaves_one_token_to_compute() -> None:
    loop = Loop(FULL, SLIDING)
    loop.ask("a", text(64), max_tokens=1)
    loop.add("b", text(64), max_tokens=1)
    plan = loop.step()
    assert [(row.start, row.count, row.sample) for row in plan.run] == [(63, 1, True)]
    assert len(plan.copies) == 2  # one a group: position 63 is inside a page that is shared
    sliding = plan.add[0].pages[1]  # position 63 sees 52 and later: pages 13, 14, 15
    assert sliding[:13] == (NULL_PAGE,) * 13 and NULL_PAGE not in sliding[13:]


def test_other_tokens_never_hit() -> None:
    loop = Loop(group(4))
    loop.ask("a", [1, 2, 3, 4, 5, 6, 7, 8], max_tokens=1)
    assert loop.ask("b", [9, 2, 3, 4, 5, 6, 7, 8], max_tokens=1).cached == 0
    assert loop.ask("c", [1, 2, 3, 4, 9, 6, 7, 8], max_tokens=1).cached == 4
    assert loop.ask("d", [1, 2, 3, 4, 5, 6, 9, 8], max_tokens=1).cached == 6


def test_the_cache_can_be_switched_off() -> None:
    loop = Loop(FULL, SLIDING, prefix_cache=False)
    loop.ask("a", text(50), max_tokens=30)
    assert loop.ask("b", text(50), max_tokens=1).cached == 0
    assert loop.scheduler.stats().pages_cached == 0


def test_prompt_logprobs_need_every_position_computed() -> None:
    loop = Loop(FULL)
    loop.ask("a", text(50), max_tokens=1)
    told = loop.ask("b", text(50), max_tokens=1, prompt_logprobs=0)
    assert told.cached == 0
    assert told.outputs[0].prompt_logprobs == [prompt_logprob(at, text(50)[at]) for at in range(1, 50)]


def test_the_same_prompt_many_times_at_once_is_computed_once() -> None:
    loop = Loop(FULL, SLIDING, budget=32, max_model_len=250)
    for number in range(4):
        loop.add(f"r{number}", text(200), max_tokens=20)
    loop.add("unrelated", text(10, 1), max_tokens=1)
    first = loop.step()
    assert [add.tokens[0] for add in first.add] == [text(200)[0], text(10, 1)[0]]  # the others let the first go ahead
    loop.drain()
    assert len({tuple(loop.told[f"r{number}"].tokens) for number in range(4)}) == 1
    assert loop.scheduler.stats().cached_tokens >= 3 * (200 - 64)


def test_who_waits_for_a_leader_goes_on_when_it_is_gone() -> None:
    loop = Loop(FULL, budget=16, max_model_len=250)
    loop.add("leader", text(200), max_tokens=20)
    loop.add("follower", text(200), max_tokens=20)
    assert len(loop.step().add) == 1
    loop.scheduler.abort("leader")
    assert [row.start for row in loop.step().run] == [16]
    loop.drain()
    assert len(loop.told["follower"].tokens) == 20


def test_who_waited_for_a_leader_is_still_the_older_one() -> None:
    loop = Loop(FULL, budget=17)
    for id, seed in (("leader", 0), ("follower", 0), ("younger", 1)):
        loop.add(id, text(150, seed), max_tokens=1)
    assert [row.count for row in loop.step().run] == [17]
    loop.scheduler.abort("leader")
    plan = loop.step()
    assert [row.count for row in plan.run] == [17]
    assert plan.run[0].row == plan.add[0].row  # with what the leader has computed, the follower has less to do
    assert [seq.id for seq in loop.scheduler._running] == ["follower", "younger"]
    loop.drain()


def test_evicted_content_leaves_nothing_behind() -> None:
    groups = (FULL, SLIDING)
    loop = Loop(*groups, num_pages=sequence_pages(100, 64, groups) + 1, max_model_len=100)
    for number in range(200):
        loop.ask(f"r{number}", text(60, number), max_tokens=10)
    stats = loop.scheduler.stats()
    assert stats.pages_active == 0 and stats.pages_cached <= stats.pages_total
    todo, nodes = list(loop.scheduler._blocks._roots), 0
    while todo:
        todo += todo.pop().children
        nodes += 1
    assert nodes < 10 * stats.pages_total


# ---------------------------------------------------------------- preemption


def _crowd() -> Loop:
    """Two sequences in a pool that holds both at the start but not at the end."""
    loop = Loop(FULL, num_pages=26, max_num_seqs=2)
    loop.add("old", text(5), max_tokens=190)
    loop.add("young", text(6, 1), max_tokens=190, prompt_logprobs=0)
    return loop


def test_the_youngest_gives_way_and_comes_back_without_repeating_itself() -> None:
    loop = _crowd()
    loop.add("late", text(5, 2), max_tokens=1)
    while loop.scheduler.stats().preemptions == 0:
        plan = loop.step()
    assert [row.row for row in plan.run] == [0]
    assert plan.drop == (1,)
    assert loop.scheduler.stats().waiting == 2
    said = list(loop.told["young"].tokens)
    while not plan.add:
        plan = loop.step()
    add = plan.add[0]  # before "late", which came after it but waited all the time
    assert add.tokens == text(6, 1) + said and add.prompt_tokens == 6
    loop.drain()
    assert [len(loop.told[id].tokens) for id in ("old", "young", "late")] == [190, 190, 1]
    assert [output.prompt_logprobs is not None for output in loop.told["young"].outputs] == [True] + [False] * 189
    assert loop.scheduler.stats().pages_active == 0
    assert loop.scheduler.stats().prompt_tokens == 5 + 6 + 5


def test_prompt_logprobs_survive_a_preemption_in_mid_prompt() -> None:
    loop = Loop(group(1), num_pages=201, max_num_seqs=2, budget=2)
    loop.add("old", text(2), max_tokens=150)
    loop.add("young", text(130, 1), max_tokens=0, prompt_logprobs=0)
    while loop.scheduler.stats().preemptions == 0:
        loop.step()
    assert loop.told["young"].outputs == []
    loop.drain()
    (output,) = loop.told["young"].outputs
    assert output.prompt_logprobs == [prompt_logprob(at, text(130, 1)[at]) for at in range(1, 130)]


def test_who_found_too_few_pages_is_admitted_when_a_row_leaves() -> None:
    loop = Loop(FULL, num_pages=26)
    loop.add("long", text(5), max_tokens=100)
    loop.add("short", text(5, 1), max_tokens=10)
    loop.add("blocked", text(115, 2), max_tokens=1)
    for _ in range(10):
        assert loop.scheduler.stats().waiting != 0
        loop.step()
    assert loop.told["short"].finish == "length"
    assert [add.tokens for add in loop.step().add] == [text(115, 2)]


def test_who_found_too_few_pages_is_admitted_when_a_prefill_needs_fewer() -> None:
    sliding = group(4, 8)  # 3 pages while decoding, 18 for a whole step's prefill
    loop = Loop(sliding, num_pages=sequence_pages(200, 64, (sliding,)) + 5)
    loop.add("first", text(64), max_tokens=100)
    loop.add("second", text(64, 1), max_tokens=100)
    assert len(loop.step().add) == 1
    assert len(loop.step().add) == 1


def test_pages_behind_a_window_are_evicted_before_older_content() -> None:
    loop = Loop(SLIDING, num_pages=45, budget=16)
    loop.ask("old", text(20), max_tokens=5)
    for number in range(1, 4):
        loop.ask(f"passing {number}", text(10, number), max_tokens=100)
    assert loop.ask("old again", text(20), max_tokens=1).cached == 19


def test_a_page_that_another_row_computed_too_counts_as_used_when_that_row_leaves() -> None:
    loop = Loop(FULL, num_pages=31, budget=200)
    loop.add("short", text(60), max_tokens=1)
    loop.add("other", text(60, 1), max_tokens=5)
    loop.add("twin", text(60), max_tokens=20)
    assert len(loop.step().add) == 3  # too little to save by waiting: "short" and "twin" compute the same
    loop.drain()
    loop.ask("third", text(140, 2), max_tokens=20)  # evicts 8 pages, as many as "other" left
    assert loop.ask("again", text(60), max_tokens=1).cached == 59


def test_a_partly_filled_page_goes_when_a_fuller_one_begins_with_it() -> None:
    loop = Loop(FULL)
    told = loop.ask("turn 1", text(20), max_tokens=1)
    assert loop.scheduler.stats().pages_cached == 3
    loop.ask("turn 2", text(20) + told.tokens + [1], max_tokens=1)
    assert loop.scheduler.stats().pages_cached == 3
    loop.ask("turn 3", text(20) + told.tokens + [1, 2, 3], max_tokens=1)
    assert loop.scheduler.stats().pages_cached == 3
    assert loop.ask("turn 1 again", text(20), max_tokens=1).cached == 19


def test_stats_count_what_happened() -> None:
    loop = Loop(FULL, num_pages=101)
    assert loop.scheduler.stats() == Stats(pages_total=100)
    loop.ask("a", text(20), max_tokens=5)
    loop.ask("b", text(20), max_tokens=5)
    # 24 tokens were computed twice: 3 pages; the second time two of them were shared and one copied, then filled again
    expected = Stats(steps=10, pages_total=100, pages_cached=3, prompt_tokens=40, cached_tokens=19, generated_tokens=10)
    assert loop.scheduler.stats() == expected


def test_a_device_that_repeats_a_row_is_not_believed() -> None:
    device = Device((FULL,), 10, 2, 8)
    scheduler = Scheduler((FULL,), 10, 2, 8, 50)
    scheduler.add(Generate("a", [1], Sampling(max_tokens=2)))
    plan = scheduler.schedule()
    assert plan is not None
    result = device.execute(plan)
    with pytest.raises(ValueError, match=r"rows \[0, 1\] were sampled instead of \[0\]"):
        scheduler.apply(StepResult(result.step, (*result.sampled, Sampled(1, 3))))
