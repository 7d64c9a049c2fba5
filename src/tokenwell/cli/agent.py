"""`tokenwell agent`: lets a model work on one task in one folder, and shows every step."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tokenwell.agent.endpoint import Reply
from tokenwell.agent.loop import work
from tokenwell.agent.toolbox import Toolbox
from tokenwell.cli.reach import endpoint_at
from tokenwell.cli.screen import Screen
from tokenwell.config.settings import ServerSettings
from tokenwell.wire.errors import SettingsError

INTERRUPTED = 130  # as shells say it


class Watching(Screen):
    """A screen that counts as well."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = self.calls = self.prompt_tokens = self.tokens = 0

    def turn(self, reply: Reply) -> None:
        """An answer is over."""
        super().turn(reply)
        self.turns += 1
        self.calls += len(reply.calls)
        self.prompt_tokens += reply.prompt_tokens
        self.tokens += reply.tokens

    def summary(self, seconds: float) -> str:
        """All of it in one line."""
        calls = f"{self.calls} call{'' if self.calls == 1 else 's'}"
        turns = f"{self.turns} turn{'' if self.turns == 1 else 's'}"
        tokens = f"{self.prompt_tokens} tokens read, {self.tokens} written, " if self.prompt_tokens or self.tokens else ""
        return f"{turns}, {calls}, {tokens}{seconds:.1f} s"


def agent(
    task: str,
    server: ServerSettings,
    *,
    url: str | None,
    key: str | None,
    model: str | None,
    folder: Path,
    offline: bool,
    max_turns: int,
) -> int:
    """Work on `task`; returns the exit code. Raises SettingsError, EndpointError and UnfinishedError."""
    if not task.strip():
        raise SettingsError("the task is empty: say what is to be done")
    if max_turns < 1:
        raise SettingsError(f"--max-turns is {max_turns}, but must be 1 or more")
    try:
        if not folder.is_dir():
            raise SettingsError(f"--folder: there is no folder {folder}")
        toolbox = Toolbox(folder, offline=offline)
    except OSError as error:
        raise SettingsError(f"--folder: {folder} cannot be used: {error.strerror}") from error
    endpoint = endpoint_at(server, url, key, model)
    screen = Watching()
    screen.note(f"{endpoint.model} at {endpoint.base}, in {toolbox.folder.root}")
    started = time.monotonic()
    try:
        work(task, endpoint, toolbox, screen, max_turns=max_turns)
    except KeyboardInterrupt:
        screen.line_start()
        print("tokenwell: stopped; what was done until here stays", file=sys.stderr)
        return INTERRUPTED
    finally:
        screen.note(screen.summary(time.monotonic() - started))
    return 0
