"""What a chat shows, keeps and takes back; what a terminal is sent. The terminal itself is in tests/e2e/test_chat.py."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.agent.canned import Canned, as_json, call, end, stream

from tokenwell.agent.endpoint import Endpoint, EndpointError, Reply
from tokenwell.cli import chat
from tokenwell.cli.chat import Talk, declarations
from tokenwell.cli.reach import endpoint_at
from tokenwell.cli.screen import LONGEST_RESULT, Screen, pace
from tokenwell.config.settings import ServerSettings
from tokenwell.wire.errors import SettingsError


class Tty(io.StringIO):
    """A terminal as far as styles are concerned."""

    def isatty(self) -> bool:
        return True


@contextmanager
def talking(*answers: Any, system: str = "") -> Iterator[tuple[Talk, Canned, io.StringIO]]:
    """A conversation with prepared answers, and what it shows."""
    with Canned(*answers) as canned:
        endpoint, out = Endpoint(canned.base), io.StringIO()
        endpoint.choose("m")
        yield Talk(endpoint, Screen(out), system, None, []), canned, out


def test_every_message_brings_the_conversation_before_it() -> None:
    with talking(stream({"content": "one"}, end()), stream({"content": "two"}, end()), system="Be kind.") as (talk, canned, out):
        assert talk.obey("first") and talk.obey("second") and talk.obey("  ")
    system = {"role": "system", "content": "Be kind."}
    assert canned.requests[1]["messages"] == [
        system,
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "second"},
    ]
    assert [line for line in out.getvalue().splitlines() if line[0] != "["] == ["one", "two"]


def test_commands_as_other_programs_call_them() -> None:
    with talking() as (talk, canned, out):
        assert talk.obey("/?") and not talk.obey(" /bye ") and not talk.obey("/exit")
    assert "/quit" in out.getvalue() and canned.requests == []


def test_an_empty_answer_is_called_so() -> None:
    with talking(stream(end())) as (talk, _, out):
        talk.obey("go")
    assert out.getvalue().startswith("[an empty answer after 0.")


def test_a_message_that_failed_is_taken_back() -> None:
    refused = as_json({"error": {"message": "too long", "code": "context_length_exceeded"}}, 400)
    with talking(stream({"content": "one"}, end()), refused, stream({"content": "a"}, done=False)) as (talk, _, _):
        talk.obey("first")
        for _ in range(2):
            with pytest.raises(EndpointError):
                talk.obey("second")
            assert [message["content"] for message in talk.messages] == ["first", "one"]


def test_an_answer_that_was_cut_off_says_so() -> None:
    with talking(stream({"content": "It is"}, end("length"))) as (talk, _, out):
        talk.obey("go")
    assert out.getvalue().startswith("It is\n[first after ")
    assert out.getvalue().endswith(" s, cut off: the model reached its limit of tokens]\n")


def test_the_user_is_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    said, prompts = iter(["14 degrees", ""]), []

    def typed(prompt: str) -> str:
        prompts.append(prompt)
        return next(said)

    monkeypatch.setattr(chat, "typed_message", typed)
    calls = [call("get_weather", "{}", 0, "a"), call("get_time\x1b[2J", "{}", 1, "b"), end("tool_calls")]
    with talking(stream(*calls), stream({"content": "Mild."}, end())) as (talk, canned, out):
        talk.obey("How is it?")
    assert [message["content"] for message in canned.requests[1]["messages"][2:]] == [
        "14 degrees",
        '{"error": "this tool cannot be used now"}',
    ]
    assert prompts == ["result of get_weather: ", "result of get_time\\x1b[2J: "]
    assert out.getvalue().startswith("> get_weather {}\n> get_time\\x1b[2J {}\n[")


def test_leaving_a_call_without_a_result_takes_the_message_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(chat, "typed_message", leave)
    with talking(stream(call("get_weather", "{}"), end("tool_calls"))) as (talk, _, out):
        assert talk.obey("How is it?")
    assert talk.messages == [] and out.getvalue().endswith("[stopped]\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("3", "is no list of tools"),
        ('["x"]', "is no list of tools"),
    ],
)
def test_files_that_declare_no_tools(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "tools.json").write_text(content)
    with pytest.raises(SettingsError, match=said):
        declarations(tmp_path / "tools.json")


def test_a_file_that_declares_tools(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    for content in (tools, {"model": "m", "tools": tools}):
        (tmp_path / "tools.json").write_text(json.dumps(content))
        assert declarations(tmp_path / "tools.json") == tools


def test_our_own_key_is_for_our_own_service_however_it_is_called() -> None:
    with Canned(*[as_json({"data": [{"id": "m"}]})] * 3) as canned:
        port = int(canned.base.split(":")[2].removesuffix("/v1"))
        own = ServerSettings(port=port, api_key=("sesame",))
        for url in (None, f"localhost:{port}"):
            endpoint_at(own, url, None, None).close()
        endpoint_at(ServerSettings(port=port - 1, api_key=("sesame",)), canned.base, None, None).close()
    assert canned.keys == ["Bearer sesame", "Bearer sesame", None]


# ---------------------------------------------------------------- the screen


def test_styles_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    plain, tty = io.StringIO(), Tty()
    for out in (plain, tty):
        screen = Screen(out)
        screen.piece("thinking", "hm")
        screen.piece("text", "\n\nyes")
        screen.note("done")
    assert plain.getvalue() == "hm\nyes\ndone\n"
    assert tty.getvalue() == "\x1b[2mhm\x1b[0m\nyes\n\x1b[2mdone\n\x1b[0m"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as without:
            without.setenv(name, value)
            quiet = Tty()
            Screen(quiet).note("done")
        assert quiet.getvalue() == "done\n"


def test_control_characters_of_others_are_spelled_out() -> None:
    out = Tty()
    screen = Screen(out)
    screen.piece("text", "a\x1b[31mb\x9b\u202ec\udcff\td\r\n")
    screen.result("f", "{}", "\x07")
    assert out.getvalue() == "a\\x1b[31mb\\x9b\\x202ec\\xdcff\td\n< \\x07\n"


def test_long_results_are_shortened_and_say_so() -> None:
    out = io.StringIO()
    Screen(out).result("f", "{}", "x" * (LONGEST_RESULT + 1))
    assert out.getvalue() == f"< {'x' * LONGEST_RESULT} ... ({LONGEST_RESULT + 1} characters)\n"


def test_the_pace_of_an_answer() -> None:
    reply = Reply(Endpoint("http://127.0.0.1:1/v1"), {})
    reply.seconds = 2.0
    assert pace(reply) == "an empty answer after 2.00 s"
    reply.tokens, reply.first_s = 11, 1.0
    assert pace(reply) == "11 tokens, 10 tok/s, first after 1.00 s"
    reply.seconds, reply.finish = 1.0, "length"
    assert pace(reply) == "11 tokens, first after 1.00 s, cut off: the model reached its limit of tokens"
