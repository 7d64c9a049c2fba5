"""The loop: calls are done in order, results go back, nothing is hidden, and no end is taken for a good one that is not."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.agent.canned import Canned, call, end, stream

from tokenwell.agent.endpoint import Endpoint, EndpointError, Reply
from tokenwell.agent.loop import UnfinishedError, work
from tokenwell.agent.toolbox import Toolbox
from tokenwell.agent.tools import SYSTEM, TOOLS


class Watched:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def piece(self, kind: str, text: str) -> None:
        self.told.append((kind, text))

    def result(self, name: str, arguments: str, result: str) -> None:
        self.told.append(("result", name, arguments, result))

    def turn(self, reply: Reply) -> None:
        self.told.append(("turn", str(reply.finish)))


def worked(canned: Canned, folder: Path, max_turns: int = 5) -> tuple[str | Exception, Watched]:
    """What became of a task, and what was seen of it."""
    watched, endpoint = Watched(), Endpoint(canned.base)
    endpoint.choose("m")
    box = Toolbox(folder, offline=True, clock=lambda: datetime(2026, 3, 4, 13, 20))
    try:
        return work("Do it.", endpoint, box, watched, max_turns=max_turns), watched
    except (UnfinishedError, EndpointError) as error:
        return error, watched


def test_a_task_of_three_turns(tmp_path: Path) -> None:
    weather, note = '{"city": "Shanghai"}', '{"path": "MEMORY.md", "content": "rain"}'
    with Canned(
        stream({"reasoning_content": "look"}, call("get_weather", weather), end("tool_calls")),
        stream(call("append_file", note, 0, "c2"), call("read_file", '{"path": "MEMORY.md"}', 1, "c3"), end("tool_calls")),
        stream({"content": "It rains."}, end()),
    ) as canned:
        said, watched = worked(canned, tmp_path)
    assert said == "It rains."
    assert (tmp_path / "MEMORY.md").read_text() == "rain\n"
    first, second, third = canned.requests
    assert first["messages"] == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Do it."}]
    assert first["tools"] == list(TOOLS)
    assert second["messages"][2]["reasoning_content"] == "look"
    assert json.loads(second["messages"][3]["content"])["condition"] == "light rain"
    results = [message for message in third["messages"] if message["role"] == "tool"]
    assert [(message["tool_call_id"], message["name"]) for message in results] == [
        ("c1", "get_weather"), ("c2", "append_file"), ("c3", "read_file"),
    ]  # fmt: skip
    assert results[2]["content"] == "rain\n"
    assert third["messages"][: len(second["messages"])] == second["messages"]
    kinds = [told[0] for told in watched.told]
    assert kinds == [
        "thinking", "call", "arguments", "turn", "result", "call", "arguments", "call", "arguments", "turn", "result", "result",
        "text", "turn",
    ]  # fmt: skip


def test_a_malformed_call_is_shown_and_its_result_is_the_error(tmp_path: Path) -> None:
    with Canned(stream(call("read_file", '{"path": '), end("tool_calls")), stream({"content": "Sorry."}, end())) as canned:
        said, watched = worked(canned, tmp_path)
    assert said == "Sorry."
    error = canned.requests[1]["messages"][-1]["content"]
    assert json.loads(error)["error"] == 'the arguments of read_file are no JSON object: {"path": '
    assert ("result", "read_file", '{"path": ', error) in watched.told


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([stream(call("read_file", "{}"), end("tool_calls"))] * 2, "not finished after 2 turns; --max-turns allows more"),
        ([stream(call("write_file", '{"path": "a", "content": "'), end("length"))], "cut off"),
        ([stream({"content": "It is "}, end("length"))], "cut off"),
        ([stream({"content": "Let me look."}, end("tool_calls"))], "called a tool, but not which"),
        ([stream({"content": " \n"}, end())], "the model's answer is empty"),
        ([stream({"content": "It"}, {"error": {"message": "gone"}})], "gave up: gone"),
    ],
)
def test_what_is_no_end(tmp_path: Path, answers: list[Any], said: str) -> None:
    with Canned(*answers) as canned:
        error, _ = worked(canned, tmp_path, max_turns=2)
    assert isinstance(error, Exception) and said in str(error)
    assert list(tmp_path.iterdir()) == []
