"""Faults for the real engine, from outside: with this folder on PYTHONPATH every step first does what the file $STEP_FAULT says.

`sleep 0.05` makes steps long, `raise` makes them fail; no file, no fault. Nothing in the engine knows of it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

WORKER = "tokenwell.engine.run.worker"


class Patch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the worker's module as ever and puts the fault in front of Worker.launch."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name != WORKER:
            return None
        sys.meta_path.remove(self)
        self._real = importlib.util.find_spec(name)
        assert self._real is not None
        return importlib.util.spec_from_loader(name, self, origin=self._real.origin)

    def exec_module(self, module: ModuleType) -> None:
        assert self._real is not None and self._real.loader is not None
        self._real.loader.exec_module(module)
        launch = module.Worker.launch

        def faulty(worker: Any, plan: Any) -> Any:
            misbehave()
            return launch(worker, plan)

        module.Worker.launch = faulty  # type: ignore[attr-defined]


def misbehave() -> None:
    """Do what the file says now."""
    file = Path(os.environ["STEP_FAULT"])
    order, _, value = (file.read_text() if file.exists() else "").partition(" ")
    if order == "sleep":
        time.sleep(float(value))
    elif order == "raise":
        raise ArithmeticError("a fault was injected")


sys.meta_path.insert(0, Patch())
