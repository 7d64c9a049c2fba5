"""Which checkpoint folder the service is told to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenwell.bundled import checkpoint
from tokenwell.bundled.checkpoint import bundled_checkpoint
from tokenwell.cli.model import with_model
from tokenwell.config.load import load
from tokenwell.wire.errors import CheckpointError, SettingsError


def test_without_model_the_bundled_one_is_served_where_it_is_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = with_model(load({"server.port": "9000"}, None, {}))
    assert settings.model.path == str(bundled_checkpoint())
    assert settings.model.name == ["tokenwell-mini"]
    assert settings.server.port == 9000
    assert list(tmp_path.iterdir()) == []
    assert with_model(load({"model.name": ["mine"]}, None, {})).model.name == ["mine"]


def test_an_installation_without_the_bundled_model_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_MINI", tmp_path / "mini")
    with pytest.raises(CheckpointError, match=r"is missing from .*mini: install Tokenwell anew, or name a checkpoint folder"):
        with_model(load({}, None, {}))


@pytest.mark.parametrize("path", ["mine", "./mine", "org/mine"])
def test_a_folder_that_is_there_is_served_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(path).mkdir(parents=True)
    (Path(path) / "config.json").write_text("{}")
    assert Path(with_model(load({"model.path": path}, None, {})).model.path or "") == Path(path)


def test_scripted_is_an_engine_and_not_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = with_model(load({"model.path": "scripted", "scripted.die_after": "3"}, None, {}))
    assert settings.model.path is not None
    assert sorted(path.name for path in Path(settings.model.path).iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (settings.model.chat_format, settings.scripted.die_after) == ("hermes", 3)
    named = with_model(load({"model.path": "scripted", "model.chat_format": "gemma4"}, None, {}))
    assert named.model.chat_format == "gemma4"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scripted.die_after": "3"}, "scripted.die_after (set by --die-after) is obeyed by the scripted engine alone"),
        ({"scripted.tpot_ms": "1"}, "scripted.tpot_ms (set by --tpot-ms)"),
        ({"model.path": "scripted", "model.chat_template": "x"}, "model.chat_template (set by --chat-template) cannot be used"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        with_model(load(given, None, {}))
    assert said in str(refused.value)
