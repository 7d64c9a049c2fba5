"""`tokenwell chat` in a real terminal, and through a pipe, with a service whose model does what the user says."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.e2e.service import Service, serve
from tests.waiting import PATIENCE_S

PROGRAM = str(Path(sys.executable).parent / "tokenwell")
CTRL_C, CTRL_D = "\x03", "\x04"
_READY = "> "


class Terminal:
    """A chat on a pseudo-terminal: type, and read what is shown until something is seen."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self._shown = ""

    def type(self, text: str) -> None:
        """Press keys; a line end is the return key."""
        os.write(self._screen, text.replace("\n", "\r").encode())

    def until(self, words: str, within_s: float = PATIENCE_S) -> str:
        """What is shown up to and including `words`, without styles."""
        deadline = time.monotonic() + within_s
        while words not in self._shown:
            assert time.monotonic() < deadline, f"{words!r} was not shown within {within_s} s, but {self._shown!r}"
            self._look()
        shown, self._shown = self._shown.split(words, 1)
        return shown + words

    def press_until(self, key: str, words: str) -> None:
        """Press a key until `words` are shown: one that comes while readline is about to wait is seen with the next only."""
        for _ in range(10):
            self.type(key)
            with suppress(AssertionError):
                self.until(words, within_s=2)
                return
        raise AssertionError(f"{words!r} was not shown, but {self._shown!r}")

    def _look(self) -> None:
        """Take what is there to see; wait a little for it."""
        if select.select([self._screen], [], [], 0.1)[0]:
            more = os.read(self._screen, 65536).decode(errors="replace")
            self._shown += re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", more).replace("\r", "")

    def say(self, text: str) -> str:
        """Send a message; everything up to the line about the answer's pace."""
        self.type(text + "\n")
        shown = self.until("first after")
        self.until("]\n" + _READY)
        return shown

    def leave(self) -> int:
        """The exit code after Ctrl-D, pressed as often as needed (see `press_until`)."""
        for _ in range(50):
            self.type(CTRL_D)
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(0.3)
        raise AssertionError("Ctrl-D did not end the chat")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("chat") / "service.log"
    with serve(Path("scripted"), log, "--tpot-ms=10", "--name=one", "--name=two") as running:
        yield running


Open = Callable[..., Terminal]


@pytest.fixture
def open_chat(service: Service, tmp_path: Path) -> Iterator[Open]:
    """open_chat(*flags): a chat that waits for the first message."""
    with contextmanager(_chats)(service, tmp_path) as start:
        yield start


def _chats(service: Service, folder: Path) -> Iterator[Open]:
    started: list[tuple[subprocess.Popen[bytes], int]] = []

    def start(*flags: str, environment: dict[str, str] | None = None) -> Terminal:
        screen, keys = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", PROGRAM, "chat", service.url, *flags],  # so that Ctrl-C reaches it as a signal
            stdin=keys, stdout=keys, stderr=keys, cwd=folder,
            env=_environment(folder) | {"TERM": "xterm"} | (environment or {}),
        )  # fmt: skip
        os.close(keys)
        started.append((process, screen))
        terminal = Terminal(process, screen)
        terminal.until(_READY)
        return terminal

    yield start
    for process, screen in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(screen)


def _environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": "/usr/bin:/bin"}


def test_a_conversation(open_chat: Open) -> None:
    terminal = open_chat()
    assert "\none, two" not in terminal.say("[[say one, two]]").split("[[say one, two]]", 1)[0]
    assert "\nthree\n[" in terminal.say("[[say three]]")
    # Half a second: on a busy machine fewer tokens may arrive in one piece, which has no speed.
    assert re.search(r"\[\d+ tokens, \d+ tok/s, first after", terminal.say("[[say " + "word " * 50 + "]]"))
    assert terminal.leave() == 0


def test_messages_of_several_lines(open_chat: Open) -> None:
    terminal = open_chat()
    terminal.type("first line\\\n")
    terminal.until("\n. ")
    assert "\nsecond\n" in terminal.say("[[say second]]")
    terminal.type('"""one\n')
    terminal.until("\n. ")
    assert "\nquoted\n" in terminal.say('[[say quoted]]"""')
    assert terminal.say("[[say pasted,]]\n[[say once]]").count("first after") == 1  # two lines at once are one message
    assert "\npasted, once\n" in terminal.say("\x1b[200~[[say pasted,]]\n[[say once]]\x1b[201~").replace(",once", ", once")


def test_a_message_and_ctrl_d_at_once(open_chat: Open) -> None:
    terminal = open_chat()
    assert "\nsaid\n" in terminal.say(f"[[say said]]\n{CTRL_D}")
    assert terminal.leave() == 0


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_chinese_wherever_one_is(open_chat: Open, locale: str) -> None:
    terminal = open_chat(environment={"LC_ALL": locale})
    assert "\n你好，世界\n" in terminal.say("[[say 你好，世界]]")


def test_commands(open_chat: Open) -> None:
    terminal = open_chat("--system=[[say never obeyed]]")
    terminal.type("/help\n")
    for word in ("/clear", "/system", "/model", "/quit"):
        terminal.until(word)
    terminal.until(_READY)
    for typed, shown in (
        ("/model\n", "* one\n  two\n"),
        ("/model two\n", "  one\n* two\n"),
        ("/model three\n", "There is no model three."),
        ("/system Be kind.\n", "The system prompt is set."),
        ("/system\n", "There is no system prompt now."),
        ("/clear\n", "A new conversation."),
        ("/sing\n", "There is no command /sing; /help lists them."),
    ):
        terminal.type(typed)
        terminal.until(shown)
        terminal.until(_READY)
    assert "\na path\n" in terminal.say("/etc/hosts [[say a path]]")
    terminal.type("/quit\n")
    assert terminal.process.wait(PATIENCE_S) == 0


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(open_chat: Open, service: Service) -> None:
    terminal = open_chat()
    terminal.type("[[say " + "word " * 400 + "]]\n")
    terminal.until("]]\n")
    terminal.until("word word")
    terminal.type(CTRL_C)
    terminal.until("[stopped]")
    terminal.until(_READY)
    service.wait_until("an idle engine", service.idle)
    assert "\nstill here\n" in terminal.say("[[say still here]]")
    terminal.type("half a message")
    terminal.until("half a message")  # Ctrl-C drops what readline was told of, and it waits for more
    terminal.press_until(CTRL_C, "Ctrl-D leaves.")
    assert terminal.leave() == 0


def test_calls_are_shown_and_the_user_is_the_tool(open_chat: Open, tmp_path: Path) -> None:
    function = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    (tmp_path / "tools.json").write_text(json.dumps([{"type": "function", "function": function}]))
    terminal = open_chat("--tools=tools.json")
    terminal.type('[[call add {"a": 3}]][[say done]]\n')
    terminal.until('\n> add {"a": 3}\n')
    terminal.until("result of add: ")
    assert "\ndone\n" in terminal.say('{\n  "sum": 7\n}')  # pasted


def through_a_pipe(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One answer to what comes through a pipe."""
    return subprocess.run(
        [PROGRAM, "chat", *arguments], input=text, env=_environment(folder), cwd=folder, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def test_bytes_that_are_no_text_and_a_terminal_that_shows_none(service: Service, tmp_path: Path) -> None:
    for variables, said in (({"LC_ALL": "en_US.UTF-8"}, "\ufffd"), ({"PYTHONIOENCODING": "ascii"}, "\\ufffd")):
        done = subprocess.run(
            [PROGRAM, "chat", service.url], input=b"[[say \xff]]", env=_environment(tmp_path) | variables, cwd=tmp_path,
            capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout.decode()) == (0, f"{said}\n")


def test_no_input_at_all(service: Service, tmp_path: Path) -> None:
    command = f"exec {PROGRAM} chat {service.url} <&-"
    done = subprocess.run(command, shell=True, env=_environment(tmp_path), cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2 and b"nothing came through the pipe" in done.stderr


def test_through_a_pipe(service: Service, tmp_path: Path) -> None:
    done = through_a_pipe(tmp_path, "a\nb [[think hm]][[say yes]]\n", service.url, "--temperature=0")
    assert (done.returncode, done.stdout) == (0, "yes\n")
    assert re.fullmatch(r"\[10 tokens, .*\]\n", done.stderr)


@pytest.mark.parametrize(
    ("text", "arguments", "code", "said"),
    [
        ("hi", ["127.0.0.1:9"], 1, "no service answers at http://127.0.0.1:9/v1"),
        ("", ["URL"], 2, "nothing came through the pipe"),
        ("hi", ["URL", "--model=none"], 1, "refused with 404"),
        ("hi", ["URL", "--tools=none.json"], 2, "--tools: none.json cannot be read"),
        ("hi", ["URL", "--temperature=inf"], 2, "--temperature"),
        ("hi", ["a b"], 2, "'a b' is not an address"),
    ],
)
def test_what_fails_through_a_pipe(
    service: Service, tmp_path: Path, text: str, arguments: list[str], code: int, said: str
) -> None:
    done = through_a_pipe(tmp_path, text, *(service.url if each == "URL" else each for each in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and "Traceback" not in done.stderr
