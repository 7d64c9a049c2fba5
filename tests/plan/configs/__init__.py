"""config.json of published models, as on the hub. They tell shapes, nothing else of the models is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MODELS = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


def path_of(model: str) -> Path:
    """The file of a model, named as in MODELS."""
    return FOLDER / f"{model}.json"


def config_of(model: str) -> dict[str, Any]:
    """The config of a model, named as in MODELS."""
    config: dict[str, Any] = json.loads(path_of(model).read_text())
    return config
