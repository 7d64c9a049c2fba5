"""The tasks that come with Tokenwell: how many, of what, and that a model without a fault passes every one."""

import json
from collections import Counter

import pytest
from training import held_out

from tokenwell.agent.tools import TOOLS
from tokenwell.readiness.judge import Made, Trial, wrong
from tokenwell.readiness.task import Task, tasks


def test_there_are_as_many_tasks_as_promised_half_of_them_chinese() -> None:
    counted = Counter((task.kind, task.language) for task in tasks())
    wanted = {"single": 150, "turns": 50, "talk": 50}
    assert counted == {(kind, language): count for kind, count in wanted.items() for language in ("en", "zh")}
    assert len({task.id for task in tasks()}) == 500


def test_the_file_is_what_the_generator_writes() -> None:
    assert tuple(held_out.tasks()) == tasks()


def test_no_request_stands_there_twice() -> None:
    said = Counter(f"{task.turns[0].user} {task.files} {task.turns[0].rounds[:1]}" for task in tasks())
    assert [text for text, count in said.items() if count > 1] == []


def test_every_field_task_is_there_in_both_languages() -> None:
    for language in ("en", "zh"):
        told = [task for task in tasks() if task.kind == "turns" and task.language == language]
        users = [" ".join(turn.user for turn in task.turns) for task in told]
        assert sum("MEMORY.md" in user for user in users) >= 10
        assert sum("USER.md" in user for user in users) >= 4
        city = "Shanghai" if language == "en" else "上海"
        assert sum(city in user for user in users) >= 5
        several = [task for task in told if task.category == "rain, note, reminder"]
        assert {bool(task.end) for task in several} == {True, False}  # it rains in some


def test_agents_tasks_declare_the_agents_own_tools() -> None:
    own = [task for task in tasks() if task.kind == "turns" and "read_file" in str(task.tools)]
    assert len(own) > 60
    assert all(list(task.tools) == list(TOOLS) for task in own)


@pytest.mark.parametrize("kind", ["single", "turns", "talk"])
def test_the_gold_dialogue_passes(kind: str) -> None:
    for task in tasks():
        if task.kind == kind:
            verdict = replayed(task)
            assert verdict.passed and verdict.malformed == 0, (task.id, verdict)


def test_every_expected_call_fits_its_declaration() -> None:
    for task in tasks():
        for turn in task.turns:
            for call in (call for calls in turn.rounds for call in calls):
                assert wrong(task, Made(call.name, json.dumps(call.arguments))) is None, task.id


def replayed(task: Task):  # type: ignore[no-untyped-def]
    """The verdict on the gold dialogue; the trial's tool results must be those of the dialogue."""
    trial = Trial(task)
    messages = [message for message in held_out.gold(task).messages if message["role"] != "system"]
    given: list[str] | None = None
    for message in messages:
        if message["role"] == "user":
            assert given is None and trial.user == message["content"]
        elif message["role"] == "assistant":
            calls = [call["function"] for call in message.get("tool_calls", ())]
            given = trial.answered(message["content"], [Made(call["name"], json.dumps(call["arguments"])) for call in calls])
        else:
            assert given and given.pop(0) == message["content"], task.id
            given = given or None
    assert trial.user is None
    return trial.verdict()
