"""Work that several Python threads do at once, with pools of several sizes below them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from tests.waiting import PATIENCE_S


def at_once(work: Callable[[], None]) -> None:
    """Run `work` in two threads together, with one, two and three threads for arithmetic. All must come back."""
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
            assert not any(thread.is_alive() for thread in threads)
    finally:
        torch.set_num_threads(before)
