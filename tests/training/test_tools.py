"""Declared tools and what is said to reach them."""

import json
from dataclasses import replace
from random import Random

import pytest
from training import outcome, tools
from training.invent import invent, namesake
from training.kinds import Value
from training.spelling import name_words, restyle
from training.tools import Tool, ask, declare, toolbox
from training.wording import wording
from training.world import LANGUAGES, Parameter, ToolWords, World, faults, frame, frames

WORLD = World.load("train", ("en",))
WORDS = WORLD.language("en")


def _tool(**parameters: Parameter) -> ToolWords:
    return ToolWords(
        names=("tell_person",),
        descriptions=("Tells a person something.",),
        requests=frames(["Tell {who} that {text}", "Tell {who} {text} at once"]),
        parameters=tuple(parameters.values()),
        key="tell_person",
    )


TELL = _tool(
    who=Parameter("who", ("person", "to"), "person", True),
    text=Parameter("text", ("text",), "text", True),
)


def _holds(value: object, schema: dict[str, object]) -> bool:
    kind = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}[
        str(schema["type"])
    ]
    return isinstance(value, kind) and ("enum" not in schema or value in schema["enum"])  # type: ignore[operator]


def test_the_words_have_no_faults() -> None:
    assert faults(WORDS) == []
    assert len(WORDS.tools) >= 120
    assert len({tool.key for tool in WORDS.tools}) == len(WORDS.tools)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_held_out_words_have_no_faults(language: str) -> None:
    assert faults(World.load("held").language(language)) == []


def test_bounds_defaults_and_descriptions_fit_their_parameter() -> None:
    bad = _tool(
        who=Parameter("who", ("who",), "person", True, ("",), stated=True),
        text=Parameter("text", ("text",), "text", True, bounds=(1, 2)),
        mild=Parameter("mild", ("mild",), "flag", True, yes=(" mild",), no=(" hot",), default=False),
    )
    found = faults(replace(WORDS, tools=(bad,)))
    for fault in ("who is stated without", "bounds of text want", "mild is required"):
        assert any(fault in text for text in found), found


def test_invented_names_are_quoted_where_the_words_want_it() -> None:
    words = World.load("held").language("zh")
    random, quoted = Random(3), 0
    for tool in words.tools * 10:
        request = ask(random, words, declare(random, words, tool))
        for value in request.values.values():
            names = words.names.get(value.kind.removeprefix("list:"), ())
            for name in value.given if isinstance(value.given, list) else [value.given]:
                if names and name not in names:
                    quoted += 1
                    around = request.text.partition(name)
                    assert around[0][-1] + around[2][0] in ("“”", "「」", "『』", "''", '""', "《》"), request.text
    assert quoted > 50


def test_held_out_names_are_not_learned() -> None:
    held = {"read_file", "write_file", "append_file", "get_weather", "set_reminder", "list_files", "edit_file"}
    spelled = {"_".join(name_words(name)) for tool in WORDS.tools for name in tool.names}
    assert not held & spelled


@pytest.mark.parametrize(
    ("name", "style", "expected"),
    [
        ("book_table", "camel", "bookTable"),
        ("bookTable", "kebab", "book-table"),
        ("table.reserve", "pascal", "TableReserve"),
        ("a.b", "as is", "a.b"),
        ("getURL2", "snake", "get_url_2"),
    ],
)
def test_names_change_their_style(name: str, style: str, expected: str) -> None:
    assert restyle(name, style) == expected


def test_a_call_fits_its_declaration() -> None:
    random = Random(1)
    for words in (*WORDS.tools, *(invent(random, WORDS) for _ in range(200))):
        tool = declare(random, WORDS, words)
        function = tool.declaration["function"]
        request = ask(random, WORDS, tool)
        schema = function["parameters"]
        assert set(schema.get("required", ())) <= set(request.arguments) <= set(schema["properties"])
        for name, value in request.arguments.items():
            assert _holds(value, schema["properties"][name]), (tool.name, name, value)


def test_how_a_value_is_wanted_is_always_told() -> None:
    day = Parameter("day", ("day",), "date", True, ("Day, as said",), stated=True)
    told = _tool(day=day, plain=replace(day, slot="plain", names=("plain",), stated=False))
    described = []
    for seed in range(200):
        tool = declare(Random(seed), WORDS, told)
        properties = tool.declaration["function"]["parameters"]["properties"]
        described.append({slot for slot, name in tool.spelled.items() if "description" in properties[name]})
    assert all("day" in slots for slots in described)
    assert not all("plain" in slots for slots in described)


def test_a_request_says_every_value() -> None:
    random = Random(2)
    for words in (*WORDS.tools, *(invent(random, WORDS) for _ in range(300))):
        request = ask(random, WORDS, declare(random, WORDS, words))
        for value in request.values.values():
            said = value.given if value.kind == "moment" else value.said.strip()
            assert said in request.text or said.lower() in request.text, request
        assert "{" not in request.text.replace("{ ", "") or "code" in {leaf.kind for leaf in words.leaves()}


def test_free_text_shows_where_it_ends() -> None:
    random = Random(4)
    for _ in range(300):
        request = ask(random, WORDS, declare(random, WORDS, TELL))
        said = request.values["text"].said
        after = request.text[request.text.index(said) + len(said) :]
        assert after[:1] in "\"'”’」』`" or (after.strip(".?") == "" and request.open)


def test_quotes_of_a_frame_are_enough() -> None:
    text, is_open = wording(Random(1), WORDS, ["Say “", Value("hello", "hello", "text", free=True), "” twice"])
    assert text == "Say “hello” twice" and not is_open


def test_known_values_are_said() -> None:
    tool = declare(Random(1), WORDS, TELL)
    request = ask(Random(2), WORDS, tool, known={"who": Value("Mo", "Mo", "person")})
    assert "Mo" in request.text and request.arguments[tool.spelled["who"]] == "Mo"


def test_an_object_holds_its_properties() -> None:
    words = ToolWords(
        names=("ship",),
        descriptions=("Ships.",),
        requests=(frame("Ship to {street} in {town}"),),
        parameters=(
            Parameter(
                "to",
                ("address",),
                "object",
                True,
                parameters=(Parameter("street", ("street",), "place", True), Parameter("town", ("town",), "city", True)),
            ),
        ),
    )
    request = ask(Random(1), WORDS, declare(Random(1), WORDS, words))
    assert request.arguments == {"address": {"street": request.values["street"].given, "town": request.values["town"].given}}


def test_the_toolbox_holds_the_chosen_and_never_twice_a_name() -> None:
    random = Random(6)
    for _ in range(100):
        chosen = declare(random, WORDS, tools.pick(random, WORDS.tools))
        avoided = tools.pick(random, WORDS.tools)
        box = toolbox(random, WORDS, [chosen], avoid=[avoided] if avoided.key != chosen.words.key else [])
        names = [tool["function"]["name"] for tool in box]
        assert chosen.declaration in box
        assert len(names) == len(set(names)) <= 12


def test_a_namesake_is_another_tool() -> None:
    random = Random(7)
    for _ in range(200):
        tool = declare(random, WORDS, invent(random, WORDS), "snake")
        other = namesake(random, WORDS, tool, "snake")
        assert isinstance(other, Tool)
        assert other.words.recipe != tool.words.recipe


def test_a_result_holds_the_fields_of_the_answer() -> None:
    random = Random(8)
    for words in WORDS.tools:
        tool = declare(random, WORDS, words)
        request = ask(random, WORDS, tool)
        text, fields = outcome.result(random, WORDS, tool)
        answer = outcome.answer(random, WORDS, tool, request, fields)
        assert answer.endswith((".", "!", "?")) or words.answers
        for name, value in fields.items():
            for item in value.given if isinstance(value.given, list) else [value.given]:
                assert json.dumps(item, ensure_ascii=False).strip('"') in text, (name, text)
            if "{" + name + "}" in "".join(f"{{{slot}}}" for slot in words.answers[0][1::2]):
                assert value.said in answer


def test_most_answers_say_all_that_was_found() -> None:
    random = Random(10)
    words = next(tool for tool in WORDS.tools if tool.answers and tool.results)
    tool = declare(random, WORDS, words)
    request = ask(random, WORDS, tool)
    reported = 0
    for _ in range(200):
        _, fields = outcome.result(random, WORDS, tool)
        own = outcome.answer(random, WORDS, tool, request, fields)
        told = outcome.tell(random, WORDS, tool, request, fields, {"shelf": Value("B7", "B7", "word")})
        assert told == own or ("B7" in told and all(value.said in told for value in fields.values() if value.said != "true"))
        reported += told != own
    assert 90 < reported < 150


def test_a_failure_is_reported_in_its_own_words() -> None:
    random = Random(9)
    tool = declare(random, WORDS, TELL)
    content, answer = outcome.failure(random, WORDS, tool, ask(random, WORDS, tool))
    reason = answer.removeprefix(WORDS.frames["failed"][0].split("{")[0]).rstrip(".")
    assert reason in content


def test_languages_are_those_of_the_words() -> None:
    assert WORLD.languages == ("en",) and set(LANGUAGES) == {"en", "zh"}
