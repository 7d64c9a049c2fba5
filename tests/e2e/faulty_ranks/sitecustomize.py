"""Faults of the transport between ranks, from outside: with this folder on PYTHONPATH $RANK_FAULT says what goes wrong.

`wrong`: rank 1 adds up wrongly; `hang`: it never comes back from its self-test, whose time limit is short; `alone`: no model
fits one card. Nothing in the engine knows of it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from types import ModuleType
from typing import Any

TRIAL = "tokenwell.engine.ranks.trial"


class Patch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the self-test as ever and puts the fault in its place."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name != TRIAL:
            return None
        sys.meta_path.remove(self)
        self._real = importlib.util.find_spec(name)
        assert self._real is not None
        return importlib.util.spec_from_loader(name, self, origin=self._real.origin)

    def exec_module(self, module: ModuleType) -> None:
        assert self._real is not None and self._real.loader is not None
        self._real.loader.exec_module(module)
        from tokenwell.engine.ranks import team

        if "alone" in FAULTS:
            team._ROOM = 1e12
        if "hang" in FAULTS:
            team.TRIAL_S = 1.5
        check = module.check

        def faulty(ranks: Any) -> None:
            if ranks.rank == 1 and "hang" in FAULTS:
                time.sleep(600)
            if ranks.rank == 1 and "wrong" in FAULTS:
                real = ranks._sum
                ranks._sum = lambda x: (real(x), x.add_(1))
            check(ranks)

        module.check = faulty  # type: ignore[attr-defined]


FAULTS = os.environ["RANK_FAULT"].split()
sys.meta_path.insert(0, Patch())
