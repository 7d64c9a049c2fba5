"""A promise is compared with what came: at load once, in use by the median over requests, and broken ones are logged once."""

from __future__ import annotations

import logging

import pytest

from tokenwell.service.promise import LEAST_SEEN, Planned, Promise
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.messages import Ready

GROUP = KvGroup("full", (0,), 1, 8, None, 32, 16)


class Straight:
    """One millisecond a prompt token, ten a row."""

    def ttft_ms(self, prompt_tokens: int) -> float:
        return float(prompt_tokens)

    def tpot_ms(self, rows: int, context_tokens: int) -> float:
        return 10.0 * rows


def ready(weights: int = 1000, pages: int = 10, window: int = 64) -> Ready:
    return Ready("Qwen3ForCausalLM", "cpu", "float32", 100, window, 4, 64, weights, 512, pages, (GROUP,), 0.1, [])


def promise() -> Promise:
    return Promise(Planned(1000, 5120, 64, 100.0, 10.0, "one card; for agents.", {"model": "m"}), Straight())


def answer(one: Promise, ttft_s: float | None = 0.1, tpot_s: float | None = 0.01, rows: int = 1) -> None:
    one.answered(computed_tokens=100, context_tokens=120, rows=rows, ttft_s=ttft_s, tpot_s=tpot_s)


def test_nothing_is_known_before_loading() -> None:
    assert {one.kept for one in promise().compared().values()} == {None}


def test_what_was_loaded_is_compared(caplog: pytest.LogCaptureFixture) -> None:
    one = promise()
    with caplog.at_level(logging.INFO, "tokenwell.promise"):
        one.loaded(ready(weights=1100, window=32))
    compared = one.compared()
    assert compared["weights_bytes"].ratio == pytest.approx(1.1)
    assert (compared["weights_bytes"].kept, compared["kv_bytes"].kept, compared["window_tokens"].kept) == (True, True, False)
    assert [record.message for record in caplog.records] == [
        "window_tokens is 50 % of what was planned (planned 64, measured 32); GET /plan tells how it was counted"
    ]


def test_speeds_are_judged_by_their_median_once_there_are_enough() -> None:
    one = promise()
    for _ in range(LEAST_SEEN - 1):
        answer(one, ttft_s=0.2)
    assert one.compared()["ttft_ms"].ratio is None
    answer(one, ttft_s=0.2)
    answer(one, ttft_s=90.0)  # one that was stuck
    assert one.compared()["ttft_ms"].ratio == pytest.approx(2.0)
    assert one.compared()["ttft_ms"].measured == pytest.approx(200.0)
    assert one.compared()["tpot_ms"].kept is True


def test_a_request_that_waited_says_nothing_about_the_first_token() -> None:
    one = promise()
    for _ in range(LEAST_SEEN):
        answer(one, ttft_s=None, tpot_s=0.04, rows=4)
    assert one.compared()["ttft_ms"].ratio is None
    assert one.compared()["tpot_ms"].ratio == pytest.approx(1.0)


def test_a_broken_promise_is_told_once_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    one = promise()
    with caplog.at_level(logging.INFO, "tokenwell.promise"):
        for _ in range(2 * LEAST_SEEN):
            answer(one, tpot_s=0.02)
        for _ in range(60):
            answer(one, tpot_s=0.01)
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "tpot_ms is 200 % of what was planned",
        "tpot_ms is as planned again",
    ]


def test_everything_is_told_as_json() -> None:
    one = promise()
    one.loaded(ready())
    told = one.told()
    assert told["plan"] == {"model": "m"}
    assert told["promises"]["kv_bytes"] == {"planned": 5120, "measured": 5120, "ratio": 1.0, "kept": True}
