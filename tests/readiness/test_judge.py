"""What passes and what does not, by tasks written here."""

import json
from typing import Any

import pytest

from tokenwell.readiness.judge import Made, Trial, Verdict, file_fault, matches, wrong
from tokenwell.readiness.task import Call, File, Task, Turn


def tool(name: str, *required: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
LAMP = tool("dim", "room", "level", room=TEXT, level=NUMBER, mode={"type": "string", "enum": ["slow", "fast"]})
FILES = [tool("read_file", "path", path=TEXT), tool("append_file", "path", "content", path=TEXT, content=TEXT)]
FILES.append(tool("write_file", "path", "content", path=TEXT, content=TEXT))
WEATHER = tool("get_weather", "city", city=TEXT, date=TEXT)
REMIND = tool("set_reminder", "text", "time", text=TEXT, time=TEXT)

DIM = Task("d", "single", "home", "en", (Turn("Dim the snug to 40", ((Call("dim", {"room": "snug", "level": 40}),),)),), (LAMP,))


def made(name: str, **arguments: Any) -> Made:
    return Made(name, json.dumps(arguments, ensure_ascii=False))


def tried(task: Task, *answers: str | Made | list[Made]) -> Verdict:
    """The verdict after these answers: a text, a call, or several calls."""
    trial = Trial(task)
    for answer in answers:
        assert trial.user is not None
        calls = [answer] if isinstance(answer, Made) else answer if isinstance(answer, list) else []
        trial.answered(answer if isinstance(answer, str) else "", calls)
    assert trial.user is None
    return trial.verdict()


# ------------------------------------------------------------------------------------------------ single calls


@pytest.mark.parametrize(
    "call",
    [
        made("dim", room="snug", level=40),
        made("dim", level=40, room=" Snug. "),
    ],
)
def test_the_right_call_passes(call: Made) -> None:
    assert tried(DIM, call) == Verdict(True)


@pytest.mark.parametrize(
    "call",
    [
        made("dim", room="pantry", level=40),
        made("dim", room="snug", level=41),
        made("dim", room="snug", level=40, mode="slow"),
        made("dim", room="snug", level=True),
    ],
)
def test_another_call_does_not(call: Made) -> None:
    verdict = tried(DIM, call)
    assert not verdict.passed
    assert verdict.expected == 'dim {"room": "snug", "level": 40}'
    assert verdict.got == f"{call.name} {call.arguments}"


def test_neither_a_text_nor_two_calls_are_one_call() -> None:
    right = made("dim", room="snug", level=40)
    assert tried(DIM, "I dimmed it.").got == "I dimmed it."
    assert not tried(DIM, [right, right]).passed


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (Made("dim", "not json"), "no JSON object"),
        (Made("dim", "[1]"), "no JSON object"),
        (made("dimmer", room="snug", level=40), "no tool dimmer"),
        (made("dim", room="snug"), "level is missing"),
        (made("dim", room="snug", level="40"), "level is no integer"),
        (made("dim", room="snug", level=True), "level is no integer"),
        (made("dim", room="snug", level=40, mode="medium"), "mode is none of slow, fast"),
        (made("dim", room="snug", level=40, speed=2), "speed is not declared"),
    ],
)
def test_a_malformed_call_is_counted_and_explained(call: Made, fault: str) -> None:
    assert tried(DIM, call).malformed == 1
    assert fault in (wrong(DIM, call) or "")


def test_schemas_are_looked_into() -> None:
    inner = {"type": "object", "properties": {"street": TEXT}, "required": ["street"]}
    task = Task("n", "single", "x", "en", (Turn("?"),), (tool("send", address=inner, to={"type": "array", "items": TEXT}),))
    assert wrong(task, made("send", address={"street": "a"}, to=["b"])) is None
    assert wrong(task, made("send", address={})) == "address.street is missing"
    assert wrong(task, made("send", to=["a", 1])) == "to[1] is no string"


def test_some_arguments_are_judged_by_their_words_and_some_may_be_left_out() -> None:
    words = {"city": (("上海", "Shanghai"),), "date": (("今天", "today"),)}
    call = Call("get_weather", {"city": "上海", "date": "今天"}, words=words, spare=("date",))
    assert matches(call, made("get_weather", city="shanghai"))
    assert matches(call, made("get_weather", city="上海市", date="today"))
    assert not matches(call, made("get_weather", city="上海", date="tomorrow"))
    assert not matches(call, made("get_weather", date="today"))


HOME = tool(
    "dim", "room", room=TEXT, until=TEXT, lamps={"type": "array", "items": TEXT}, level={"type": "integer", "default": 100}
)
HOME["function"]["parameters"]["properties"]["mode"] = {"type": "string", "enum": ["slow", "fast"]}
SNUG = Task("h", "single", "home", "en", (Turn("Light the snug", ((Call("dim", {"room": "snug"}),),)),), (HOME,))


@pytest.mark.parametrize("more", [{"until": None}, {"until": ""}, {"lamps": []}, {"mode": None}, {"level": 100}])
def test_an_optional_argument_that_says_nothing_is_as_good_as_none(more: dict[str, Any]) -> None:
    assert tried(SNUG, made("dim", room="snug", **more)) == Verdict(True)


@pytest.mark.parametrize("more", [{"until": "now"}, {"level": 0}, {"level": 50}, {"mode": "slow"}, {"mode": ""}, {"lamps": [""]}])
def test_one_that_says_something_is_not(more: dict[str, Any]) -> None:
    assert not tried(SNUG, made("dim", room="snug", **more)).passed


def test_a_required_one_has_to_say_something_and_a_default_may_be_left_out() -> None:
    assert tried(SNUG, made("dim", room=None)) == Verdict(False, 1, 'dim {"room": "snug"}', 'dim {"room": null}')
    schema = HOME["function"]["parameters"]
    assert matches(Call("dim", {"room": "snug", "level": 100}), made("dim", room="snug"), schema)
    assert not matches(Call("dim", {"room": "snug", "level": 50}), made("dim", room="snug"), schema)


def test_a_time_that_is_judged_by_its_words_is_the_only_one() -> None:
    call = Call("set_reminder", {"text": "x", "time": "4 pm"}, words={"text": (("umbrella",),), "time": (("4 pm",),)})
    for when in ("4pm", "16:00", "today at 4 pm"):
        assert matches(call, made("set_reminder", text="Take an umbrella", time=when))
    for when in ("tomorrow at 4 pm", "4 am", "every day at 4 pm"):
        assert not matches(call, made("set_reminder", text="umbrella", time=when))


# ------------------------------------------------------------------------------------------------ no call


def test_a_text_passes_where_no_call_is_wanted() -> None:
    task = Task("t", "talk", "chat", "en", (Turn("Hello"),), (LAMP,))
    assert tried(task, "Hello!").passed
    assert not tried(task, "").passed
    assert tried(task, made("dim", room="snug", level=40)).expected == "an answer without a call"


def test_what_cannot_be_done_is_refused_or_asked_about() -> None:
    task = Task("t", "talk", "unserved", "en", (Turn("Socks, please", says=(("cannot", "no", "?"),)),), (LAMP,))
    assert tried(task, "I have no tool for that.").passed and tried(task, "Which socks?").passed
    assert not tried(task, "Done, now the socks are yours.").passed


# ------------------------------------------------------------------------------------------------ several turns

RAIN = Task(
    "r",
    "turns",
    "rain",
    "en",
    (
        Turn(
            "Weather in Turku today? If it rains, note it in MEMORY.md and remind me at 6 pm to take the umbrella.",
            (
                (Call("get_weather", {"city": "Turku"}, '{"condition": "light rain"}'),),
                (
                    Call("append_file", {"path": "MEMORY.md", "content": "Turku: light rain"}),
                    Call("set_reminder", {"text": "umbrella", "time": "6 pm"}, "{}", words={"text": (("umbrella",),)}),
                ),
            ),
            says=(("rain",),),
        ),
    ),
    (*FILES, WEATHER, REMIND),
    files={"MEMORY.md": "# Memory\n\nold\n"},
    end={"MEMORY.md": File(keeps=("# Memory", "old"), says=(("Turku",), ("rain",)))},
)
LOOK = made("get_weather", city="Turku")
NOTE = made("append_file", path="MEMORY.md", content="Rain in Turku today")
LOST = made("write_file", path="MEMORY.md", content="Turku: rain")
REMINDER = made("set_reminder", text="take the umbrella", time="6 pm")


def test_the_way_there_is_free() -> None:
    assert tried(RAIN, LOOK, [NOTE, REMINDER], "It rains; all done.").passed
    assert tried(RAIN, made("read_file", path="MEMORY.md"), LOOK, REMINDER, NOTE, "It rains; all done.").passed
    whole = made("write_file", path="MEMORY.md", content="# Memory\n\nold\n- Turku: light rain\n")
    assert tried(RAIN, LOOK, whole, REMINDER, "It rains; all done.").passed


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["It rains."], "get_weather"),
        ([LOOK, NOTE, "It rains."], "set_reminder"),
        ([LOOK, REMINDER, "It rains."], "MEMORY.md with new text"),
        ([LOOK, [NOTE, REMINDER], "Done."], "a text with rain"),
        ([LOOK, REMINDER, LOST, "It rains."], "MEMORY.md with the line '# Memory'"),
        ([LOOK, [NOTE, REMINDER], made("append_file", path="other.md", content="x"), "It rains."], "other.md unchanged"),
        ([LOOK, made("set_reminder", text="dance", time="6 pm")], "append_file"),
    ],
)
def test_what_was_not_done_or_done_too_much_is_told(answers: list[Any], expected: str) -> None:
    verdict = tried(RAIN, *answers)
    assert not verdict.passed
    assert verdict.expected.startswith(expected)


def test_the_model_sees_results_and_errors() -> None:
    trial = Trial(RAIN)
    assert trial.answered("", [made("read_file", path="MEMORY.md"), made("read_file", path="no.md"), LOOK, made("dance")]) == [
        "# Memory\n\nold\n",
        '{"error": "there is no file no.md"}',
        '{"condition": "light rain"}',
        '{"error": "there is no tool dance"}',
    ]
    assert trial.answered("", [NOTE, NOTE]) == ['{"path": "MEMORY.md", "status": "appended"}'] * 2
    assert trial.malformed == 1


def test_who_goes_on_calling_is_stopped() -> None:
    trial = Trial(RAIN)
    for _ in range(6):
        assert trial.answered("", [LOOK]) is not None
    assert trial.answered("", [LOOK]) is None
    assert "still calling" in trial.verdict().got


def test_the_user_goes_on_when_a_turn_is_over() -> None:
    turns = (Turn("One?", says=(("1", "one"),)), Turn("Two?", lacks=("three",)))
    trial = Trial(Task("u", "turns", "x", "en", turns))
    assert trial.user == "One?"
    assert trial.answered("One.", []) is None
    assert trial.user == "Two?"
    assert trial.answered("Not three.", []) is None
    assert trial.user is None
    assert trial.verdict().expected == "a text without 'three'"


def test_an_endpoint_that_fails_fails_the_task() -> None:
    trial = Trial(DIM)
    trial.gave_up("it is gone")
    assert trial.user is None
    assert trial.verdict() == Verdict(False, 0, 'dim {"room": "snug", "level": 40}', "it is gone")


def test_a_file_keeps_its_lines_and_lacks_what_was_replaced() -> None:
    end = File(keeps=("# A", "- x", "- x"), says=(("new",),), lacks=("old",))
    assert file_fault(end, "# A\n- x\n- x\nnew\n") is None
    assert file_fault(end, "# A\nnew\n- x\n") == "with the line '- x' as it was"
    assert file_fault(end, "# A\n- x\n- x\nnew and old\n") == "without 'old'"
    assert file_fault(end, "# A\n- x\n- x\n") == "with new text that has new"


def test_a_changed_line_stands_in_its_place() -> None:
    end = File(keeps=("# A", "", "- z"), says=(("new",),), lacks=("old",))
    assert file_fault(end, "# A\n\n- new\n- z\n") is None
    assert file_fault(end, "# A\n- z\n- new\n") == "with all its other lines as they were"
    assert file_fault(end, "# A\n- z\n") == "with new text that has new"
    assert file_fault(end, "# A\n- old\n- z\n") == "with new text that has new"
