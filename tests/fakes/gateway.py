"""Runs the real gateway in front of the fake engine: `python gateway.py SETTINGS_JSON ENGINE_ARGS_JSON`."""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
from pathlib import Path

import msgspec

from tokenwell.api.server import serve
from tokenwell.config.settings import Settings

ENGINE = Path(__file__).with_name("engine.py")

if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # a test that fails asks where everybody is
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    sys.exit(serve(settings, [sys.executable, str(ENGINE), *json.loads(sys.argv[2])]))
