"""One scripted service for all agents, a recorder before it, and a home of its own for every agent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.agents.recorder import Recorder
from tests.e2e.service import Service, serve

INSTALLED = Path(__file__).parents[2] / ".agents"  # `make test-agents` puts the agents there
NODE_24 = INSTALLED / "openclaw/node_modules/.bin"
_PATIENCE_S = 150


WINDOW = 131_072


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # A keep-alive comes before every answer: agents must take it for what it is.
    pace = ("--max-model-len", str(WINDOW), "--ttft-ms", "1500")
    keep_alive = {"TOKENWELL_SERVER_KEEP_ALIVE_S": "0.5"}
    with serve(Path("scripted"), tmp_path_factory.mktemp("service") / "log", *pace, environment=keep_alive) as running:
        yield running


@dataclass
class Workplace:
    """Where an agent lives and works: a home with what `tokenwell connect` wrote, an empty folder, and a recorder."""

    home: Path
    folder: Path
    recorder: Recorder

    def connect(self, client: str) -> str:
        """Let `tokenwell connect` write the configuration; what it says of the files."""
        done = self.run(sys.executable, "-m", "tokenwell", "connect", client, "--url", self.recorder.url, "--write")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *command: str, typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run an agent to its end, with `typed` as its standard input. It sees nothing of this machine's own configuration."""
        environment = {
            "HOME": str(self.home),
            "PATH": f"{NODE_24}:{os.environ['PATH']}",
            "NO_PROXY": "*",
            "TERM": "dumb",
            **variables,
        }
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )


@pytest.fixture
def workplace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Workplace]]:
    """`workplace(client)`: a home that `tokenwell connect CLIENT --write` has prepared, for the usual service or another one."""
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    with ExitStack() as open_:

        def prepared(client: str, service: Service | None = None) -> Workplace:
            chosen: Service = service or request.getfixturevalue("service")
            place = Workplace(home, folder, open_.enter_context(Recorder(chosen.port)))
            place.connect(client)
            place.recorder.exchanges.clear()
            return place

        yield prepared
