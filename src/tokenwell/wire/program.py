"""The life of an engine program: its order decoded, its log set up, its last words sent. Knows nothing of what it computes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.errors import SettingsError, TokenwellError
from tokenwell.wire.messages import Fatal
from tokenwell.wire.spec import EngineSpec, decode_spec


def run(order: str, serve: Callable[[EngineSpec, EngineChannel], None], log: logging.Logger) -> int:
    """Serve by the spec that `order` holds as JSON. The exit status, 0 only when `serve` returned: after a Shutdown."""
    try:
        spec = decode_spec(order)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=spec.log_level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    channel = EngineChannel(spec.commands, spec.events)
    try:
        serve(spec, channel)
    except TokenwellError as error:
        log.error("%s", error)
        channel.send(Fatal(str(error), retry=False))
        return 1
    except Exception as error:
        log.exception("the engine ends itself")
        channel.send(Fatal(f"{type(error).__name__}: {error}", retry=True))
        return 1
    finally:
        channel.close()
    return 0
