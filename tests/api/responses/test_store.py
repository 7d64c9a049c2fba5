"""The store on disk: bounds, restarts, damage."""

from __future__ import annotations

import random
import stat
from pathlib import Path
from typing import Any

import pytest

from tokenwell.api.responses.store import FILE_NAME, ResponseStore, Stored, open_store
from tokenwell.config.load import state_folder
from tokenwell.config.settings import StoreSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def response(text: str) -> Stored:
    return Stored({"output": [{"text": text}]}, [{"role": "user", "content": "q"}])


def noise(number: int, size: int = 10_000) -> Stored:
    """A response that does not compress."""
    return response(random.Random(number).randbytes(size).hex())


async def ids(store: ResponseStore, count: int) -> list[int]:
    return [number for number in range(count) if await store.get(f"r{number}") is not None]


async def test_it_survives_a_restart_and_is_private(tmp_path: Path) -> None:
    first = ResponseStore(tmp_path / "deep" / "state", 2**20, 10)
    await first.put("r", response("é"))
    first.close()
    second = ResponseStore(tmp_path / "deep" / "state", 2**20, 10)
    found = await second.get("r")
    assert found == response("é") and found.history() == [{"role": "user", "content": "q"}, {"text": "é"}]
    assert stat.S_IMODE((tmp_path / "deep" / "state" / FILE_NAME).stat().st_mode) == 0o600
    assert await second.delete("r") and not await second.delete("r") and await second.get("r") is None
    second.close()


async def test_the_oldest_go_first(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path, 2**30, 3)
    for number in range(5):
        await store.put(f"r{number}", response("x"))
    assert await ids(store, 5) == [2, 3, 4]
    await store.put("r2", response("again"))  # a replaced response is new
    await store.put("r5", response("x"))
    assert await ids(store, 6) == [2, 4, 5]
    store.close()


async def test_the_size_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ResponseStore(tmp_path, 40_000, 100)
    for number in range(6):
        await store.put(f"r{number}", noise(number))
    assert await ids(store, 6) == [3, 4, 5]
    await store.put("huge", noise(9, 100_000))
    assert await store.get("huge") is None and "larger than the store" in caplog.text
    assert await ids(store, 6) == [3, 4, 5]
    store.close()


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 8000])
async def test_a_damaged_file_is_put_aside_loudly(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    store = ResponseStore(tmp_path, 2**20, 10)
    await store.put("r", response("x"))
    assert await store.get("r") == response("x")
    assert "damaged" in caplog.text
    [aside] = tmp_path.glob(FILE_NAME + ".damaged-*")
    assert aside.read_bytes() == damage
    store.close()


async def test_a_damaged_row_counts_as_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ResponseStore(tmp_path, 2**20, 10)
    await store.put("r", response("x"))
    store._open().execute("UPDATE responses SET data = x'00'")
    assert await store.get("r") is None and "counts as lost" in caplog.text
    store.close()


async def test_a_folder_that_cannot_be_written_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = ResponseStore(tmp_path / "file", 2**20, 10)
    await store.put("r", response("x"))
    assert await store.get("r") is None and not await store.delete("r")
    assert "could not be stored" in caplog.text and "cannot be read" in caplog.text
    store.close()


async def test_switched_off(tmp_path: Path) -> None:
    store = open_store(StoreSettings(folder=str(tmp_path / "none"), max_mib=0))
    await store.put("r", response("x"))
    assert not store.stores and await store.get("r") is None and not (tmp_path / "none").exists()


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, Any] = {"HOME": "/home/somebody"}
    assert state_folder(environment) == Path("/home/somebody/.local/state/tokenwell")
    assert state_folder({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "tokenwell"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert open_store(StoreSettings()).stores
