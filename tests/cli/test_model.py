"""Which checkpoint folder the service is told to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenwell.cli.model import with_model
from tokenwell.config.load import load


def test_without_model_the_bundled_one_is_built_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = with_model(load({"server.port": "9000"}, None, {}))
    assert settings.model.path is not None
    assert Path(settings.model.path).is_relative_to(tmp_path / "tokenwell")
    assert (Path(settings.model.path) / "model.safetensors").is_file()
    assert Path(settings.model.path).name == "tokenwell-tiny"
    assert settings.server.port == 9000


@pytest.mark.parametrize("path", ["mine", "./mine", "org/mine"])
def test_a_folder_that_is_there_is_served_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(path).mkdir(parents=True)
    (Path(path) / "config.json").write_text("{}")
    assert Path(with_model(load({"model.path": path}, None, {})).model.path or "") == Path(path)
