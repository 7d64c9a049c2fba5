"""A dialogue in the making, and the slots that its sentences and results are filled from.

Pages of words (conditions.toml, actions.toml, ...) hold inline tools in the schema of tools*.toml, and values in a small
notation: "a..b" is a whole number between, of a list one is drawn, "@kind" is drawn by kind, "{slot}" is filled, all else is
itself.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

from training import dialogue, invent, kinds, pseudo, tools
from training.dialogue import Dialogue
from training.kinds import Value
from training.prompts import system_prompt
from training.pseudo import pick
from training.spelling import STYLES, capital, name_words, restyle
from training.tools import Tool
from training.wording import quote
from training.world import ToolWords, Words, tool_words

Slots = dict[str, Value]
Spec = Any  # a value in the notation above, as TOML gives it
_SLOT = re.compile(r"\{(\w+)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_QUOTED = re.compile(r"(['\"“「])\{(\w+)\}(['\"”」])")
_MORE = re.compile(r"[.;,] |[。；，：]|: | ?[(（]")  # what follows the name of a parameter in its description
_CLOSING = {"'": "'", '"': '"', "“": "”", "「": "」"}
# Names by which the model is judged; words put together by chance must not make them.
_NOT_OURS = {
    ("read", "file"), ("write", "file"), ("append", "file"), ("edit", "file"), ("list", "files"), ("get", "weather"),
    ("set", "reminder"),
}  # fmt: skip
_DISTRACTORS = (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10)


class Scene:
    """One dialogue: what was said, called and returned so far, and the slots that are known."""

    def __init__(self, random: Random, words: Words, kind: str) -> None:
        self.random = random
        self.words = words
        self.kind = kind
        self.slots: Slots = {}
        prompt = system_prompt(random, words)
        self.messages: list[dict[str, Any]] = [] if prompt is None else [dialogue.system(prompt)]
        self.tools: list[Tool] = []
        self._drawn: dict[str, Tool] = {}
        self._style = pick(random, STYLES) if random.random() < 0.7 else None

    # -------------------------------------------------------------------------------- turns

    def user(self, text: str) -> None:
        self.messages.append(dialogue.user(text))

    def ask(self, text: str) -> None:
        """A request of the user, now and then with a greeting or thanks around it."""
        plain_one = "\n" in text or self.random.random() < 0.4
        self.user(text if plain_one else tools.polish(self.random, self.words, text))

    def say(self, text: str) -> None:
        """The assistant's text."""
        self.messages.append(dialogue.assistant(text))

    def call(self, *wanted: tuple[Tool, Slots]) -> None:
        """One assistant's turn with these calls."""
        self.messages.append(dialogue.calls(self.messages, [(tool.name, tool.arguments(slots)) for tool, slots in wanted]))

    def result(self, *contents: str) -> None:
        self.messages.extend(dialogue.results(self.messages[-1], list(contents)))

    # -------------------------------------------------------------------------------- tools

    def declare(self, table: Mapping[str, Any] | ToolWords) -> Tool:
        """Declare a tool for this dialogue; the same words are declared once."""
        told = table if isinstance(table, ToolWords) else inline(table)
        tool = self._drawn.get(told.key)
        if tool is None:
            for _ in range(8):
                tool = tools.declare(self.random, self.words, told, self._style)
                if all(tool.name != other.name for other in self.tools):
                    break
            assert tool is not None
            self._drawn[told.key] = tool
            self.tools.append(tool)
        return tool

    def beside(self, others: Sequence[ToolWords] = (), most: int = 11) -> list[dict[str, Any]]:
        """Declarations of this dialogue's tools among others: namesakes, invented tools and some of `others`."""
        random, words = self.random, self.words
        count = min(pick(random, _DISTRACTORS), most, 12 - len(self.tools))
        found = [tool.declaration for tool in self.tools]
        names = {tool.name for tool in self.tools}
        keys = set(self._drawn)
        taken = {subject for tool in self.tools for subject in subjects(tool.words)}
        for _ in range(max(count, 0)):
            source = random.random()
            other: Tool | None = None
            if source < 0.3 and self.tools:
                other = invent.namesake(random, words, pick(random, self.tools), self._style)
            elif source < 0.7 and others:
                told = pick(random, others)
                if told.key not in keys and not subjects(told) & taken:
                    keys.add(told.key)
                    other = tools.declare(random, words, told, self._style)
            if other is None:
                other = tools.declare(random, words, invent.invent(random, words, requests=1), self._style)
            if other.name not in names and name_words(other.name) not in _NOT_OURS:
                names.add(other.name)
                found.append(other.declaration)
        random.shuffle(found)
        return found

    def dialogue(self, declared: list[dict[str, Any]] | None = None) -> Dialogue:
        return Dialogue(self.messages, self.beside() if declared is None else declared, self.words.language, self.kind)

    # -------------------------------------------------------------------------------- slots and sentences

    def draw(self, slot: str, kind: str | None = None, lists: Mapping[str, Any] | None = None, keep: Sequence[str] = ()) -> Value:
        """The value of a slot: the known one, or one of its list (its words may be invented, unless kept), or one of its kind."""
        known = self.slots.get(slot)
        if known is not None:
            return known
        spec = (lists or {}).get(slot)
        if spec is None and (kind or slot) == "file":
            spec = self.file()
        if isinstance(spec, list):
            text = pick(self.random, spec)
            if slot not in keep and kind != "file" and slot != "file" and self.random.random() < 0.35:
                text = other_word(self.random, self.words.language, text)
            # A day is given without the "on" that the sentence needs.
            value = Value(text, text.removeprefix("on ") if slot == "day" else text, slot)
        elif isinstance(spec, str):
            value = kinds.draw(self.random, self.words, spec.removeprefix("@"))
        else:
            value = kinds.draw(self.random, self.words, kind or slot)
        self.slots[slot] = value
        return value

    def file(self) -> list[str] | None:
        """Names of files in capitals, as notes and plans often have; None: a usual one."""
        random, names = self.random, self.words.pages.get("documents", {}).get("files")
        if not names or random.random() < 0.5:
            return None
        name = pick(random, names)
        if random.random() < 0.5:
            name = pseudo.word(random).upper() + pick(random, (".md", ".md", ".txt"))
        return [name]

    def fill(self, text: str, lists: Mapping[str, Any] | None = None, keep: Sequence[str] = ()) -> str:
        """A sentence with its slots filled; free text in quotes gets quotes that do not stand in it."""

        def quoted(found: re.Match[str]) -> str:
            if _CLOSING[found[1]] != found[3]:
                return found[0]
            return quote(self.random, self.words.language, self.draw(found[2], None, lists, keep).said)

        def plain(found: re.Match[str]) -> str:
            value = self.draw(found[1], None, lists, keep)
            if value.kind == "moment" and value.said != value.given and text[: found.start()].endswith("for "):
                # A reminder for 6 pm, not for at 6 pm; of a day and a time, the answer has no more words than the request.
                if " at " in value.given:
                    self.slots[found[1]] = Value(value.given, value.given, value.kind)
                return str(value.given)
            return value.said

        if "{" not in text:
            return text
        return _SLOT.sub(plain, _QUOTED.sub(quoted, text))

    def given(self, spec: Spec) -> Any:
        """A value of the notation, drawn."""
        if isinstance(spec, list):
            return self.given(pick(self.random, spec))
        if not isinstance(spec, str):
            return spec
        between = _RANGE.fullmatch(spec)
        if between:
            return self.random.randint(int(between[1]), int(between[2]))
        if spec.startswith("@"):
            return kinds.draw(self.random, self.words, spec[1:]).given
        whole = _SLOT.fullmatch(spec)
        if whole and whole[1] in self.slots:
            return self.slots[whole[1]].given
        return self.fill(spec)

    def bind(self, fields: Mapping[str, Any]) -> None:
        """Make the fields of a result known as slots."""
        for name, value in fields.items():
            self.slots[name] = Value(str(value), value, name)

    def printed(
        self,
        fields: Mapping[str, Any],
        spellings: Mapping[str, Sequence[str]],
        texts: Sequence[str] = (),
        needed: Iterable[str] = (),
    ) -> str:
        """A result as a tool prints it: a text that says what is needed, or JSON in this tool's own spelling, flat or nested."""
        random = self.random
        if texts and random.random() < 0.3:
            fitting = [text for text in texts if set(needed) <= set(_SLOT.findall(text)) <= set(fields)]
            if fitting:
                return _SLOT.sub(lambda found: str(fields[found[1]]), pick(random, fitting))
        style = pick(random, ("snake", "snake", "camel"))
        named = {restyle(pick(random, spellings.get(name, (name,))), style): value for name, value in fields.items()}
        if random.random() < 0.3:
            keys = list(named)
            random.shuffle(keys)
            named = {key: named[key] for key in keys}
        shape = random.random()
        body: Any = named
        if shape < 0.1:
            body = {pick(random, ("data", "result", "response", "item")): named}
        elif shape < 0.16 and len(named) > 2:
            first = next(iter(named))
            body = {first: named.pop(first), pick(random, ("details", "info", "now", "values")): named}
        elif shape < 0.2:
            body = [named]
        elif shape < 0.3:
            return "\n".join(f"{name}: {plain(value)}" for name, value in named.items())
        return packed(random, body)


# ------------------------------------------------------------------------------------------------ helpers of text


def what(language: str, tool: Tool, slot: str) -> str:
    """How the assistant names a parameter: by the first sentence of its description, or by the words of its name."""
    name = tool.spelled[slot]
    described = str(_property(tool.declaration["function"]["parameters"], name).get("description", ""))
    described = _MORE.split(described, maxsplit=1)[0].rstrip(".。")
    if not described:
        return " ".join(name_words(name)) or name
    return described if language == "zh" or described[1:2].isupper() else described[:1].lower() + described[1:]


def _property(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
    if name in properties:
        return properties[name]
    return next((found for inner in properties.values() if (found := _property(inner, name))), {})


def plain(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def packed(random: Random, body: Any) -> str:
    """JSON, mostly in the usual spacing, sometimes tight or indented."""
    chance = random.random()
    if chance < 0.2:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    if chance < 0.28:
        return json.dumps(body, ensure_ascii=False, indent=2)
    return json.dumps(body, ensure_ascii=False)


def joined(frame: str, parts: Mapping[str, str]) -> str:
    """A sentence of clauses: {do} takes the clause as it is, {Do} with a capital."""
    text = frame
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part).replace("{" + name.capitalize() + "}", capital(part))
    return text


def other_word(random: Random, language: str, text: str) -> str:
    """A phrase whose last word (Chinese: some characters) is an invented one."""
    if language == "zh" and not text.isascii():
        return pseudo.reword(random, text)
    head, blank, _ = text.rpartition(" ")
    return head + blank + pseudo.word(random)


_WEIGHED: dict[int, tuple[Sequence[Any], list[Any]]] = {}


def weighed(random: Random, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One of the entries of a page; `weight` says how often, 1 when it is not there."""
    found = _WEIGHED.get(id(entries))
    if found is None:
        found = (entries, [entry for entry in entries for _ in range(entry.get("weight", 1))])
        _WEIGHED[id(entries)] = found
    return pick(random, found[1])


_INLINE: dict[int, tuple[Any, ToolWords]] = {}


def inline(table: Mapping[str, Any]) -> ToolWords:
    """The tool of a page; parsed once."""
    found = _INLINE.get(id(table))
    if found is None:
        found = (table, tool_words({"requests": [], **table}, "page"))
        _INLINE[id(table)] = found
    return found[1]


_GENERAL = frozenset(
    ("get", "find", "check", "lookup", "set", "new", "add", "create", "make", "look", "show", "run", "name", "list", "by", "to")
)


@lru_cache(maxsize=4096)
def _subjects(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word for name in names for word in name_words(name)) - _GENERAL


def subjects(told: ToolWords) -> frozenset[str]:
    """What a tool is about, by the words of its names: tools of a page that share one could serve the same request."""
    return _subjects(told.names)


def page_tools(words: Words, *sources: tuple[str, str]) -> list[ToolWords]:
    """The inline tools of pages: (page, list in it)."""
    return [
        inline(entry["tool"]) for page, name in sources for entry in words.pages.get(page, {}).get(name, ()) if "tool" in entry
    ]
