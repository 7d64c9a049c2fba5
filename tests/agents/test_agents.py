"""Agents as real processes: one turn each with a tool that writes a file, its result sent back, and a last answer.

The agents are the unmodified programs from the npm registry, configured by `tokenwell connect`, and the scripted engine plays
the model. What is asserted is the file on the disk and what went over the wire.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agents.conftest import INSTALLED, WINDOW, Workplace
from tests.agents.recorder import Exchange, Recorder
from tests.e2e.service import serve

Prepared = Callable[..., Workplace]

THOUGHT = "I need a tool."
TEXT = 'It\'s "quoted", ünïcode 🙂\n  and {"json": [1]} on a second line\n'
SAID = "The file is written."


def _order(tool: str, **arguments: Any) -> str:
    """What the agent's user types."""
    call = json.dumps(arguments, ensure_ascii=False)
    return f"Write the note. [[think {THOUGHT}]] [[say On it.]] [[call {tool} {call}]] [[say {SAID}]]"


def _chat_turn(recorder: Recorder) -> list[Exchange]:
    """The requests of a chat turn, without those for titles, which carry no tools."""
    turns = [each for each in recorder.of("/v1/chat/completions") if each.body.get("tools")]
    assert [each.status for each in turns] == [200] * len(turns)
    return turns


def _assert_chat_turn(recorder: Recorder, tool: str) -> None:
    first, second = _chat_turn(recorder)
    assert _finish(first) == "tool_calls"
    [result] = [message for message in second.body["messages"] if message["role"] == "tool"]
    [call] = [call for message in second.body["messages"] for call in message.get("tool_calls") or ()]
    assert call["function"]["name"] == tool
    assert json.loads(call["function"]["arguments"])
    assert call["id"] == result["tool_call_id"]
    assert [message["reasoning_content"] for message in second.body["messages"] if message.get("tool_calls")] == [THOUGHT]
    assert _finish(second) == "stop"
    assert any(event["choices"] == [] and "usage" not in event for event in first.events()), "nothing kept the stream alive"
    assert "x-tokenwell-warning" not in first.headers
    assert not any("x-tokenwell-cache" in each.headers for each in (first, second)), "no turn lost its cache"
    assert _cached(second) > 0.8 * _prompt(first)


def _finish(exchange: Exchange) -> str:
    [finish] = [choice["finish_reason"] for event in exchange.events() for choice in event["choices"] if choice["finish_reason"]]
    return str(finish)


def _usage(exchange: Exchange) -> Any:
    return next(event["usage"] for event in reversed(exchange.events()) if event.get("usage"))


def _prompt(exchange: Exchange) -> int:
    return int(_usage(exchange)["prompt_tokens"])


def _cached(exchange: Exchange) -> int:
    return int(_usage(exchange)["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.timeout(200)
def test_opencode(workplace: Prepared) -> None:
    place = workplace("opencode")
    program = INSTALLED / "opencode/node_modules/.bin/opencode"
    note = place.folder / "note.txt"
    # Typed, because it puts quotes around what its command line holds.
    done = place.run(str(program), "run", typed=_order("write", filePath=str(note), content=TEXT))
    assert _read(note) == TEXT, done.stdout + done.stderr
    assert SAID in done.stdout
    _assert_chat_turn(place.recorder, "write")
    listed = place.run(str(program), "models", "tokenwell", "--verbose").stdout
    assert json.loads(listed[listed.index("{") :])["limit"] == {"context": WINDOW, "output": 16_384}
    assert place.connect("opencode").endswith(": already so\n")


@pytest.mark.timeout(200)
def test_openclaw(workplace: Prepared) -> None:
    place = workplace("openclaw")
    program = INSTALLED / "openclaw/node_modules/openclaw/openclaw.mjs"
    note = place.folder / "note.txt"
    order = _order("write", path=str(note), content=TEXT)
    done = place.run("node", str(program), "agent", "--local", "--agent", "main", "--message", order)
    assert _read(note) == TEXT, done.stdout + done.stderr
    assert SAID in done.stdout
    _assert_chat_turn(place.recorder, "write")
    listed = place.run("node", str(program), "models", "list", "--json")
    [model] = json.loads(listed.stdout)["models"]
    assert (model["key"], model["contextWindow"]) == ("tokenwell/scripted", WINDOW)
    assert place.connect("openclaw").endswith(": already so\n")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


@pytest.mark.timeout(200)
def test_claude_code(workplace: Prepared) -> None:
    place = workplace("claude-code")
    program = INSTALLED / "claude/node_modules/.bin/claude"
    note = place.folder / "note.txt"
    order = _order("Write", file_path=str(note), content=TEXT)
    done = place.run(str(program), "--permission-mode", "acceptEdits", "-p", order)
    assert _read(note) == TEXT, done.stdout + done.stderr
    assert SAID in done.stdout
    turns = [each for each in place.recorder.of("/v1/messages") if each.body.get("tools")]
    assert [each.status for each in turns] == [200, 200]
    first, second = turns
    assert [event["delta"]["stop_reason"] for event in first.events() if event["type"] == "message_delta"] == ["tool_use"]
    [call] = [block for block in _blocks(second, "assistant") if block["type"] == "tool_use"]
    [result] = [block for block in _blocks(second, "user") if block["type"] == "tool_result"]
    assert (call["name"], call["id"]) == ("Write", result["tool_use_id"])
    assert not result.get("is_error")
    [thought] = [block for block in _blocks(second, "assistant") if block["type"] == "thinking"]
    assert thought["thinking"] == THOUGHT
    assert any(event["type"] == "ping" for event in first.events()[2:]), "nothing kept the stream alive"
    assert [event["delta"]["stop_reason"] for event in second.events() if event["type"] == "message_delta"] == ["end_turn"]
    before, after = (each.events()[-2]["usage"] for each in turns)
    assert after["cache_read_input_tokens"] > 0.9 * before["input_tokens"]
    context = place.run(str(program), "-p", "/context").stdout
    assert f"/ {WINDOW / 1000:.1f}k (" in context
    assert place.connect("claude-code").endswith(": already so\n")


def _blocks(exchange: Exchange, role: str) -> list[Any]:
    contents = [message["content"] for message in exchange.body["messages"] if message["role"] == role]
    return [block for content in contents if isinstance(content, list) for block in content]


@pytest.mark.timeout(200)
def test_codex(workplace: Prepared) -> None:
    place = workplace("codex")
    program = INSTALLED / "codex/node_modules/.bin/codex"
    note = place.folder / "note.txt"
    order = _order("exec_command", cmd=f"cat > '{note}' <<'END'\n{TEXT}END\n")
    done = place.run(str(program), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", order)
    assert _read(note) == TEXT, done.stdout + done.stderr
    assert SAID in done.stdout
    turns = [each for each in place.recorder.of("/v1/responses") if each.body.get("tools")]
    assert [each.status for each in turns] == [200, 200]
    first, second = turns
    completed = first.events()[-1]
    assert completed["type"] == "response.completed"
    [made] = [item for item in completed["response"]["output"] if item["type"] == "function_call"]
    [call] = [item for item in second.body["input"] if item.get("type") == "function_call"]
    [result] = [item for item in second.body["input"] if item.get("type") == "function_call_output"]
    assert made["name"] == call["name"] == "exec_command"
    assert made["call_id"] == call["call_id"] == result["call_id"]
    last = second.events()[-1]
    assert last["type"] == "response.completed"
    [thought] = [item for item in second.body["input"] if item.get("type") == "reasoning"]
    assert thought["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
    before, after = (each["response"]["usage"] for each in (completed, last))
    assert after["input_tokens_details"]["cached_tokens"] > 0.9 * before["input_tokens"]
    assert sum(event["type"] == "response.in_progress" for event in first.events()) > 1, "nothing kept the stream alive"
    [session] = (place.home / ".codex/sessions").rglob("*.jsonl")
    assert f'"model_context_window":{WINDOW * 95 // 100}' in session.read_text(), "Codex keeps a twentieth for itself"
    assert place.connect("codex").endswith(": already so\n")


@pytest.mark.timeout(200)
def test_codex_asks_again_when_an_answer_is_lost(workplace: Prepared, tmp_path: Path) -> None:
    """The engine dies while it writes a call: half of it must not be carried out."""
    order = _order("exec_command", cmd=f"touch {tmp_path / 'touched'}", yield_time_ms=1000)
    with serve(Path("scripted"), tmp_path / "log", "--tpot-ms", "5", "--die-after", "45", "--fault-once") as service:
        place = workplace("codex", service)
        program = INSTALLED / "codex/node_modules/.bin/codex"
        place.run(str(program), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", order)
    first, second = place.recorder.of("/v1/responses")
    assert first.events()[-1]["type"] == "response.failed"
    assert first.events()[-2]["type"] == "response.function_call_arguments.delta"
    assert not [item for item in second.body["input"] if item.get("type") in ("function_call", "function_call_output")]
    assert second.events()[-1]["type"] == "response.completed"
