"""`tokenwell connect` as a program against a running service, in a home folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.checkpoint import write_checkpoint
from tests.fakes.running import Running
from tests.waiting import PATIENCE_S, free_port

from tokenwell.cli.connect.command import CLIENTS, checked_url, own_url
from tokenwell.config.settings import ServerSettings
from tokenwell.wire.errors import SettingsError

Connect = Callable[..., subprocess.CompletedProcess[str]]
PROGRAM = str(Path(sys.executable).parent / "tokenwell")
KEY = "sk-for-the-tests"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that wants a key."""
    folder = tmp_path_factory.mktemp("connect")
    with Running(write_checkpoint(folder / "model"), folder, server={"api_key": [KEY]}) as running:
        yield running.ready()


@pytest.fixture
def connect(tmp_path: Path) -> Connect:
    """Runs the program with nothing in its environment but an empty home."""

    def _connect(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, "connect", *arguments],
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    return _connect


FILES = {
    "openclaw": [".openclaw/openclaw.json"],
    "claude-code": [".claude/settings.json"],
    "codex": [".codex/config.toml"],
    "opencode": [".config/opencode/opencode.json"],
    "open-webui": [".config/open-webui/tokenwell.env"],
    "aider": [".aider.conf.yml", ".aider.model.metadata.json"],
}


def _check(client: str, texts: list[str], url: str) -> None:
    window, output = 512, 128  # the fake engine's window, and a quarter of it
    if client == "openclaw":
        tree = json.loads(texts[0])
        provider = tree["models"]["providers"]["tokenwell"]
        [model] = provider["models"]
        assert (provider["baseUrl"], provider["apiKey"], provider["api"]) == (f"{url}/v1", KEY, "openai-completions")
        assert (model["id"], model["contextWindow"], model["maxTokens"]) == ("fake", window, output)
        assert tree["agents"]["defaults"]["model"]["primary"] == "tokenwell/fake"
    elif client == "claude-code":
        env = json.loads(texts[0])["env"]
        assert (env["ANTHROPIC_BASE_URL"], env["ANTHROPIC_AUTH_TOKEN"], env["ANTHROPIC_MODEL"]) == (url, KEY, "fake")
        assert (env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"], env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"]) == (str(output), str(window))
        assert all(isinstance(value, str) for value in env.values())
    elif client == "codex":
        tree = tomllib.loads(texts[0])
        provider = tree["model_providers"][tree["model_provider"]]
        assert (tree["model"], tree["model_context_window"], tree["model_auto_compact_token_limit"]) == ("fake", window, 384)
        assert (provider["base_url"], provider["wire_api"]) == (f"{url}/v1", "responses")
        assert provider["experimental_bearer_token"] == KEY
    elif client == "opencode":
        tree = json.loads(texts[0])
        provider = tree["provider"]["tokenwell"]
        assert provider["options"] == {"baseURL": f"{url}/v1", "apiKey": KEY}
        assert provider["models"]["fake"]["limit"] == {"context": window, "output": output}
        assert (provider["npm"], tree["model"]) == ("@ai-sdk/openai-compatible", "tokenwell/fake")
    elif client == "open-webui":
        env = dict(line.split("=", 1) for line in texts[0].splitlines())
        assert (env["OPENAI_API_BASE_URL"], env["OPENAI_API_KEY"]) == (f"{url}/v1", KEY)
    else:
        settings = dict(line.split(": ", 1) for line in texts[0].splitlines())
        assert json.loads(settings["openai-api-base"]) == f"{url}/v1" and json.loads(settings["model"]) == "openai/fake"
        assert json.loads(texts[1])["openai/fake"]["max_input_tokens"] == window


@pytest.mark.parametrize("client", list(CLIENTS))
def test_what_is_printed_is_what_is_written(connect: Connect, gateway: Running, tmp_path: Path, client: str) -> None:
    printed = connect(client, "--url", gateway.url, "--api-key", KEY)
    assert printed.returncode == 0, printed.stderr
    assert not list(tmp_path.iterdir())
    assert "fake" in printed.stderr and "512" in printed.stderr
    written = connect(client, "--url", f"{gateway.url}/v1/", "--api-key", KEY, "--write")
    assert written.returncode == 0, written.stderr
    paths = [tmp_path / name for name in FILES[client]]
    texts = [path.read_text() for path in paths]
    assert all(path.stat().st_mode & 0o077 == 0 for path in paths)
    _check(client, texts, gateway.url)
    assert all(text in printed.stdout for text in texts)
    if len(texts) == 1:
        assert printed.stdout == texts[0]
    again = connect(client, "--url", gateway.url, "--api-key", KEY, "--write")
    assert again.stdout.count("already so") == len(paths)
    assert not list(tmp_path.rglob("*.bak-*"))


def test_writing_keeps_a_copy_and_everything_else(connect: Connect, gateway: Running, tmp_path: Path) -> None:
    path = tmp_path / ".claude/settings.json"
    path.parent.mkdir()
    old = '{\n  "permissions": {"allow": ["Bash(ls)"]},\n  "env": {"EDITOR": "vi", "ANTHROPIC_MODEL": "opus"}\n}\n'
    path.write_text(old)
    path.chmod(0o640)
    done = connect("claude-code", "--url", gateway.url, "--api-key", KEY, "--write")
    tree: dict[str, Any] = json.loads(path.read_text())
    assert tree["permissions"] == {"allow": ["Bash(ls)"]}
    assert (tree["env"]["EDITOR"], tree["env"]["ANTHROPIC_MODEL"]) == ("vi", "fake")
    assert path.stat().st_mode & 0o777 == 0o640
    [backup] = path.parent.glob("settings.json.bak-*")
    assert backup.read_text() == old and backup.name in done.stdout


def test_a_broken_file_is_left_alone(connect: Connect, gateway: Running, tmp_path: Path) -> None:
    path = tmp_path / ".aider.model.metadata.json"
    path.write_text("{ broken")
    done = connect("aider", "--url", gateway.url, "--api-key", KEY, "--write")
    assert done.returncode == 1 and "cannot be changed safely" in done.stderr and str(path) in done.stderr
    assert path.read_text() == "{ broken" and not (tmp_path / ".aider.conf.yml").exists()


@pytest.mark.parametrize("old", ['{\n  // mine\n  "env": {}\n}\n', '{"env": {},}', "[1"])
def test_claude_code_reads_plain_json_only(connect: Connect, gateway: Running, tmp_path: Path, old: str) -> None:
    """It ignores a file with comments as a whole, so that a setting in it would be there for nothing."""
    path = tmp_path / ".claude/settings.json"
    path.parent.mkdir()
    path.write_text(old)
    done = connect("claude-code", "--url", gateway.url, "--api-key", KEY, "--write")
    assert done.returncode == 1 and f"{path} cannot be changed safely: it is not plain JSON" in done.stderr
    assert path.read_text() == old


@pytest.mark.parametrize(
    ("client", "place"), [("openclaw", ".openclaw/openclaw.json"), ("opencode", ".config/opencode/opencode.jsonc")]
)
def test_comments_stay_where_the_client_reads_them(
    connect: Connect, gateway: Running, tmp_path: Path, client: str, place: str
) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text("{\n  // mine\n}\n")
    assert connect(client, "--url", gateway.url, "--api-key", KEY, "--write").returncode == 0
    assert "// mine" in path.read_text() and gateway.url in path.read_text()


def test_the_service_and_its_key_are_known_from_the_settings(connect: Connect, gateway: Running) -> None:
    environ = {"TOKENWELL_SERVER_PORT": str(gateway.port), "TOKENWELL_SERVER_API_KEY": KEY}
    done = connect("codex", **environ)
    assert tomllib.loads(done.stdout)["model_providers"]["tokenwell"]["base_url"] == f"{gateway.url}/v1"


def test_errors_say_what_to_do(connect: Connect, gateway: Running) -> None:
    nobody = connect("codex", "--url", f"127.0.0.1:{free_port()}")
    assert nobody.returncode == 1 and "tokenwell serve" in nobody.stderr and not nobody.stdout
    assert "--api-key" in connect("codex", "--url", gateway.url).stderr
    missing = connect("codex", "--url", gateway.url, "--api-key", KEY, "--model", "other")
    assert missing.returncode == 1 and "it serves fake" in missing.stderr
    assert "not a model service" in connect("codex", "--url", f"{gateway.url}/nowhere", "--api-key", KEY).stderr
    unknown = connect("emacs")
    assert unknown.returncode == 2 and "opencode" in unknown.stderr
    assert connect("codex", "--url", "http://").returncode == 2


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://x:99999", "http://x y", "http://x/?a=1"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(SettingsError, match="--url"):
        checked_url(url)


def test_addresses() -> None:
    assert checked_url("host:1/v1") == "http://host:1" and checked_url("https://h/p/v1/") == "https://h/p"
    assert own_url(ServerSettings(host="0.0.0.0")) == "http://127.0.0.1:8000"
    assert own_url(ServerSettings(host="::", port=1)) == "http://[::1]:1"
    assert own_url(ServerSettings(host="box.lan")) == "http://box.lan:8000"
