"""Values set in TOML, YAML and environment files."""

from __future__ import annotations

import tomllib

import pytest

from tokenwell.cli.connect.json5 import NotReadable
from tokenwell.cli.connect.lines import env_with_values, toml_with_values, yaml_with_values

CODEX = """# mine
model = "gpt-5.6" # the usual
approval_policy = "never"

[model_providers.other]
base_url = "http://other"

[mcp_servers.docs]
command = "docs"
"""
VALUES: dict[tuple[str, ...], object] = {
    ("model",): "m",
    ("model_context_window",): 4096,
    ("model_providers", "tokenwell", "base_url"): "http://x/v1",
    ("model_providers", "tokenwell", "requires_openai_auth"): False,
}


def test_toml() -> None:
    changed = toml_with_values(CODEX, VALUES)
    tree = tomllib.loads(changed)
    assert (tree["model"], tree["model_context_window"], tree["approval_policy"]) == ("m", 4096, "never")
    assert tree["model_providers"] == {
        "other": {"base_url": "http://other"},
        "tokenwell": {"base_url": "http://x/v1", "requires_openai_auth": False},
    }
    assert "# mine\n" in changed and "[mcp_servers.docs]\ncommand" in changed
    assert toml_with_values(changed, VALUES) == changed
    assert toml_with_values(toml_with_values("", VALUES), VALUES) == toml_with_values("", VALUES)
    assert tomllib.loads(toml_with_values("[tui]\nx = 1\n", VALUES))["tui"] == {"x": 1}


def test_toml_with_an_own_table_in_another_spelling() -> None:
    changed = toml_with_values('[ model_providers . "tokenwell" ]\nbase_url = "old"\nextra = 1\n', VALUES)
    assert tomllib.loads(changed)["model_providers"]["tokenwell"]["extra"] == 1
    assert changed.count("base_url") == 1


@pytest.mark.parametrize(
    "text",
    [
        "model_providers = { tokenwell = { base_url = 'x' } }",
        'notes = """\nmodel = 1\n"""',
        "broken = ",
        "model_providers = 1",
        "[[model_providers]]\nx = 1",
    ],
)
def test_toml_that_cannot_be_changed_is_refused(text: str) -> None:
    with pytest.raises(NotReadable):
        toml_with_values(text, VALUES)


def test_yaml() -> None:
    text = "# mine\nmodel: gpt\ndark-mode: true\nread:\n  - a.md\n"
    changed = yaml_with_values(text, {("model",): "openai/m", ("openai-api-base",): "http://x/v1"})
    assert changed == '# mine\nmodel: "openai/m"\ndark-mode: true\nread:\n  - a.md\nopenai-api-base: "http://x/v1"\n'


def test_env() -> None:
    changed = env_with_values("# mine\nexport A=1\nAB=2\n", {("A",): "x", ("C",): "y z"})
    assert changed == "# mine\nA=x\nAB=2\nC=y z\n"
