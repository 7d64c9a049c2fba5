"""Random numbers that depend on a seed and a position alone: the same in any batch, on any rank, after any preemption.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position` (from 0, prompt included) of a sequence with this seed."""
    return float(uniforms([seed], [position])[0])


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """The numbers of several sequences: [sequences] float64."""
    starts = np.array([(seed + _GOLDEN) & _MASK for seed in seeds], dtype=np.uint64)
    places = (np.array(positions, dtype=np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return (_mix(_mix(starts) + places) >> np.uint64(11)) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
