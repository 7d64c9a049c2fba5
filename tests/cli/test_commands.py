"""The installed `tokenwell` program: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.waiting import PATIENCE_S

from tokenwell import __version__
from tokenwell.config.allowed import ALLOWED
from tokenwell.config.load import FLAGS

Run = Callable[..., subprocess.CompletedProcess[str]]
PROGRAM = str(Path(sys.executable).parent / "tokenwell")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the program in an empty folder with nothing but `environ` set."""

    def _run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *arguments],
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    return _run


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tokenwell {__version__}\n", "")


def test_the_program_starts_light() -> None:
    heavy = "{'torch', 'numpy', 'rich', 'uvicorn', 'starlette', 'httpx2', 'tokenizers', 'jinja2', 'psutil', 'zmq'}"
    code = f"import sys, tokenwell.cli.main; sys.exit(' '.join({heavy} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_help_names_every_flag(run: Run) -> None:
    text = run("serve", "--help").stdout
    for flag in (*FLAGS.values(), "--name", "--config"):
        assert f" {flag} " in text or f" {flag}, " in text or f", {flag} " in text, flag
    assert "[[" not in text


def test_without_a_command_there_is_help(run: Run) -> None:
    done = run()
    assert "serve" in done.stdout + done.stderr
    assert done.returncode == 2


# ---------------------------------------------------------------- config show


def test_every_setting_is_shown_with_its_origin(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tokenwell.toml").write_text("[server]\nport = 9000\n[engine]\nthreads = 1\n")
    done = run("config", "show", "--threads", "3", "--no-prefix-cache", TOKENWELL_LOG_LEVEL="debug")
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split(" = ")[0].lstrip("# "): line for line in done.stdout.splitlines() if " = " in line}
    assert list(lines) == [key.split(".")[1] for key in ALLOWED]
    assert lines["port"].split() == ["port", "=", "9000", "#", "tokenwell.toml:2"]
    assert lines["threads"].split() == ["threads", "=", "3", "#", "--threads"]
    assert lines["prefix_cache"].split() == ["prefix_cache", "=", "false", "#", "--no-prefix-cache"]
    assert lines["level"].split() == ["level", "=", '"debug"', "#", "TOKENWELL_LOG_LEVEL"]
    assert lines["max_model_len"].split() == ["#", "max_model_len", "=", "(not", "set)", "#", "default"]


def test_what_is_shown_is_a_settings_file(run: Run, tmp_path: Path) -> None:
    first = run("config", "show", "--port", "9000", "--name", "a", "--name", 'b"😀', "--kv-cache-gib", "1.5").stdout
    assert tomllib.loads(first)["server"]["port"] == 9000
    (tmp_path / "tokenwell.toml").write_text(first)
    second = json.loads(run("config", "show", "--json").stdout)
    assert second["model.name"]["value"] == ["a", 'b"😀']
    line = first[: first.index("kv_cache_gib")].count("\n") + 1
    assert second["engine.kv_cache_gib"] == {"value": 1.5, "origin": f"tokenwell.toml:{line}"}


def test_json_has_every_setting(run: Run) -> None:
    shown = json.loads(run("config", "show", "--json", "--max-num-seqs", "auto").stdout)
    assert list(shown) == list(ALLOWED)
    assert shown["server.host"] == {"value": "127.0.0.1", "origin": "default"}
    assert shown["engine.max_num_seqs"] == {"value": None, "origin": "--max-num-seqs"}


def test_keys_are_never_shown_in_full(run: Run, tmp_path: Path) -> None:
    key = "sk-0123456789abcdef"
    (tmp_path / "tokenwell.toml").write_text(f'[server]\napi_key = ["{key}"]\n')
    for arguments, environ in (
        ([], {}),
        (["--json"], {}),
        (["--api-key", key, "--api-key", "short"], {}),
        ([], {"TOKENWELL_SERVER_API_KEY": f"{key},short"}),
    ):
        done = run("config", "show", *arguments, **environ)
        assert done.returncode == 0
        assert "sk-0... (19 characters)" in done.stdout
        assert "456789" not in done.stdout
        assert "short" not in done.stdout


def test_output_into_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    command = f"{PROGRAM} config show --json | true"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "x"], "tokenwell: server.port is 'x' (set by --port), but must be a whole number from 0 to 65535\n"),
        (["serve", "--port", ""], "server.port is empty (set by --port)"),
        (["serve", "--host", "http://x"], "server.host is 'http://x' (set by --host)"),
        (["serve", "--dtype", "int4"], "one of auto, float32, bfloat16, float16"),
        (["serve", "--kv-cache-gib", "-1"], "engine.kv_cache_gib is '-1'"),
        (["serve", "--config", "none.toml"], "tokenwell: there is no settings file none.toml"),
        (["serve", "--prot", "1"], "No such option: --prot"),
        (["serve", "a", "b"], "unexpected extra argument"),
        (["serve", "--port"], "requires an argument"),
        (["sevre"], "No such command 'sevre'"),
        (["config", "show", "--log-level", "loud"], "log.level is 'loud' (set by --log-level)"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_one_message(run: Run, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_variable_ends_with_2(run: Run) -> None:
    done = run("serve", TOKENWELL_SERVER_PROT="1")
    assert done.returncode == 2
    assert "the variable TOKENWELL_SERVER_PROT is no setting" in done.stderr
    assert "did you mean TOKENWELL_SERVER_PORT?" in done.stderr


def test_no_place_for_the_scripted_engine_ends_with_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    done = run("serve", "scripted", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert done.stderr.startswith("tokenwell: the scripted engine's folder cannot be written to ")
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------- MODEL


def test_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    done = run("serve", "./models/none")
    assert done.returncode == 2
    assert done.stderr == f"tokenwell: there is no checkpoint folder {tmp_path}/models/none (set by MODEL): check the path\n"


def test_a_hub_id(run: Run, tmp_path: Path) -> None:
    done = run("serve", "Qwen/Qwen3-0.6B")
    assert done.returncode == 2
    assert f"there is no folder {tmp_path}/Qwen/Qwen3-0.6B (set by MODEL), and models are not downloaded yet" in done.stderr
    assert '"hf download Qwen/Qwen3-0.6B --local-dir Qwen3-0.6B"' in done.stderr


def test_a_file_and_a_folder_without_a_config(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("GGUF")
    (tmp_path / "empty").mkdir()
    assert "model.gguf (set by TOKENWELL_MODEL_PATH) is a file" in run("serve", TOKENWELL_MODEL_PATH="model.gguf").stderr
    assert "empty (set by MODEL) is no checkpoint folder: it has no config.json" in run("serve", "empty").stderr


def test_a_chat_template_that_is_not_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    done = run("serve", "model", "--chat-template", "none.jinja")
    assert done.returncode == 2
    assert "there is no chat template file none.jinja (set by --chat-template)" in done.stderr
