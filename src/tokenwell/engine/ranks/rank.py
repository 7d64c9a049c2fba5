"""The life of a rank behind rank 0: meet the others, pass the self-test, load its share of the model, run what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenwell.engine.ranks.channel import RankChannel
from tokenwell.wire.messages import Choice, Heartbeat
from tokenwell.wire.pulse import Pulse
from tokenwell.wire.spec import EngineSpec

if TYPE_CHECKING:
    from tokenwell.engine.platform.base import Platform
    from tokenwell.engine.run.parallel import Ranks


def serve(rank: int, store: Path, spec: EngineSpec, channel: RankChannel) -> None:
    """Live as rank `rank` of `spec.tp`, until rank 0 says to leave or is gone."""
    pulse = Pulse(spec.events, spec.parent_pid)
    from tokenwell.engine.load import load

    def enter(stage: str) -> None:
        pulse.stage = stage
        channel.send(Heartbeat(0.0, stage))  # rank 0 waits for this and should not wait for the next beat

    def join(platform: Platform, weights_bytes: int) -> tuple[Ranks, Choice]:
        from tokenwell.engine.ranks import trial
        from tokenwell.engine.run.parallel import connect

        enter("meeting")
        ranks = connect(rank, spec.tp, platform.device, store)
        trial.check(ranks)
        trial.open_direct(ranks)
        enter("trusted")
        return ranks, Choice("rank", str(rank), f"one of {spec.tp}")

    worker = load(spec, join, rank).worker
    enter("serving")
    for plan in channel.plans():
        worker.draw(worker.launch(plan))
    worker.forget_recordings()  # the transport is closed next
    from tokenwell.engine.run.parallel import disconnect

    disconnect()
