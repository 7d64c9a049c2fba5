"""Tasks put to an endpoint: what is sent, what is measured, what is reported."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.agent.canned import Canned, as_json
from tests.readiness.perfect import Perfect

from tokenwell.agent.endpoint import Endpoint
from tokenwell.readiness.judge import Verdict
from tokenwell.readiness.report import Report
from tokenwell.readiness.run import Answer, Outcome, Work, attempt, choose
from tokenwell.readiness.task import tasks


def worked(perfect: Perfect, most: int, parallel: int = 2, kind: Any = None) -> Report:
    endpoint = Endpoint(perfect.base)
    endpoint.choose(None)
    return Report(list(Work(endpoint, choose(tasks(), kind, None, most), parallel)))


def test_a_perfect_model_is_ready() -> None:
    with Perfect(tasks()) as perfect:
        report = worked(perfect, 4)
    assert [str(report.share(kind)) for kind in ("single", "turns", "talk")] == ["8/8 100.0 %"] * 3
    assert report.below() == []
    assert Counter(request["stream"] for request in perfect.requests).keys() == {True, False}
    assert all(request["temperature"] == 0 for request in perfect.requests)
    told = report.as_json()
    assert told["answers"] == len(perfect.requests)
    assert told["tokens"] == 10 * len(perfect.requests)
    assert told["tasks"]["talk"]["zh"] == {"passed": 4, "total": 4}
    assert set(told["ttft_ms"]) == {"median", "p95"}
    assert told["tpot_ms"] is None  # all at once


def test_who_calls_nothing_is_told_what_was_wanted() -> None:
    with Perfect(tasks(), lambda message: {"role": "assistant", "content": "Sorry, I cannot do that."}) as perfect:
        report = worked(perfect, 3)
    assert report.share("single").passed == 0
    assert report.share("talk").percent == 100
    assert report.below()[0] == "single calls, English: 0.0 % of 3, wanted 95 %"
    text = "\n".join(report.lines())
    assert "got:      Sorry, I cannot do that." in text
    assert "single calls: home" in text


def test_who_says_that_all_is_done_is_not_ready_even_where_nothing_can_be() -> None:
    with Perfect(tasks(), lambda message: {"role": "assistant", "content": "Done, 已经办好了。"}) as perfect:
        report = worked(perfect, 3)
    assert (report.share("turns").passed, report.share("talk").passed) == (0, 4)  # of 6: small talk is free


def test_times_and_tokens() -> None:
    [task] = choose(tasks(), "talk", "en", 1)
    answers = [Answer(True, 0.1 * number, 0.1 * number + 1.0, 20, 11) for number in range(1, 11)]
    others = [Answer(True, 0.0, 3.0, 20, 1), Answer(True, 0.5, 0.5, 20, 30)]  # an empty one, and one that came all at once
    report = Report([Outcome(task, Verdict(True), (*answers, *others))])
    told = report.as_json()
    assert told["ttft_ms"] == {"median": 500.0, "p95": 1000.0}
    assert told["tpot_ms"] == {"median": 100.0, "p95": 100.0}
    assert (told["prompt_tokens"], told["tokens"]) == (240, 141)
    assert "tokens                240 read, 141 written, in 12 answers" in report.lines()
    untold = Report([Outcome(task, Verdict(True), (Answer(False, 1.0, 1.0, 0, 0),))])
    assert "tokens                not known, in 1 answers" in untold.lines()


def test_an_answer_that_was_cut_off_says_so() -> None:
    cut = {"choices": [{"message": {"content": "", "reasoning": "Hm"}, "finish_reason": "length"}]}
    with Canned(as_json(cut)) as canned:
        outcome = attempt(Endpoint(canned.base), choose(tasks(), "single", "en", 1)[0], streamed=False)
    assert outcome.verdict.got == "an empty answer (cut off: the model reached its limit of tokens)"


def test_malformed_calls_are_counted() -> None:
    def spoiled(message: dict[str, Any]) -> dict[str, Any]:
        calls = [{**call, "function": {"name": "no_such_tool", "arguments": {}}} for call in message.get("tool_calls", ())]
        return {**message, "tool_calls": calls}

    with Perfect(tasks(), spoiled) as perfect:
        report = worked(perfect, 3, kind="single")
    assert report.malformed == 6
    assert report.below()[-1] == "6 malformed calls, wanted none"


def test_an_endpoint_that_refuses_fails_the_task_and_the_rest_goes_on() -> None:
    refused: list[int] = []

    def spoiled(message: dict[str, Any]) -> dict[str, Any] | None:
        refused.append(1)
        return None if len(refused) == 2 else message

    with Perfect(tasks(), spoiled) as perfect:
        report = worked(perfect, 3, parallel=1, kind="single")
    assert report.share("single").passed == 5
    told = report.as_json()
    assert "out of order" in told["failures"][0]["got"] and told["errors"] == 1
    assert any(line.startswith("the endpoint          failed 1 of 6 tasks, at last: ") for line in report.lines())


def test_the_tasks_that_are_chosen_are_spread() -> None:
    chosen = choose(tasks(), "turns", "en", 10)
    assert len(chosen) == 10
    assert len({task.category for task in chosen}) > 5
    assert choose(tasks(), None, None, None) == sorted(tasks(), key=lambda task: task.language)
    assert len(choose(tasks(), "talk", None, 1000)) == 100
