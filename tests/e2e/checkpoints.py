"""Variants of tiny checkpoints: the same weights with other words about them. Knows no service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def variant(
    folder: Path,
    target: Path,
    *,
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    template: str | None = None,
) -> Path:
    """A folder with the files of `folder` (linked) and changed entries in config.json, generation_config.json or the template."""
    target.mkdir(parents=True)
    changes: dict[str, dict[str, Any]] = {
        "config.json": config or {},
        "generation_config.json": generation or {},
        "tokenizer_config.json": {} if template is None else {"chat_template": template},
    }
    for file in folder.iterdir():
        if changed := changes.get(file.name):
            (target / file.name).write_text(json.dumps(json.loads(file.read_text()) | changed))
        else:
            (target / file.name).symlink_to(file)
    return target
