"""Held-out tasks for the agent's own tools: notes, files with sections, lists, weather that decides, reminders.

The sentences stand in words/held/<language>/field.toml. Every function draws one task's turns and folder.
"""

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from tokenwell.readiness.task import Call, File, Turn
from tokenwell.readiness.task import Words as Groups
from training.pseudo import pick
from training.tools import Request, polish
from training.world import Words

MEMORY = "MEMORY.md"
USER = "USER.md"
Draft = tuple[tuple[Turn, ...], dict[str, str], dict[str, File]]  # turns, files, what the files must be like in the end
Page = Mapping[str, Any]


class Sentences:
    """The sentences of one section of field.toml, filled with what the task knows."""

    def __init__(self, random: Random, words: Words, section: str) -> None:
        page: Mapping[str, Page] = words.pages["field"]
        self.random = random
        self.words = words
        self.page = page[section]
        self.weather = page["weather"]
        self.known: dict[str, str] = {}

    def draw(self, name: str, source: str) -> str:
        """Draw a known value from a list of the section."""
        self.known[name] = pick(self.random, self.page[source])
        return self.known[name]

    def fill(self, text: str) -> str:
        for name, value in self.known.items():
            text = text.replace("{" + name + "}", value)
        return text

    def ask(self, source: str = "requests", politely: bool = True) -> str:
        """A request; one that ends in free text stays as it is."""
        text = self.fill(pick(self.random, self.page[source]))
        return polish(self.random, self.words, Request(text, {}, {}, False)) if politely else text

    def say(self, source: str) -> str:
        return self.fill(self.page[source])

    def errand(self, wet: bool = True) -> tuple[str, Groups]:
        """Draw something to be reminded of, and the words that the reminder must have. The first is for wet days only."""
        task, *words = pick(self.random, self.page["tasks"][0 if wet else 1 :])
        self.known["task"] = task
        return task, tuple(tuple(word.split("|")) for word in words)

    def sky(self, condition: str) -> tuple[str, ...]:
        """The words that tell a condition: its own, and what else people call it."""
        return (condition, *self.weather["also_dry"].get(condition, self.weather["also_wet"]))

    def forecast(self, wet: bool) -> tuple[Call, str]:
        """The call for a city's weather today, and its condition; the city is known as {city}."""
        city = self.known.setdefault("city", pick(self.random, self.weather["cities"]))
        condition = self.known["condition"] = pick(self.random, self.weather["wet" if wet else "dry"])
        low = self.random.randint(2, 18)
        self.known |= {"low": str(low), "high": str(low + self.random.randint(2, 9))}
        fields = {
            "city": city,
            "date": self.known.setdefault("today", _day(self.random)),
            "condition": condition,
            "temperature_min_c": low,
            "temperature_max_c": int(self.known["high"]),
            "rain_probability_percent": self.random.randrange(60, 100, 5) if wet else self.random.randrange(0, 20, 5),
            "source": "open-meteo.com",
        }
        today = "今天" if self.words.language == "zh" else "today"
        return Call(
            "get_weather",
            {"city": city, "date": today},
            json.dumps(fields, ensure_ascii=False),
            words={"city": (_spellings(city),), "date": (("today", "今天"),)},
            spare=("date",),
        ), condition


def memory(random: Random, words: Words) -> str:
    """What MEMORY.md holds before."""
    texts = words.pages["field"]["note"]["texts"]
    lines = random.sample(texts, pick(random, (0, 1, 2, 3)))
    return "".join(f"{line}\n" for line in ["# Memory", "", *lines])


def note(random: Random, words: Words) -> Draft:
    """Append a note to MEMORY.md."""
    told = Sentences(random, words, "note")
    old = memory(random, words)
    fresh = [text for text in told.page["texts"] if text not in old]
    text = told.known["text"] = pick(random, fresh)
    call = _append(MEMORY, text)
    turn = Turn(told.ask(politely=False), ((call,),), told.say("answer"))
    return (turn,), {MEMORY: old}, {MEMORY: _added(old, ((text,),))}


def umbrella(random: Random, words: Words, wet: bool) -> Draft:
    """Whether to take an umbrella today."""
    told = Sentences(random, words, "umbrella")
    call, _ = told.forecast(wet)
    side = "yes" if wet else "no"
    page = told.page
    says, lacks = (tuple(page[f"says_{side}"]),), tuple(page[f"lacks_{side}"])
    return (Turn(told.ask(), ((call,),), told.say(side), says, lacks),), {}, {}


def rain(random: Random, words: Words, wet: bool) -> Draft:
    """The weather; if it rains, a note and a reminder, all asked for at once."""
    told = Sentences(random, words, "rain")
    call, _ = told.forecast(wet)
    task, wanted = told.errand()
    time = told.draw("time", "times")
    request = told.ask(politely=False)
    old = memory(random, words)
    if not wet:
        return (Turn(request, ((call,),), told.say("no"), (tuple(told.page["says_no"]),)),), {MEMORY: old}, {}
    rained = _rained(told)
    both = (_append(MEMORY, told.say("note")), _remind(task, wanted, time, f"{told.known['today']} {time}"))
    turn = Turn(request, ((call,), both), told.say("yes"), (tuple(told.weather["also_wet"]),))
    return (turn,), {MEMORY: old}, {MEMORY: _added(old, rained)}


def steps(random: Random, words: Words, wet: bool) -> Draft:
    """The weather, then a note if it rains, then a reminder: three messages of the user."""
    told, asked = Sentences(random, words, "steps"), Sentences(random, words, "rain")
    call, condition = told.forecast(wet)
    asked.known |= {"city": told.known["city"], "condition": condition}
    task, wanted = asked.errand(wet)
    time = told.known["time"] = asked.draw("time", "times")
    told.known["task"] = task
    old = memory(random, words)
    first = Turn(told.ask("first"), ((call,),), told.say("told"), (told.sky(condition),))
    kept = ((_append(MEMORY, asked.say("note")),),) if wet else ()
    says = () if wet else (tuple(asked.page["says_no"]),)
    second = Turn(told.ask("then", politely=False), kept, told.say("noted" if wet else "not_noted"), says)
    third = Turn(
        told.ask("last", politely=False), ((_remind(task, wanted, time, f"{told.known['today']} {time}"),),), told.say("reminded")
    )
    return (first, second, third), {MEMORY: old}, {MEMORY: _added(old, _rained(told))} if wet else {}


def remind(random: Random, words: Words) -> Draft:
    """One reminder."""
    told = Sentences(random, words, "remind")
    moments = pick(random, told.page["moments"])
    told.known["moment"] = moments[0]
    task, wanted = told.errand()
    times = [moment.removeprefix("at ").removeprefix("on ") for moment in moments]
    call = _remind(task, wanted, *times)
    return (Turn(told.ask(politely=False), ((call,),), told.say("answer")),), {}, {}


def section(random: Random, words: Words) -> Draft:
    """Update a section of USER.md: read it, write the whole of it."""
    told = Sentences(random, words, "user")
    names, values, old = _user(random, told)
    name = told.known["section"] = pick(random, names)
    text = told.known["text"] = pick(random, [value for value in told.page["sections"][name] if value != values[name]])
    new = old.replace(f"## {name}\n\n{values[name]}\n", f"## {name}\n\n{text}\n")
    request = told.ask(politely=False)
    turn = Turn(request, ((_read(USER),), (_write(USER, new),)), told.say("answer"))
    return (turn,), {USER: old}, {USER: _changed(old, new, text, values[name])}


def profile(random: Random, words: Words) -> Draft:
    """What a section of USER.md says."""
    told = Sentences(random, words, "user")
    names, values, old = _user(random, told)
    name = told.known["section"] = pick(random, names)
    told.known["text"] = values[name]
    return (Turn(told.ask("questions"), ((_read(USER),),), told.say("told"), ((values[name],),)),), {USER: old}, {}


def tick(random: Random, words: Words) -> Draft:
    """Tick off an item of a list."""
    told, path, items, old = _list(random, words)
    item = told.known["item"] = pick(random, items)
    new = old.replace(f"- [ ] {item}\n", f"- [x] {item}\n")
    return _edited(told, path, old, new, ("ticks", "ticked"), f"[x] {item}", f"[ ] {item}")


def swap(random: Random, words: Words) -> Draft:
    """Replace an item of a list by another."""
    told, path, items, old = _list(random, words)
    item = told.known["item"] = pick(random, items)
    other = told.known["new"] = pick(random, [each for each in told.page["items"] if each not in items])
    return _edited(told, path, old, old.replace(item, other), ("swaps", "swapped"), f"- [ ] {other}", item)


def add(random: Random, words: Words) -> Draft:
    """Read a list, then append a line to it."""
    told, path, items, old = _list(random, words)
    new = told.known["new"] = pick(random, [each for each in told.page["items"] if each not in items])
    turn = Turn(told.ask("adds", politely=False), ((_read(path),), (_append(path, f"- [ ] {new}"),)), told.say("added"))
    return (turn,), {path: old}, {path: _added(old, ((f"- [ ] {new}",),))}


def absent(random: Random, words: Words) -> Draft:
    """Read a file that is not there, and say so."""
    told, path, _, _ = _list(random, words)
    turn = Turn(told.ask("absent"), ((_read(path),),), told.say("missing"), (tuple(map(told.fill, told.page["says_missing"])),))
    return (turn,), {MEMORY: memory(random, words)}, {}


def cities(random: Random, words: Words) -> Draft:
    """The weather of two cities, in one turn."""
    told = Sentences(random, words, "cities")
    both: list[Call] = []
    says: list[tuple[str, ...]] = []
    for name in ("a", "b"):
        taken = told.known.get("a")
        told.known["city"] = pick(random, [city for city in told.weather["cities"] if city != taken])
        call, condition = told.forecast(random.random() < 0.5)
        both.append(call)
        told.known |= {name: told.known["city"], f"{name}_condition": condition}
        says += [(told.known["city"],), told.sky(condition)]
    return (Turn(told.ask(), (tuple(both),), told.say("answer"), tuple(says)),), {}, {}


# How many tasks of each kind a language gets.
MAKERS: tuple[tuple[str, int, Callable[[Random, Words], Draft]], ...] = (
    ("note", 4, note),
    ("umbrella", 3, lambda random, words: umbrella(random, words, True)),
    ("umbrella", 3, lambda random, words: umbrella(random, words, False)),
    ("if it rains", 3, lambda random, words: rain(random, words, True)),
    ("if it rains", 3, lambda random, words: rain(random, words, False)),
    ("rain, note, reminder", 3, lambda random, words: steps(random, words, True)),
    ("rain, note, reminder", 2, lambda random, words: steps(random, words, False)),
    ("reminder", 3, remind),
    ("USER.md section", 3, section),
    ("USER.md question", 2, profile),
    ("edit a file", 2, tick),
    ("edit a file", 2, swap),
    ("edit a file", 1, add),
    ("no such file", 1, absent),
    ("two cities", 2, cities),
)


# ------------------------------------------------------------------------------------------------ parts


def _read(path: str) -> Call:
    return Call("read_file", {"path": path})


def _write(path: str, text: str) -> Call:
    """The whole new text, without the last line's end, which nobody sees in a file that was read."""
    return Call("write_file", {"path": path, "content": text.rstrip("\n")})


def _append(path: str, text: str) -> Call:
    return Call("append_file", {"path": path, "content": text})


def _remind(task: str, wanted: Groups, *times: str) -> Call:
    """times: as the user said it, and what may be said for it."""
    result = {"text": task, "time": times[0], "file": "reminder-1.ics"}
    words: dict[str, Groups] = {"text": wanted, "time": (times,)}
    return Call("set_reminder", {"text": task, "time": times[0]}, json.dumps(result, ensure_ascii=False), words=words)


def _day(random: Random) -> str:
    return f"2026-{random.randint(1, 12):02d}-{random.randint(1, 28):02d}"


def _spellings(city: str) -> tuple[str, ...]:
    return (city, "Shanghai") if city == "上海" else (city,)


def _rained(told: Sentences) -> tuple[tuple[str, ...], ...]:
    """The words that a note about the rain must have."""
    city = told.known["city"]
    return (_spellings(city), (told.known["condition"], *told.weather["also_wet"]))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _added(old: str, says: tuple[tuple[str, ...], ...]) -> File:
    return File(keeps=_lines(old), says=says)


def _changed(old: str, new: str, text: str, gone: str) -> File:
    """A file in which one line became another."""
    kept = [line if line in _lines(old) else "" for line in _lines(new)]
    return File(keeps=tuple(kept), says=((text,),), lacks=(gone,))


def _user(random: Random, told: Sentences) -> tuple[list[str], dict[str, str], str]:
    sections = told.page["sections"]
    names = random.sample(list(sections), pick(random, (3, 4, 5)))
    values = {name: pick(random, sections[name]) for name in names}
    return names, values, "# User\n" + "".join(f"\n## {name}\n\n{value}\n" for name, value in values.items())


def _list(random: Random, words: Words) -> tuple[Sentences, str, list[str], str]:
    told = Sentences(random, words, "list")
    path = told.draw("file", "files")
    items = random.sample(told.page["items"], pick(random, (3, 4, 5)))
    title = told.page["titles"][told.page["files"].index(path)]
    return told, path, items, f"# {title}\n\n" + "".join(f"- [ ] {item}\n" for item in items)


def _edited(told: Sentences, path: str, old: str, new: str, sentences: tuple[str, str], text: str, gone: str) -> Draft:
    request, answer = sentences
    rounds = ((_read(path),), (_write(path, new),))
    turn = Turn(told.ask(request, politely=False), rounds, told.say(answer))
    return (turn,), {path: old}, {path: _changed(old, new, text, gone)}
