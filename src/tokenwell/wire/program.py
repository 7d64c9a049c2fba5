"""The life of an engine program: its order decoded, its log set up, its last words sent. Knows nothing of what it computes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.errors import SettingsError, TokenwellError
from tokenwell.wire.messages import Fatal, Message
from tokenwell.wire.spec import EngineSpec, decode_spec


class Channel(Protocol):
    """What every program's channel can do."""

    def send(self, message: Message) -> None:
        """Queue a message."""

    def close(self) -> None:
        """Flush and close."""


C = TypeVar("C", bound=Channel)


def run(order: str, serve: Callable[[EngineSpec, EngineChannel], None], log: logging.Logger) -> int:
    """Serve by the spec that `order` holds as JSON. The exit status, 0 only when `serve` returned: after a Shutdown."""
    return run_over(EngineChannel, order, serve, log)


def run_over(connect: Callable[[str, str], C], order: str, serve: Callable[[EngineSpec, C], None], log: logging.Logger) -> int:
    """`run` with another channel, which `connect` makes of the spec's endpoints for commands and events."""
    try:
        spec = decode_spec(order)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=spec.log_level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    channel = connect(spec.commands, spec.events)
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
