"""Dialogues in which a fact decides: look it up, then do something or not, or say yes or no with the reason."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from training import actions, kinds, pseudo
from training.clock import BARE_DAYS
from training.dialogue import Dialogue
from training.disguise import vocabulary
from training.kinds import Value
from training.pseudo import pick
from training.scene import Scene, Slots, joined, other_word, page_tools, weighed, what
from training.tools import Tool
from training.wording import quote, sentence
from training.world import ToolWords, Words

# Lists whose words are not invented: an unknown thing is one against the rain, so that there is one right answer.
KEEP = ("day", "sunny", "outdoor", "warm", "cover")
_DAY = re.compile(r"(,? )?\{day\}")
_SLOT = re.compile(r"\{(\w+)\}")
_GAPS = (1, 2, 3, 5, 8, 15, 30, 60, 150, 400)


@dataclass(frozen=True)
class Fact:
    """A probe that was drawn: its tool and arguments, its result, and whether the condition holds. above: of a comparison."""

    probe: Mapping[str, Any]
    case: Mapping[str, Any]
    tool: Tool
    values: Slots
    content: str
    holds: bool
    above: bool = True

    def says(self, scene: Scene) -> str:
        return said(scene, self.probe, self.case["yes_says" if self.holds else "no_says"])

    def note(self, scene: Scene) -> str:
        """The text of a note when the request gives none."""
        frame = scene.words.pages["conditions"]["noted"]
        return joined(
            frame, {"subject": fill(scene, self.probe, self.probe["subject"]), "fact": fill(scene, self.probe, self.case["fact"])}
        )

    def pair(self, scene: Scene) -> Slots:
        """What a note of it consists of, for the clauses of actions."""
        return actions.pair(scene, self.probe)

    def condition(self, scene: Scene) -> str:
        key = "if" if "if" in self.case else ("above" if self.above else "below")
        return said(scene, self.probe, self.case[key])

    def whole_condition(self, scene: Scene) -> str:
        """The condition with what it is about: "if it rains in Porto tomorrow"."""
        key = "full" if "full" in self.case else ("full_above" if self.above else "full_below")
        return said(scene, self.probe, self.case[key])


def condition(random: Random, words: Words, world: object = None) -> Dialogue:
    """Look something up; if it is so, do one or two things, otherwise something else or nothing. Once or twice."""
    scene = Scene(random, words, "condition")
    for _ in range(pick(random, (1, 1, 1, 2))):
        scene.slots = {}
        decide(scene)
    return _close(scene)


def advice(random: Random, words: Words, world: object = None) -> Dialogue:
    """Do I need a raincoat? Yes or no, with the reason from the result; one to four such questions."""
    scene = Scene(random, words, "advice")
    for _ in range(pick(random, (1, 1, 2, 2, 3, 4))):
        scene.slots = {}
        if random.random() < 0.22:
            both(scene)
        else:
            advise(scene)
    return _close(scene)


def advise(scene: Scene) -> Fact:
    """The turns of a question that is answered by yes or no."""
    entry, case = _covered(scene.words)
    if scene.random.random() < 0.25:
        fact, agrees = drawn(scene, entry, case), True
        asked = said(scene, entry, [frame for frame in case["advice"] if "{cover}" in frame])
    else:
        fact = probe(scene)
        asked, agrees = question(scene, fact)
    ask(scene, asked)
    look(scene, fact)
    frame = scene.words.pages["conditions"]["advice_yes" if fact.holds == agrees else "advice_no"]
    scene.say(joined(frame, {"says": fact.says(scene)}))
    return fact


def both(scene: Scene) -> str:
    """The turns of one question about two things: two calls at once, and what each is like, or yes or no for each."""
    random, page = scene.random, scene.words.pages["conditions"]
    first = probe(scene)
    asked = first.tool.words.leaves()[0].slot
    advised = "compare" not in first.case and random.random() < 0.35
    states = [_told_of(scene, first, advised)]
    second = first
    for _ in range(10):
        scene.slots = {slot: value for slot, value in first.values.items() if slot != asked}
        second = drawn(scene, first.probe, first.case if advised else pick(random, first.probe["case"]), again=True)
        if second.values[asked].said != first.values[asked].said:
            break
    states.append(_told_of(scene, second, advised))
    names = [fact.values[asked].said for fact in (first, second)]
    # A name that reads like two would make three of them.
    names = [quote(random, scene.words.language, name) if kinds.listed(name) else name for name in names]
    pair = pick(random, page["pairs"]).replace("{a}", names[0]).replace("{b}", names[1])
    scene.slots[asked] = Value(pair, pair, asked)
    ask(scene, said(scene, first.probe, first.case["advice"] if advised else first.probe["questions"]))
    scene.call((first.tool, first.values), (second.tool, second.values))
    scene.result(first.content, second.content)
    answer = _sentences(scene, states)
    scene.say(answer)
    return answer


def _told_of(scene: Scene, fact: Fact, advised: bool) -> str:
    """What one of two things is like."""
    return fact.says(scene) if advised else said(scene, fact.probe, fact.probe["states"])


def ask(scene: Scene, text: str) -> None:
    """A request; now and then something else is told before it, with names that the calls must not take."""
    random, words = scene.random, scene.words
    remarks = words.pages.get("talk", {}).get("remark", {}).get("prompts", ())
    if remarks and random.random() < 0.14:
        known, scene.slots = scene.slots, {}
        aside = scene.fill(pick(random, [one for one in remarks if "{" in one]))
        scene.slots = known
        if all(value.said not in aside for value in known.values()):
            scene.user(sentence(words.language, aside) + ("" if words.language == "zh" else " ") + text)
            return
    scene.ask(text)


def decide(scene: Scene) -> Fact:
    """The turns of a condition, from the request to the answer."""
    random, page = scene.random, scene.words.pages["conditions"]
    fact = probe(scene)
    pair = fact.pair(scene)
    todo = actions.act(scene, pick(random, (1, 1, 1, 2, 2)), known=pair)
    other = actions.of_world(scene) if random.random() < 0.15 else None
    instead = actions.act(scene, 1, known=pair) if other is None and random.random() < 0.2 else []
    if other is not None:
        todo = [other]
    elif random.random() < 0.08:
        todo = actions.lacking(scene) or todo
    parts = {
        "ask": said(scene, fact.probe, fact.probe["asks"]),
        "question": said(scene, fact.probe, fact.probe["questions"]),
        "if": fact.condition(scene),
        "do": todo[0].clause if len(todo) == 1 else _both(random, page, todo),
    }
    frame = pick(random, page["requests"])
    if "topics" in fact.probe and random.random() < 0.3:
        parts["topic"] = said(scene, fact.probe, fact.probe["topics"])
        frame = pick(random, page["topics"])
    elif random.random() < 0.35:
        parts["full"] = fact.whole_condition(scene)
        frame = pick(random, page["alone"])
    if other is not None:  # it may be of several sentences, so it stands at the end
        frame = pick(random, [frame for frame in page["requests"] if frame.rstrip(".?。？").endswith("{do}")])
    if instead:
        parts["else"] = instead[0].clause
        frame = pick(random, page["otherwise"])
    ask(scene, joined(frame, parts))
    look(scene, fact)
    follow(scene, fact, todo if fact.holds else instead)
    return fact


def probe(scene: Scene) -> Fact:
    """Draw a probe, one of its cases, an outcome and a result that fits; the fields are slots of the scene from now on."""
    random, page = scene.random, scene.words.pages["conditions"]
    entry = weighed(random, page["probe"])
    case = weighed(random, entry["case"])
    return drawn(scene, entry, case)


def drawn(scene: Scene, entry: Mapping[str, Any], case: Mapping[str, Any], again: bool = False) -> Fact:
    """A fact of this probe and case; slots that are known already stay, and `again` adds no optional ones."""
    random, page = scene.random, scene.words.pages["conditions"]
    tool = scene.declare(entry["tool"])
    for leaf in tool.words.leaves():
        if leaf.required or (not again and random.random() < 0.75):
            lists = {**page["words"], **entry.get("words", {})}
            known = leaf.slot in scene.slots
            for _ in range(10):
                value = scene.draw(leaf.slot, leaf.kind, lists, KEEP)
                if known or not kinds.listed(value.said):
                    break
                del scene.slots[leaf.slot]  # it reads like two
            scene.slots[leaf.slot] = value
    values = {leaf.slot: scene.slots[leaf.slot] for leaf in tool.words.leaves() if leaf.slot in scene.slots}
    holds, above = random.random() < 0.5, random.random() < 0.5
    state = case.get("yes" if holds else "no", {})
    fields = {name: scene.given(state.get(name, spec)) for name, spec in entry["result"].items()}
    if "compare" in case:
        _compare(scene, case, fields, holds == above)
    needed = {case["compare"]} if "compare" in case else set()
    for text in (*case["yes_says"], *case["no_says"], case["fact"], *entry["states"]):
        needed.update(name for name in _SLOT.findall(text) if name in fields)
    fields = {name: value for name, value in fields.items() if name in needed or name in state or random.random() < 0.7}
    content = scene.printed(fields, entry.get("spellings", {}), entry.get("texts", ()), needed)
    scene.bind({name: value for name, value in fields.items() if name not in values})
    return Fact(entry, case, tool, values, content, holds, above)


def look(scene: Scene, fact: Fact) -> None:
    scene.call((fact.tool, fact.values))
    scene.result(fact.content)


def follow(scene: Scene, fact: Fact, todo: list[actions.Action]) -> None:
    """What is done after the fact is known, and the answer; what lacks a value waits until the user gives it."""
    random, pages = scene.random, scene.words.pages
    todo = [action.about(fact.note(scene)) for action in todo]
    ready = [action for action in todo if not action.lacks]
    said_so = [fact.says(scene)]
    if ready:
        scene.call(*(action.call() for action in ready))
        scene.result(*(actions.returned(scene, action) for action in ready))
        said_so.append(actions.finished(scene, ready))
    if not todo:
        said_so.append(pick(random, pages["conditions"]["undone"]))
    for late in todo[len(ready) :]:
        asks = pick(random, pages["missing"]["asks"])
        said_so.append(asks.replace("{what}", what(scene.words.language, late.tool, late.lacks)))
        scene.say(_sentences(scene, said_so))
        scene.user(pick(random, pages["missing"]["replies"]).replace("{value}", late.values[late.lacks].said))
        scene.call(late.call())
        scene.result(actions.returned(scene, late))
        said_so = [actions.finished(scene, [late])]
    scene.say(_sentences(scene, said_so))


def others(words: Words, fact: Fact | None = None) -> list[ToolWords]:
    """Tools that may stand beside: those of other probes and actions."""
    return page_tools(words, ("conditions", "probe"), ("actions", "action"))


def said(scene: Scene, entry: Mapping[str, Any], frames: Sequence[str]) -> str:
    """One of the frames, filled; the day is left out where none is meant, and "'s" follows today and tomorrow only."""
    day = scene.slots.get("day")
    if day is None or day.said not in BARE_DAYS:
        frames = [frame for frame in frames if "{day}'s" not in frame]
    frame = pick(scene.random, frames)
    if day is None:
        frame = _DAY.sub("", frame)
    return fill(scene, entry, frame)


def _covered(words: Words) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The probe and the case in which anything may be asked for: whether it is wet."""
    entries = words.pages["conditions"]["probe"]
    return next(
        (entry, case) for entry in entries for case in entry["case"] if any("{cover}" in text for text in case.get("advice", ()))
    )


def _any_cover(scene: Scene) -> Value:
    """Anything at all that somebody may take along against the rain: a known cover, a word of any kind, an invented one."""
    random, words = scene.random, scene.words
    known = pick(random, words.pages["conditions"]["words"]["cover"])
    chance = random.random()
    if chance < 0.3:
        text = known
    elif chance < 0.5:
        text = other_word(random, words.language, known)
    else:
        if chance < 0.75 and "vocabulary" in words.frames.get("invented", {}):
            text = pick(random, vocabulary(words))
        elif chance < 0.87:
            text = kinds.draw(random, words, "product").said
        else:
            text = pseudo.han(random, 2) if words.language == "zh" else pseudo.word(random)
        before = pick(random, words.pages["conditions"]["mine"])
        text = before + text
    return Value(text, text, "cover")


def fill(scene: Scene, entry: Mapping[str, Any], text: str) -> str:
    if "{cover}" in text and "cover" not in scene.slots:
        scene.slots["cover"] = _any_cover(scene)
    return scene.fill(text, {**scene.words.pages["conditions"]["words"], **entry.get("words", {})}, KEEP)


def _compare(scene: Scene, case: Mapping[str, Any], fields: dict[str, Any], more: bool) -> None:
    """Set the compared field and a limit under (more) or over it."""
    random = scene.random
    value = scene.given(case["range"])
    gap = min(pick(random, _GAPS), max(abs(value), 2) if value > 0 else 60)
    limit = value - gap if more else value + gap
    if value >= 0 and limit <= 0:
        value, limit = min(value + gap + 1, case.get("most", value + gap + 1)), max(value, 1)
    if case["compare"] == "price" and random.random() < 0.3:
        value = value + pick(random, (0.5, 0.99, 0.95, 0.49, 0.9)) if more else value - pick(random, (0.01, 0.05, 0.5, 0.1))
        value = round(value, 2)
    limit = min(limit, case.get("most", limit))
    fields[case["compare"]] = value
    if "lower" in case:
        # Where the limit lies between the two, "colder than" would have two answers.
        fields[case["lower"]] = value - random.randint(0, min(12, value - limit - 1)) if more else value - random.randint(2, 12)
    scene.slots["limit"] = Value(str(limit), limit, "limit")


def question(scene: Scene, fact: Fact) -> tuple[str, bool]:
    """A question whose answer is yes when the condition holds (True) or when it does not (False)."""
    case = fact.case
    if "compare" in case:
        return said(scene, fact.probe, case["advice_above" if fact.above else "advice_below"]), True
    if "against" in case and scene.random.random() < 0.35:
        return said(scene, fact.probe, case["against"]), False
    return said(scene, fact.probe, case["advice"]), True


def _sentences(scene: Scene, texts: list[str]) -> str:
    return ("" if scene.words.language == "zh" else " ").join(texts)


def _both(random: Random, page: Mapping[str, Any], todo: list[actions.Action]) -> str:
    first, second = (action.clause for action in todo)
    before, middle, after = pick(random, page["both"]).split("{}")
    return f"{before}{first}{middle}{second}{after}"


def _close(scene: Scene) -> Dialogue:
    return scene.dialogue(scene.beside(others(scene.words)))


KINDS = {"condition": (3.0, condition), "advice": (2.0, advice)}
