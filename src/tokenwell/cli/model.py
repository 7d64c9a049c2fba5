"""From MODEL to a checkpoint folder that is there, or to a message that says how to get one. Reads no checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from tokenwell.bundled.checkpoint import NAME, bundled_checkpoint, scripted_folder
from tokenwell.config.load import Loaded, cache_folder
from tokenwell.config.settings import ScriptedSettings, Settings
from tokenwell.wire.errors import SettingsError

SCRIPTED = "scripted"  # as MODEL: the engine without a model; a folder of this name is served as ./scripted
_SCRIPTED_FORMAT = "hermes"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def with_model(loaded: Loaded) -> Settings:
    """The settings with a checkpoint folder in `model.path`; without MODEL the bundled one, under its own name.

    Raises SettingsError when what was named is no checkpoint folder, CheckpointError when the bundled one is not there.
    """
    path = loaded.settings.model.path
    if path == SCRIPTED:
        return _scripted(loaded)
    _refuse_scripted_settings(loaded)
    model = loaded.settings.model
    if path is None:
        model = msgspec.structs.replace(model, path=str(bundled_checkpoint()), name=model.name or [NAME])
    else:
        model = msgspec.structs.replace(model, path=str(_checked(path, loaded.origin("model.path"))))
    template = model.chat_template
    if template is not None and not Path(template).is_file():
        origin = loaded.origin("model.chat_template")
        raise SettingsError(f"there is no chat template file {template} (set by {origin}): check the path")
    return msgspec.structs.replace(loaded.settings, model=model)


def _scripted(loaded: Loaded) -> Settings:
    """The settings for the scripted engine: its own folder, and hermes unless another chat format was named."""
    model = loaded.settings.model
    if model.chat_template is not None:
        origin = loaded.origin("model.chat_template")
        raise SettingsError(f"model.chat_template (set by {origin}) cannot be used with the scripted engine, which reads its own")
    chat_format = _SCRIPTED_FORMAT if model.chat_format == "auto" else model.chat_format
    changed = msgspec.structs.replace(model, path=str(scripted_folder(cache_folder())), chat_format=chat_format)
    return msgspec.structs.replace(loaded.settings, model=changed)


def _refuse_scripted_settings(loaded: Loaded) -> None:
    """A pace or a fault that nothing obeys would mislead."""
    for key, value, origin in loaded:
        section, field = key.split(".")
        if section == "scripted" and value != getattr(ScriptedSettings(), field):
            raise SettingsError(
                f'{key} (set by {origin}) is obeyed by the scripted engine alone: serve "scripted" or leave it out'
            )


def _checked(path: str, origin: str) -> Path:
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SettingsError(f"{folder.absolute()} (set by {origin}) is no checkpoint folder: it has no config.json")
        return folder
    if folder.exists():
        raise SettingsError(
            f"{folder.absolute()} (set by {origin}) is a file; a model is a folder with config.json, tokenizer.json and "
            "*.safetensors (single files such as GGUF cannot be served yet)"
        )
    if _HUB_ID.fullmatch(path):
        local = path.rsplit("/", 1)[1]
        raise SettingsError(
            f"there is no folder {folder.absolute()} (set by {origin}), and models are not downloaded yet. If {path} is a model "
            f'on the Hugging Face Hub, get its folder with "hf download {path} --local-dir {local}" and name that folder'
        )
    raise SettingsError(f"there is no checkpoint folder {folder.absolute()} (set by {origin}): check the path")
