"""`python -m tokenwell.engine --spec '<json>'`: one engine process, started by the gateway or by hand."""

from __future__ import annotations

import argparse
import logging
import sys

from tokenwell.config.load import preset_environment
from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.program import run
from tokenwell.wire.pulse import Pulse
from tokenwell.wire.spec import EngineSpec

log = logging.getLogger("tokenwell.engine")


def main() -> int:
    """Load, report Ready, serve. The exit status is 0 only after a Shutdown."""
    parser = argparse.ArgumentParser(prog="python -m tokenwell.engine", description="A Tokenwell engine process.")
    parser.add_argument("--spec", required=True, help="an EngineSpec as JSON")
    return run(parser.parse_args().spec, _serve, log)


def _serve(spec: EngineSpec, channel: EngineChannel) -> None:
    # Read by torch's allocator when it is imported: huge pages for big tensors, which halves the time to load weights.
    preset_environment("THP_MEM_ALLOC_ENABLE", "1")
    # The pulse starts before torch is imported: loading takes seconds, and silence would look like death.
    pulse = Pulse(spec.events, spec.parent_pid)
    from tokenwell.engine.load import load, scheduler_for, warm_up
    from tokenwell.engine.loop import Loop

    loaded = load(spec)
    for note in loaded.notes:
        log.info("%s", note)
    for choice in loaded.ready.choices:
        log.info("%s: %s (%s)", choice.what, choice.chosen, choice.reason)
    warm_up(loaded)
    channel.send(loaded.ready)
    pulse.stage = "serving"
    loop = Loop(channel, scheduler_for(loaded.ready, spec.prefix_cache), loaded.worker, loaded.ready.vocab_size, pulse)
    loop.run()


if __name__ == "__main__":
    sys.exit(main())
