"""Dialogues about one fact in a long result: a table, a list, JSON or lines of text with up to 60 rows."""

from random import Random
from typing import Any

from training import actions, conditions, pseudo
from training.dialogue import Dialogue
from training.kinds import draw
from training.pseudo import pick
from training.scene import Scene, packed
from training.spelling import capital
from training.world import ToolWords, Words

_ROWS = (2, 3, 4, 5, 6, 8, 8, 10, 12, 15, 20, 30, 45, 60)
Row = dict[str, Any]


def lookup(random: Random, words: Words, world: object = None) -> Dialogue:
    """What is the price of X in the list? Then perhaps another question about the same list, and a note of the answer."""
    scene = Scene(random, words, "lookup")
    page = words.pages["lookups"]
    things = pick(random, tuple(page["things"]))
    said = {"things": things, "thing": page["things"][things]}
    fields = random.sample(sorted(page["fields"]), pick(random, (1, 2, 2, 3, 4)))
    rows = _table(random, words, fields, pick(random, _ROWS))
    tool = scene.declare(_tool(random, words, said))
    name, field = pick(random, list(rows)), pick(random, fields)
    backwards = random.random() < 0.15 and sum(row[field] == rows[name][field] for row in rows.values()) == 1
    said |= {"name": name, "field": field, "value": str(rows[name][field])}
    absent = not backwards and random.random() < 0.06
    if absent:
        said["name"] = draw(random, words, "person").said
    scene.ask(_put(pick(random, page["whose" if backwards else "questions"]), said))
    scene.call((tool, {}))
    scene.result(printed(random, rows))
    if absent and said["name"] not in rows:
        scene.say(_put(page["absent"], said))
        return scene.dialogue(scene.beside(conditions.others(words)))
    said |= {"name": name}
    answer = _put(page["reverse" if backwards else "answers"], said)
    scene.say(answer)
    for _ in range(pick(random, (0, 0, 1, 1, 2, 3))):
        answer = _next(scene, said, rows, fields)
    if random.random() < 0.3:
        todo = actions.act(scene, 1, "it")
        scene.user(capital(todo[0].clause) + ("。" if words.language == "zh" else "."))
        scene.call(todo[0].about(answer.rstrip(".。")).call())
        scene.result(actions.returned(scene))
        scene.say(actions.finished(scene, todo))
    return scene.dialogue(scene.beside(conditions.others(words)))


def _next(scene: Scene, said: dict[str, str], rows: dict[str, Row], fields: list[str]) -> str:
    """A further question about the rows that were returned: no call is needed."""
    random, page = scene.random, scene.words.pages["lookups"]
    before = said["name"], said["field"]
    for _ in range(10):  # nobody asks the same again
        frame = pick(random, page["next"])
        if "{field}" in frame:
            said["field"] = pick(random, fields)
        if "{name}" in frame:
            said["name"] = pick(random, list(rows))
        if (said["name"], said["field"]) != before:
            break
    said["value"] = str(rows[said["name"]][said["field"]])
    scene.user(_put(frame, said))
    answer = _put(page["answers"], said)
    scene.say(answer)
    return answer


def _tool(random: Random, words: Words, said: dict[str, str]) -> ToolWords:
    page = words.pages["lookups"]
    name = _put(pick(random, page["names"]), said).replace(" ", "_")
    if random.random() < 0.15:
        name = pseudo.word(random) + "_" + said["thing"]
    return ToolWords((name,), (_put(pick(random, page["descriptions"]), said),), (), domain="page", key=f"~{name}")


def _table(random: Random, words: Words, fields: list[str], count: int) -> dict[str, Row]:
    page = words.pages["lookups"]
    kind = pick(random, page["rows"])
    rows: dict[str, Row] = {}
    for _ in range(count):
        name = draw(random, words, kind).said
        kinds = {field: page["fields"][field] for field in fields}
        rows[name] = {field: _cell(random, words, spec) for field, spec in kinds.items()}
    return rows


def _cell(random: Random, words: Words, spec: list[str] | str) -> Any:
    return pick(random, spec) if isinstance(spec, list) else draw(random, words, spec).given


def printed(random: Random, rows: dict[str, Row]) -> str:
    """Rows as a tool prints them."""
    first = pick(random, ("name", "name", "id", "title", "key"))
    shape = random.random()
    flat = [{first: name, **row} for name, row in rows.items()]
    if shape < 0.2:
        return packed(random, flat)
    if shape < 0.32:
        return packed(random, {pick(random, ("items", "rows", "results", "data", "entries")): flat, "total": len(flat)})
    if shape < 0.42:
        return packed(random, rows)
    keys = list(flat[0])
    if shape < 0.55:
        split = pick(random, (",", ";", "\t", ", "))
        return "\n".join(split.join(str(value) for value in line) for line in (keys, *(row.values() for row in flat)))
    if shape < 0.7:
        table = [keys, ["---"] * len(keys), *(list(row.values()) for row in flat)]
        return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in table)
    mark = pick(random, ("- ", "* ", ""))
    colon = pick(random, (": ", "=", " = "))
    lines = []
    for name, row in rows.items():
        lines.append(f"{mark}{name}: " + ", ".join(f"{key}{colon}{value}" for key, value in row.items()))
    return "\n".join(lines)


def _put(text: str, said: dict[str, str]) -> str:
    for name, part in said.items():
        text = text.replace("{" + name + "}", part)
    return text


KINDS = {"lookup": (3.0, lookup)}
