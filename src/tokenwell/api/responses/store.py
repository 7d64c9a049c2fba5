"""Stored responses: a file on disk with a bound in bytes and in number; the oldest go first.

One SQLite file, used from one thread of its own, so that the event loop never waits for a disk. A file that is damaged is put
aside and begun anew, loudly: what it held can be asked for again, a service that does not start cannot. Knows items and
responses as JSON only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tokenwell.config.load import state_folder
from tokenwell.config.settings import StoreSettings

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")
Json = dict[str, Any]

FILE_NAME = "responses.sqlite3"
_LAYOUT = 1  # of the table and of what is in it; a file of another layout is begun anew
_BUSY_S = 5.0  # how long another service that uses the same file is waited for

_log = logging.getLogger("tokenwell.api")


class Stored(msgspec.Struct, frozen=True):
    """A response and everything that came before it: the items of all earlier responses that it continued."""

    response: Json
    items: list[Json]

    def history(self) -> list[Json]:
        """What a response that continues this one starts with."""
        output: list[Json] = self.response.get("output", [])
        return [*self.items, *output]


_decode = msgspec.json.Decoder(Stored).decode


class ResponseStore:
    """Responses by id. `folder` None or a bound of 0: nothing is stored."""

    def __init__(self, folder: Path | None, max_bytes: int, max_responses: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_responses = max_responses
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    @property
    def stores(self) -> bool:
        """False when it is switched off."""
        return self._folder is not None and self._max_bytes > 0 and self._max_responses > 0

    async def put(self, id: str, stored: Stored) -> None:
        """Keep a response, or replace it. A disk that cannot be written is told in the log: the answer itself is not lost."""
        if not self.stores:
            return
        data = await asyncio.to_thread(_pack, stored)
        if len(data) > self._max_bytes:
            _log.warning("response %s is larger than the store (store.max_mib) and was not kept", id)
            return
        try:
            await self._do(lambda: self._put(id, data))
        except _failures() as error:
            _log.error("response %s could not be stored in %s: %s", id, self._folder, error)

    async def get(self, id: str) -> Stored | None:
        """The response; None when it is not there, or not any more."""
        if not self.stores:
            return None
        try:
            data = await self._do(lambda: self._get(id))
        except _failures() as error:
            _log.error("the stored responses in %s cannot be read: %s", self._folder, error)
            return None
        return None if data is None else await asyncio.to_thread(_unpack, id, data)

    async def delete(self, id: str) -> bool:
        """Forget a response. False when it is not there."""
        if not self.stores:
            return False
        try:
            return await self._do(lambda: self._delete(id))
        except _failures() as error:
            _log.error("response %s could not be deleted from %s: %s", id, self._folder, error)
            return False

    def close(self) -> None:
        """Let go of the file."""
        if self._thread is not None:
            self._thread.submit(self._disconnect).result()
            self._thread.shutdown()
            self._thread = None

    # ------------------------------------------------------------------ in the thread

    async def _do(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "tokenwell-responses")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._mended, work)

    def _mended(self, work: Callable[[], T]) -> T:
        """`work`, once more with a new file if the old one turns out to be damaged."""
        import sqlite3  # only who stores responses pays for it

        try:
            return work()
        except sqlite3.OperationalError:
            raise  # locked, full or not writable: the file itself is sound
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
            return work()

    def _put_aside(self, error: Exception) -> None:
        self._disconnect()
        path = self._path()
        aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        _log.error("the stored responses in %s are damaged (%s); the file is now %s and a new one was begun", path, error, aside)

    def _path(self) -> Path:
        assert self._folder is not None  # nothing is called when nothing is stored
        return self._folder / FILE_NAME

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        import sqlite3

        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)  # conversations are nobody else's business
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            [layout] = connection.execute("PRAGMA user_version").fetchone()
            if layout != _LAYOUT:
                connection.execute("DROP TABLE IF EXISTS responses")
                connection.execute(
                    "CREATE TABLE responses (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, size INTEGER, data BLOB)"
                )
                connection.execute(f"PRAGMA user_version = {_LAYOUT}")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*_failures()):  # a damaged file may refuse even this
                self._connection.close()
            self._connection = None

    def _put(self, id: str, data: bytes) -> None:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("INSERT OR REPLACE INTO responses (id, size, data) VALUES (?, ?, ?)", (id, len(data), data))
            self._make_room(connection)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(*_failures()):
                connection.execute("ROLLBACK")
            raise

    def _make_room(self, connection: sqlite3.Connection) -> None:
        count, size = connection.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM responses").fetchone()
        while count > self._max_responses or size > self._max_bytes:
            number, freed = connection.execute("SELECT number, size FROM responses ORDER BY number LIMIT 1").fetchone()
            connection.execute("DELETE FROM responses WHERE number = ?", (number,))
            count, size = count - 1, size - freed

    def _get(self, id: str) -> bytes | None:
        row = self._open().execute("SELECT data FROM responses WHERE id = ?", (id,)).fetchone()
        return None if row is None else bytes(row[0])

    def _delete(self, id: str) -> bool:
        return self._open().execute("DELETE FROM responses WHERE id = ?", (id,)).rowcount > 0


def open_store(settings: StoreSettings) -> ResponseStore:
    """The store that the settings describe; its file is touched when the first response is kept or asked for."""
    folder = state_folder() if settings.folder is None else Path(settings.folder)
    if folder is None:
        _log.warning("responses are not stored: there is no home folder; set store.folder")
    return ResponseStore(folder, settings.max_mib * 2**20, settings.max_responses)


def _pack(stored: Stored) -> bytes:
    return zlib.compress(msgspec.json.encode(stored), 3)


def _unpack(id: str, data: bytes) -> Stored | None:
    try:
        return _decode(zlib.decompress(data))
    except (zlib.error, msgspec.DecodeError) as error:
        _log.error("the stored response %s is damaged and counts as lost: %s", id, error)
        return None


def _failures() -> tuple[type[Exception], ...]:
    """What a disk and a database on it may raise."""
    import sqlite3

    return (sqlite3.Error, OSError)
