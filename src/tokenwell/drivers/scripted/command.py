"""The command that starts a scripted engine as the settings say; the supervisor adds the spec. Imports nothing of the engine."""

from __future__ import annotations

import sys
from pathlib import Path

from tokenwell.config.settings import ScriptedSettings


def engine_command(settings: ScriptedSettings, chat_format: str, folder: Path) -> tuple[str, ...]:
    """`folder`: where engines of one service leave a note that the fault which is wanted once has happened."""
    flags = {
        "--chat-format": chat_format,
        "--tpot-ms": settings.tpot_ms,
        "--ttft-ms": settings.ttft_ms,
        "--die-after": settings.die_after,
        "--stall-after": settings.stall_after,
        "--garbage-after": settings.garbage_after,
        "--once": folder / "fault" if settings.fault_once else None,
    }
    given = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    return (sys.executable, "-m", "tokenwell.drivers.scripted", *given)
