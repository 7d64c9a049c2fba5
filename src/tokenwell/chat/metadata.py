"""The small JSON files beside a checkpoint's weights, as plain data. Knows no meaning of any field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenwell.wire.errors import CheckpointError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises CheckpointError naming the file when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the checkpoint folder") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is not UTF-8 text ({error}); download the file again") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or {} when there is no such file. Raises CheckpointError naming the file and the place."""
    if not path.exists():
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error}); download the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__} where an object is expected; download the file again")
    return value
