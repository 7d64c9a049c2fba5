"""The declarations: what a model reads, and that what is declared is what is done."""

from __future__ import annotations

from pathlib import Path

import jsonschema

from tokenwell.agent.toolbox import Toolbox
from tokenwell.agent.tools import NAMES, TOOLS


def test_every_tool_is_declared_with_flat_texts_and_a_description_of_each() -> None:
    for tool in TOOLS:
        function = tool["function"]
        assert function["description"].endswith(".")
        parameters = function["parameters"]
        jsonschema.Draft202012Validator.check_schema(parameters)
        assert set(parameters["required"]) <= set(parameters["properties"])
        for parameter in parameters["properties"].values():
            assert parameter["type"] == "string" and parameter["description"]


def test_every_declared_tool_does_something(tmp_path: Path) -> None:
    box = Toolbox(tmp_path)
    for name in NAMES:
        assert "needs" in box.run(name, "{}")
