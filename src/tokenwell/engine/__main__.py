"""`python -m tokenwell.engine --spec '<json>'`: one engine process, started by the gateway or by hand.

With `--rank` it is one of the processes that rank 0 of such an engine starts, one for each further card.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

from tokenwell.config.load import cache_folder, preset_environment
from tokenwell.engine.kernels import cpu_kept
from tokenwell.engine.ranks import rank as ranks
from tokenwell.engine.ranks.channel import RankChannel
from tokenwell.engine.ranks.team import Team
from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.errors import SettingsError
from tokenwell.wire.program import run, run_over
from tokenwell.wire.pulse import Pulse
from tokenwell.wire.spec import EngineSpec

log = logging.getLogger("tokenwell.engine")

_QUIET_S = 60.0  # for a vocabulary: 262,144 tokens take two seconds of a fast core


def main() -> int:
    """Load, report Ready, serve. The exit status is 0 only after a Shutdown."""
    parser = argparse.ArgumentParser(prog="python -m tokenwell.engine", description="A Tokenwell engine process.")
    parser.add_argument("--rank", type=int, default=0, help="of the ranks that share the model; only rank 0 is started by hand")
    parser.add_argument("--store", type=Path, help="the file through which ranks meet")
    parser.add_argument("--spec", required=True, help="an EngineSpec as JSON")
    options = parser.parse_args()
    # Read by torch's allocator when it is imported: huge pages for big tensors, which halves the time to load weights.
    preset_environment("THP_MEM_ALLOC_ENABLE", "1")
    for library in ("GLOO", "NCCL"):  # ranks are processes of one machine: they meet where nobody else can come
        preset_environment(f"{library}_SOCKET_IFNAME", "lo")
    if options.rank == 0:
        return run(options.spec, _serve, log)
    serve = partial(ranks.serve, options.rank, options.store)
    return run_over(RankChannel, options.spec, serve, logging.getLogger(f"{log.name}.rank{options.rank}"))


def _serve(spec: EngineSpec, channel: EngineChannel) -> None:
    with suppress(SettingsError):  # without a home folder nothing is kept
        cpu_kept.keep_in(cache_folder() / "kernels")
    # The pulse starts before torch is imported: loading takes seconds, and silence would look like death.
    pulse = Pulse(spec.events, spec.parent_pid)
    with Team(spec) if spec.tp > 1 else nullcontext() as team:  # the other ranks import torch while this one does
        from tokenwell.engine.load import load, scheduler_for, warm_up
        from tokenwell.engine.loop import Loop

        loaded = load(spec) if team is None else load(spec, team.join)
        for note in loaded.notes:
            log.info("%s", note)
        for choice in loaded.ready.choices:
            log.info("%s: %s (%s)", choice.what, choice.chosen, choice.reason)
        warm_up(loaded)
        channel.send(loaded.ready)
        pulse.stage = "serving"
        loaded.worker.grammars.prepare(partial(pulse.quiet, _QUIET_S))
        loop = Loop(channel, scheduler_for(loaded.ready, spec.prefix_cache), loaded.worker, loaded.ready.vocab_size, pulse)
        loop.run()
        loaded.worker.forget_recordings()  # the transport is closed next


if __name__ == "__main__":
    sys.exit(main())
