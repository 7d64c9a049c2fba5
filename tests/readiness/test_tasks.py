"""The tasks that come with Tokenwell: how many, of what, and that a model without a fault passes every one."""

import json
import re
from collections import Counter

import pytest
from training import held_out

from tokenwell.agent.tools import TOOLS
from tokenwell.readiness.judge import Made, Trial, wrong
from tokenwell.readiness.task import Task, tasks
from tokenwell.readiness.when import read


def test_there_are_as_many_tasks_as_promised_half_of_them_chinese() -> None:
    counted = Counter((task.kind, task.language) for task in tasks())
    wanted = {"single": 150, "turns": 50, "talk": 50}
    assert counted == {(kind, language): count for kind, count in wanted.items() for language in ("en", "zh")}
    assert len({task.id for task in tasks()}) == 500


def test_drawing_anew_gives_other_tasks_that_are_as_good() -> None:
    drawn = held_out.tasks(1)
    assert [(task.id, task.kind, task.language) for task in drawn] == [(task.id, task.kind, task.language) for task in tasks()]
    assert sum(new.turns[0].user == old.turns[0].user for new, old in zip(drawn, tasks(), strict=True)) < 100
    for task in drawn:
        assert replayed(task).passed, task.id


def test_single_calls_can_be_decided_by_reading() -> None:
    """Whoever knows no facts finds a word of the request, or a part of one, in the declaration of the right tool."""
    asked = [task for task in tasks() if task.kind == "single"]
    undecided = [task.id for task in asked if not pieces(task.turns[0].user) & declared(task)]
    assert len(undecided) < 0.05 * len(asked), undecided


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


def test_days_and_times_are_declared_as_wanted_as_the_user_says_them() -> None:
    for task in tasks():
        if task.kind == "single":
            [call] = task.turns[0].rounds[0]
            for name, value in call.arguments.items():
                if isinstance(value, str) and read(value).whole:
                    schema = (task.parameters(call.name) or {})["properties"][name]
                    assert "as the user says it" in schema["description"] or "照原话" in schema["description"], task.id


# Words that stand in most requests and descriptions.
PLAIN = set(
    re.findall(
        "[a-z]+",
        """
the and for with from that this what which when where how who into about not any are was has have had does did can could
would will please tell give show get let make put take you your our its here now more than then also out off over under
after before today time day date number name one some""",
    )
)


def pieces(text: str) -> set[str]:
    """The first five letters of English words, and every two neighbouring Chinese characters."""
    english = {word[:5].lower() for word in re.findall(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}", text) if word.lower() not in PLAIN}
    return english | {run[at : at + 2] for run in re.findall(r"[\u4e00-\u9fff]+", text) for at in range(len(run) - 1)}


def declared(task: Task) -> set[str]:
    """The pieces of the expected tool's name, description, parameters and values."""
    name = task.turns[0].rounds[0][0].name
    return pieces(json.dumps(next(tool for tool in task.tools if tool["function"]["name"] == name), ensure_ascii=False))


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
