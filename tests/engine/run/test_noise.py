"""The noise as the paper's formula has it, one number at a time in plain integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenwell.engine.run.noise import uniform, uniforms

BITS = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & BITS
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & BITS
    return value ^ (value >> 31)


@given(pairs=st.lists(st.tuples(st.integers(-(2**70), 2**70), st.integers(0, 2**40)), min_size=1, max_size=5))
def test_all_rows_at_once_are_each_alone(pairs: list[tuple[int, int]]) -> None:
    numbers = uniforms([seed for seed, _ in pairs], [position for _, position in pairs]).tolist()
    for number, (seed, position) in zip(numbers, pairs, strict=True):
        expected = mixed((mixed((seed + GOLDEN) & BITS) + (position + 1) * GOLDEN) & BITS)
        assert number == uniform(seed, position) == (expected >> 11) * 2.0**-53
        assert 0.0 <= number < 1.0
