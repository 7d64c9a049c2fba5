"""Faults for the real engine, from outside: this folder on PYTHONPATH, and what goes wrong in the environment.

$STEP_FAULT names a file that every step reads first: `sleep 0.05` makes steps long, `raise` makes them fail; no file, no fault.
$RANK_FAULT spoils the transport between ranks. `wrong`: rank 1 adds up wrongly; `hang`: it never comes back from its
self-test, whose time limit is short; `alone`: no model fits one card. Nothing in the engine knows of any of this.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


class Patch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module as ever and spoils it then."""

    def __init__(self, name: str, spoil: Callable[[ModuleType], None]) -> None:
        self._name, self._spoil = name, spoil

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        self._real = importlib.util.find_spec(name)
        assert self._real is not None
        return importlib.util.spec_from_loader(name, self, origin=self._real.origin)

    def exec_module(self, module: ModuleType) -> None:
        assert self._real is not None and self._real.loader is not None
        self._real.loader.exec_module(module)
        self._spoil(module)


def spoil_steps(worker: ModuleType) -> None:
    """Every step first does what the file says then."""
    file, launch = Path(os.environ["STEP_FAULT"]), worker.Worker.launch

    def faulty(worker: Any, plan: Any) -> Any:
        try:
            order, _, value = file.read_text().partition(" ")
        except FileNotFoundError:  # asked by reading: a fault may end between a look and the reading
            order, value = "", ""
        if order == "sleep":
            time.sleep(float(value))
        elif order == "raise":
            raise ArithmeticError("a fault was injected")
        return launch(worker, plan)

    worker.Worker.launch = faulty


def spoil_ranks(trial: ModuleType) -> None:
    """The ranks' self-test meets what $RANK_FAULT says."""
    from tokenwell.engine.ranks import team

    faults, check = os.environ["RANK_FAULT"].split(), trial.check
    if "alone" in faults:
        team._ROOM = 1e12
    if "hang" in faults:
        team.TRIAL_S = 1.5

    def faulty(ranks: Any) -> None:
        if ranks.rank == 1 and "hang" in faults:
            time.sleep(600)
        if ranks.rank == 1 and "wrong" in faults:
            real = ranks._sum
            ranks._sum = lambda x: (real(x), x.add_(1))
        check(ranks)

    trial.check = faulty


if "STEP_FAULT" in os.environ:
    sys.meta_path.insert(0, Patch("tokenwell.engine.run.worker", spoil_steps))
if "RANK_FAULT" in os.environ:
    sys.meta_path.insert(0, Patch("tokenwell.engine.ranks.trial", spoil_ranks))
