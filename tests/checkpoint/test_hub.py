"""A repository of the hub, played by a server that answers ranges: what is fetched, and what is said when it answers badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.conftest import Tiny

from tokenwell.checkpoint.folder import read_folder
from tokenwell.checkpoint.hub import read_hub
from tokenwell.plan.card import read_card
from tokenwell.wire.errors import CheckpointError


class Hub(ThreadingHTTPServer):
    """Serves a folder as org/name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.sent: list[tuple[str, int]] = []
        self.ranges = True
        self.status = 200

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        """A file, or the range of it that is wanted."""
        file = self.server.folder / self.path.removeprefix("/org/name/resolve/main/")
        if self.server.status != 200 or not file.is_file():
            self.send_error(self.server.status if self.server.status != 200 else 404)
            return
        data = file.read_bytes()
        wanted = self.headers.get("range")
        if wanted and self.server.ranges:
            last = min(int(wanted.rpartition("-")[2]), len(data) - 1)
            self.send_response(206)
            self.send_header("content-range", f"bytes 0-{last}/{len(data)}")
            data = data[: last + 1]
        else:
            self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.server.sent.append((file.name, len(data)))
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tiny: Tiny) -> Iterator[Hub]:
    with Hub(tiny("qwen3-moe", hub_style=True)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("ranges", [True, False])
def test_config_and_headers_are_those_of_the_files(hub: Hub, ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwell.checkpoint.hub._GUESS_BYTES", 512)  # shorter than the headers: they take two requests
    hub.ranges = ranges
    config, tensors = read_hub("org/name", hub.endpoint)
    wanted, local = read_folder(hub.folder)
    assert config == wanted
    assert {name: (info.shape, info.dtype, info.nbytes) for name, info in tensors.items()} == {
        name: (info.shape, info.dtype, info.nbytes) for name, info in local.items()
    }
    if ranges:
        weights = sum(count for name, count in hub.sent if name.endswith(".safetensors"))
        assert weights < 0.2 * sum(info.nbytes for info in local.values())


def test_a_model_of_the_hub_has_the_card_of_its_files(hub: Hub) -> None:
    there, here = read_card("org/name", hub.endpoint), read_card(hub.folder)
    assert (there.layers, there.source) == (here.layers, "headers")
    assert set(there.tensors) == set(here.tensors)


def test_a_hub_that_does_not_answer_as_it_should_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"name2/resolve/main/config.json is not there"):
        read_hub("org/name2", hub.endpoint)
    hub.folder = tmp_path
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config.json is not valid JSON"):
        read_hub("org/name", hub.endpoint)
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match=r"model.safetensors answered 404"):
        read_hub("org/name", hub.endpoint)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match=r"model.safetensors is not a safetensors file"):
        read_hub("org/name", hub.endpoint)
    hub.status = 401
    with pytest.raises(CheckpointError, match="not for everybody"):
        read_hub("org/name", hub.endpoint)
    hub.status = 500
    with pytest.raises(CheckpointError, match="answered 500"):
        read_hub("org/name", hub.endpoint)
    with pytest.raises(CheckpointError, match="cannot be reached"):
        read_hub("org/name", "http://127.0.0.1:9")
