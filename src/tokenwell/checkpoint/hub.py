"""A repository of the Hugging Face Hub: its config.json and the headers of its weight files, by requests for ranges of bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenwell.checkpoint.folder import INDEX, files_of
from tokenwell.checkpoint.safetensors import LENGTH_BYTES, MAX_HEADER_BYTES, TensorInfo, parse_header
from tokenwell.wire.errors import CheckpointError

if TYPE_CHECKING:
    import httpx2

ENDPOINT = "https://huggingface.co"
_AT_ONCE = 8
_GUESS_BYTES = 256 << 10  # most headers are shorter: then one request is enough
_TIMEOUT_S = 20.0


def read_hub(model: str, endpoint: str = ENDPOINT, token: str | None = None) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """config.json and every tensor by name. Raises CheckpointError naming the address that does not answer as it should."""
    import httpx2  # here, because plans of local files need no network

    headers = {"authorization": f"Bearer {token}"} if token else {}
    base = f"{endpoint.rstrip('/')}/{model}/resolve/main"
    try:
        with httpx2.Client(headers=headers, timeout=_TIMEOUT_S, follow_redirects=True) as client:
            hub = _Hub(client, base)
            config = hub.object("config.json")
            if config is None:
                raise CheckpointError(f"{base}/config.json is not there: check the model's id, or give a folder.")
            index = hub.object(INDEX)
            names = sorted(set(files_of(f"{base}/{INDEX}", index).values())) if index is not None else ["model.safetensors"]
            return config, _merged(hub, names)
    except httpx2.HTTPError as error:
        raise CheckpointError(
            f"{base} cannot be reached ({error or type(error).__name__}): give a downloaded model's folder, or its config.json."
        ) from error


class _Hub:
    """One repository."""

    def __init__(self, client: httpx2.Client, base: str) -> None:
        self.client = client
        self.base = base

    def object(self, file: str) -> dict[str, Any] | None:
        """A JSON object; None if there is no such file."""
        answer = self.client.get(f"{self.base}/{file}")
        if answer.status_code == 404:
            return None
        self._check(answer, file)
        try:
            value = json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.base}/{file} is not valid JSON: {error}.") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.base}/{file} must hold a JSON object, not {type(value).__name__}.")
        return value

    def header(self, file: str) -> dict[str, TensorInfo]:
        """The tensors of a file, from its first bytes."""
        data, size = self._range(file, _GUESS_BYTES)
        length = int.from_bytes(data[:LENGTH_BYTES], "little")
        if LENGTH_BYTES + length > len(data) and length <= MAX_HEADER_BYTES and len(data) < size:
            data, size = self._range(file, LENGTH_BYTES + length)
        return parse_header(Path(f"{self.base}/{file}"), data, size)

    def _range(self, file: str, count: int) -> tuple[bytes, int]:
        """The first bytes of a file, and its size. An answer with the whole file instead is not read to its end."""
        with self.client.stream("GET", f"{self.base}/{file}", headers={"range": f"bytes=0-{count - 1}"}) as answer:
            self._check(answer, file)
            data = b""
            for piece in answer.iter_bytes():
                data += piece
                if len(data) >= count:
                    break
            total = answer.headers.get("content-range", "").rpartition("/")[2] or answer.headers.get("content-length", "")
        return data[:count], int(total) if total.isdigit() else len(data)

    def _check(self, answer: httpx2.Response, file: str) -> None:
        if answer.status_code in (401, 403):
            raise CheckpointError(
                f"{self.base}/{file} is not for everybody ({answer.status_code}): get access on the hub, download the model, and "
                "give its folder."
            )
        if answer.status_code not in (200, 206):
            raise CheckpointError(f"{self.base}/{file} answered {answer.status_code}: check the model's id, or try again.")


def _merged(hub: _Hub, names: Iterable[str]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for found in pool.map(hub.header, names):
            tensors.update(found)
    return tensors
