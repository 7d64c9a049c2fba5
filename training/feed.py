"""Processes that generate, tokenise and pack dialogues while the card trains. No two of them ever use the same seed."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any

import torch

from training.dialogue import Dialogue
from training.pack import Batch, batches
from training.strange import SHARE, strange

_AHEAD = 8  # batches of each worker that may wait
Moved = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # ids, documents, places, targets


def seeds(seed: int, run: int, worker: int) -> Iterator[int]:
    """Seeds of one worker in one run: 2 ** 32 of them, of no other worker, run or seed."""
    start = ((seed * 1000 + run) * 1000 + worker) << 32
    return count(start)


def fresh(world: str, source: Iterator[int], share: float = SHARE) -> Iterator[Dialogue]:
    """Dialogues of a world, one a seed; in a `share` of them there are strange values.

    A seed whose dialogue cannot be made is told and left out, so that a rare slip in the words does not end a run; raises what
    was raised when more than one in a hundred fail.
    """
    from training.generate import dialogue
    from training.world import World

    words = World.load(world)
    failed = 0
    for done, each in enumerate(source):
        try:
            made, random = dialogue(each, words), Random(~each)
            yield strange(made, random) if random.random() < share else made
        except Exception:
            failed += 1
            if failed > 1 + done // 100:
                raise
            print(f"no dialogue of seed {each}: {traceback.format_exc(limit=-2)}", flush=True)


class Feed:
    """Batches for one run, from a process for each of `workers`. They are forked: make this before anything touches the card."""

    def __init__(self, seed: int, run: int, workers: range, sizes: tuple[int, int, int]) -> None:
        """workers: numbers that no other feed of the run has; sizes: rows, tokens a row, room for learned tokens."""
        context = multiprocessing.get_context("fork")
        self._batches = context.Queue(_AHEAD * len(workers))
        self._workers = [
            context.Process(target=_work, args=(self._batches, seeds(seed, run, worker), sizes), daemon=True)
            for worker in workers
        ]
        for process in self._workers:
            process.start()
        self._moved: queue.Queue[tuple[Moved, int, int]] = queue.Queue(4)
        self.waited_s = 0.0

    def start(self, device: torch.device) -> None:
        """Begin to move batches to the device."""
        threading.Thread(target=self._move, args=(device,), daemon=True).start()

    def next(self) -> tuple[Moved, int, int]:
        """A batch on the device, its tokens and its learned tokens."""
        asked = time.monotonic()
        found = self._moved.get()
        self.waited_s += time.monotonic() - asked
        return found

    def waiting(self) -> int:
        """Batches that are ready."""
        return int(self._batches.qsize())

    def stop(self) -> None:
        for process in self._workers:
            process.terminate()

    def _move(self, device: torch.device) -> None:
        while True:
            batch = self._batches.get()
            if not isinstance(batch, Batch):
                print(batch, flush=True)
                os._exit(1)  # a generator that fails would only slow training down in silence
            tensors = [torch.from_numpy(array) for array in (batch.ids, batch.documents, batch.places, batch.targets)]
            if device.type == "cuda":
                tensors = [tensor.pin_memory() for tensor in tensors]
            moved = tuple(tensor.to(device, non_blocking=True) for tensor in tensors)
            self._moved.put((moved, batch.tokens, batch.learned))


def _work(out: Any, source: Iterator[int], sizes: tuple[int, int, int]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's
    os.nice(5)  # the trainer comes first
    try:
        for batch in batches(fresh("train", source), *sizes):
            out.put(batch)
    except BaseException:
        out.put(traceback.format_exc())
        raise
