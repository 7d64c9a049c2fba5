"""How fast this machine's main memory is read: a measurement, not a fact sheet. Takes about a fifth of a second.

Each thread compares two blocks of equal bytes with C's memcmp, which reads both once and writes nothing; calls through ctypes
leave the interpreter to the other threads.
"""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

_BLOCK_BYTES = 48 << 20  # two for each thread: more than a core's share of the caches holds
_MOST_BYTES = 512 << 20  # of all threads together
_ROUNDS = 3  # the best counts: whatever disturbs, slows


def read_bytes_s(threads: int) -> float:
    """Bytes a second that `threads` threads read together."""
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    size = min(_BLOCK_BYTES, _MOST_BYTES // (2 * threads))
    blocks = [(b"\x01" * size, b"\x01" * size) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def once() -> float:
            started = time.perf_counter()
            list(pool.map(lambda pair: memcmp(*pair, size), blocks))
            return time.perf_counter() - started

        return 2 * size * threads / min(once() for _ in range(_ROUNDS))
