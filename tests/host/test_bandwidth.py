"""The speed of main memory: plausible, and measured in a moment."""

import time

import pytest
from tests.waiting import PATIENCE_S

from tokenwell.host.bandwidth import read_bytes_s


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_measured_in_a_moment(threads: int) -> None:
    started = time.perf_counter()
    assert 0.5e9 < read_bytes_s(threads) < 5e12
    assert time.perf_counter() - started < PATIENCE_S
