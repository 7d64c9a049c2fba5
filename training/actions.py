"""Actions of actions.toml: what is done with a fact once it is known (note it, remind, send it, switch something on)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training import kinds, outcome, tools
from training.kinds import Value
from training.pseudo import pick
from training.scene import Scene, Slots, inline, packed, subjects, weighed
from training.single import draw_tools
from training.spelling import capital
from training.tools import Tool

KEEP = ("task", "day", "field")
_STATES = ("ok", "done", "appended", "written", "set", "sent", "created", "saved", "success", "queued", "scheduled", "added")
_QUESTION = re.compile("[?？]$|[吗呢几哪]|多少|什么|怎么|要不要|有没有")
PAIRED = 0.4  # the share of clauses about a fact that name what it consists of, where that is known
OPEN = ("it", "again", "field", "lacking")  # forms of clauses that do not say the text


@dataclass(frozen=True)
class Action:
    """One action in a dialogue: its clause in the request, its tool, the values said, and what the answer says of it.

    text: the slot that takes a text; open: that text is not in the request, it is the fact.
    literal: done begins with a word, not with a value. lacks: a slot that the request leaves out; its value is there already.
    """

    clause: str
    tool: Tool
    values: Slots
    done: str
    text: str = ""
    open: bool = False
    literal: bool = False
    lacks: str = ""

    def about(self, text: str) -> "Action":
        """The same action, its open text now known."""
        if not self.open:
            return self
        return replace(self, values={**self.values, self.text: Value(text, text, "text")}, open=False)

    def call(self) -> tuple[Tool, Slots]:
        return self.tool, self.values


def act(scene: Scene, count: int = 1, form: str | None = None, known: Slots | None = None) -> list[Action]:
    """Draw so many different actions.

    form: "it" or "field" (the text is a fact), "again" (it is that of the call before), "does" (the request says everything);
    drawn when it is None. known: slots of the clause that are known; with a `pair`, "it" may be said by what it consists of.
    """
    random, page = scene.random, scene.words.pages["actions"]
    found: list[Action] = []
    for _ in range(20):
        if len(found) == count:
            break
        entry = weighed(random, page["action"])
        # Behind a text that the request gives, "it" would be that one.
        told = bool(found) and not found[-1].open
        drawn = form or pick(random, ("does", "tasks") if told else ("does", "it", "it", "tasks"))
        if drawn == "does" and form and "tasks" in entry and random.random() < 0.35:
            drawn = "tasks"
        if drawn not in entry:
            if form:
                continue
            drawn = "does"
        if all(action.tool.words.names != tuple(entry["tool"]["names"]) for action in found) and _fits(scene, entry):
            found.append(take(scene, entry, drawn, known))
    return found


def lacking(scene: Scene) -> list[Action]:
    """An action whose request leaves out a value that its tool must have, alone or after another one."""
    entries = [entry for entry in scene.words.pages["actions"]["action"] if "lacking" in entry]
    if not entries:
        return []
    late = take(scene, pick(scene.random, entries), "lacking")
    first = act(scene, 1, "it") if scene.random.random() < 0.6 else []
    return [late] if not first or first[0].tool is late.tool else [*first, late]


def of_world(scene: Scene) -> Action | None:
    """A request of any tool of the world as an action, at the end of a sentence; None where the page has no clause for it."""
    random, words = scene.random, scene.words
    clause = words.pages["actions"].get("world")
    if clause is None:
        return None
    for _ in range(10):
        told = draw_tools(random, words, 1)[0]
        if told.results and all(set(text[1::2]) & told.results.keys() for text in told.answers):
            continue  # a question, whose answer nobody would be told
        if any(subjects(told) & subjects(tool.words) for tool in scene.tools):
            continue
        tool = scene.declare(told)
        # It stands behind "do this": an order, and one that shows its end.
        asked = (tools.ask(random, words, tool) for _ in range(6))
        request = next((one for one in asked if not one.open and not _QUESTION.search(one.text)), None)
        if request is None:
            continue
        done = outcome.answer(random, words, tool, request, {})
        return Action(clause.replace("{request}", _bare(request.text)), tool, dict(request.values), _bare(done))
    return None


def _bare(text: str) -> str:
    return text.rstrip(".?!。？！")


def _fits(scene: Scene, entry: Mapping[str, Any]) -> bool:
    """Whether no other tool of the dialogue could be meant by this action."""
    told = inline(entry["tool"])
    if any(tool.words.key == told.key for tool in scene.tools):
        return True
    return not any(subjects(told) & subjects(tool.words) for tool in scene.tools)


def returned(scene: Scene, action: Action | None = None) -> str:
    """What such a tool returns: a word, or what it was called with and how it went."""
    random = scene.random
    if action is not None and random.random() < 0.4:
        fields = action.tool.arguments(action.values)
        shown = {name: value for name, value in fields.items() if random.random() < 0.7}
        state = {pick(random, ("status", "state", "result")): pick(random, _STATES)}
        if random.random() < 0.3:
            state["file"] = kinds.draw(random, scene.words, "file").given
        return packed(random, {**shown, **state} if random.random() < 0.7 else {**state, **shown})
    frame = pick(random, scene.words.pages["actions"]["results"]["any"])
    return str(frame).replace("{id}", scene.given("@id")).replace("{time}", "12:00")


def finished(scene: Scene, actions: list[Action]) -> str:
    """The sentence that says that these actions were done."""
    page = scene.words.pages["actions"]
    text = page["and"].join(action.done for action in actions)
    return str(page["done"]).replace("{}", capital(text) if actions[0].literal else text)


def take(scene: Scene, entry: Mapping[str, Any], form: str, known: Slots | None = None) -> Action:
    """An action of actions.toml in one of its forms; its tool is declared, and other tools for the same things beside it."""
    tool = scene.declare(entry["tool"])
    kit = scene.words.pages.get("documents", {}).get("kit", {})
    if "see" in entry and kit and scene.random.random() < 0.45:
        for part in ("read", "write"):
            scene.declare(kit[part])
    lists = {**scene.words.pages["actions"]["words"], **entry.get("words", {})}
    own: Slots = dict(known or {})
    outer, scene.slots = scene.slots, own  # an action's slots are its own: two reminders have two times
    # The entry's own kinds: another entry may have declared the tool, with times where this one has days and times.
    leaves = {leaf.slot: leaf for leaf in inline(entry["tool"]).leaves()}
    for slot, leaf in leaves.items():
        if slot in entry.get("arguments", {}):
            given = entry["arguments"][slot]
            own[slot] = Value(given, given, "enum")
        elif slot != entry.get("text"):
            scene.draw(slot, leaf.kind, lists, KEEP)
    clause = scene.fill(pick(scene.random, _frames(scene, entry[form], own)), lists, KEEP)
    frame = pick(scene.random, entry["done"])
    done = scene.fill(frame, lists, KEEP)
    scene.slots = outer
    if form == "tasks":
        own[entry["text"]] = own["task"]
    values = {slot: own[slot] for slot in leaves if slot in own}
    lacks = entry["lacks"] if form == "lacking" else ""
    return Action(clause, tool, values, done, entry.get("text", ""), form in OPEN, not frame.startswith("{"), lacks)


def pair(scene: Scene, probe: Mapping[str, Any]) -> Slots:
    """What a note of a probe's fact consists of, as slots that are known: "the place and the forecast"."""
    page = scene.words.pages["actions"]
    labels = probe.get("labels") or page["labels"].get(probe["subject"].strip("{}"), page["labels"]["other"])
    first, second = (pick(scene.random, each) for each in labels)
    text = pick(scene.random, page["pairs"]).replace("{a}", first).replace("{b}", second)
    return {"pair": Value(text, text, "pair")}


def _frames(scene: Scene, frames: Sequence[str], known: Slots) -> list[str]:
    """Those that can be filled; PAIRED of the time those that name a known pair."""
    pairs = [frame for frame in frames if "{pair}" in frame]
    if pairs and "pair" in known and scene.random.random() < PAIRED:
        return pairs
    return [frame for frame in frames if frame not in pairs]
