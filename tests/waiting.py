"""How long tests wait, and at which ports: the machine that they run on may be slow, busy, or stopped for a while."""

from __future__ import annotations

import itertools
import os
import socket

# How long to wait for what must come. Only a hang lasts longer, whatever else the machine has to do.
PATIENCE_S = 60.0

_PORTS_A_WORKER = 900


def _mine() -> itertools.cycle[int]:
    """Ports that no system gives to outgoing connections; each process of a parallel run has its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
    first, turn = 10_000 + worker * _PORTS_A_WORKER, os.getpid()
    return itertools.cycle([first + (turn + step) % _PORTS_A_WORKER for step in range(_PORTS_A_WORKER)])


_ports = _mine()


def free_port() -> int:
    """A port that nobody listens on, and that this process gives away for the first time in a long while."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("a cycle has no end")
