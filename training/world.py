"""The words that dialogues are made of: TOML files under training/words/<world>/<language>/.

There are two worlds that share no name, no entity and no sentence: `train` is learned, `held` is what the model is judged by.
names.toml: lists of entities by kind; texts.toml: frames of free text by kind; frames.toml: openers, closers, system prompts,
the words of invented tools; tools_*.toml: [[tool]] tables; every other file is a page of its own (talk, conditions, ...). What
stands in `page_anything.toml` is added to the lists of that page.

A frame is a sentence with {slots}. It is kept cut into pieces: literal, slot, literal, slot, ..., literal.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from training.synonyms import Synonyms

WORDS = Path(__file__).parent / "words"
LANGUAGES = ("en", "zh")
Frame = tuple[str, ...]
_SLOT = re.compile(r"\{(\w*(?::\w+)?)\}")


def frame(text: str) -> Frame:
    """Cut a sentence at its slots: odd places are the names of slots."""
    return tuple(_SLOT.split(text))


def frames(texts: list[str]) -> tuple[Frame, ...]:
    return tuple(frame(text) for text in texts)


@dataclass(frozen=True)
class Parameter:
    """What a tool's parameter may be called, what its values are and how a request says them."""

    slot: str
    names: tuple[str, ...]
    kind: str
    required: bool = False
    descriptions: tuple[str, ...] = ("",)
    clauses: tuple[Frame, ...] = ()  # optional ones: what is put where {slot} stands, the value at {}
    yes: tuple[str, ...] = ()  # flags: clauses that say true and false
    no: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # enums
    spoken: tuple[str, ...] = ()  # enums: how people say the values; then the description explains them
    bounds: tuple[float, ...] = ()  # numbers: the least and the most, where not every number makes sense
    default: bool | float | str | None = None  # optional ones: what leaving it out means, where the declaration says so
    stated: bool = False  # the description says how the value is wanted, so it is never dropped
    parameters: tuple["Parameter", ...] = ()  # objects: their slots stand in requests like any other

    def leaves(self) -> tuple["Parameter", ...]:
        """The parameters that have slots of their own: this one, or an object's properties."""
        return self.parameters if self.kind == "object" else (self,)


@dataclass(frozen=True, eq=False)
class ToolWords:
    """A tool before it is declared: its spellings, and what is said to it and by it."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    requests: tuple[Frame, ...]
    parameters: tuple[Parameter, ...] = ()
    incomplete: tuple[Frame, ...] = ()  # requests that leave out one required slot
    answers: tuple[Frame, ...] = ()
    errors: tuple[Frame, ...] = ()
    results: Mapping[str, str | list[str]] = field(default_factory=dict)  # field of a result -> kind, or values to draw from
    domain: str = ""  # the file it stands in: tools of one domain are near each other in meaning
    key: str = ""
    recipe: Any = None  # what an invented tool is made of
    disguised: Any = None  # the tool that this one is a disguise of

    def leaves(self) -> tuple[Parameter, ...]:
        return tuple(leaf for parameter in self.parameters for leaf in parameter.leaves())


@dataclass(frozen=True)
class Chain:
    """Two tools of which the second takes what the first returns, and requests that need both."""

    first: ToolWords
    second: ToolWords
    link: Mapping[str, str]  # slot of the second -> field of the first one's result
    requests: tuple[Frame, ...]
    answers: tuple[Frame, ...]

    def together(self, first: ToolWords, second: ToolWords) -> ToolWords:
        """Both as one tool: the requests of the chain, and the parameters that a request may say."""
        own = {leaf.slot for leaf in first.leaves()} | set(self.link)
        return ToolWords(
            names=("both",),
            descriptions=("",),
            requests=self.requests,
            parameters=(*first.leaves(), *(leaf for leaf in second.leaves() if leaf.slot not in own)),
            answers=self.answers,
            results={**first.results, **second.results},
            key=f"{first.key} -> {second.key}",
        )


@dataclass(frozen=True, eq=False)
class Words:
    """All words of one language in one world."""

    language: str
    names: Mapping[str, tuple[str, ...]]
    texts: Mapping[str, tuple[Frame, ...]]
    frames: Mapping[str, Any]
    tools: tuple[ToolWords, ...]
    pages: Mapping[str, Mapping[str, Any]]  # every other file by its stem

    @property
    def talk(self) -> Mapping[str, Any]:
        return self.pages["talk"]

    @cached_property
    def asides(self) -> tuple[tuple[Frame, ...], ...]:
        """What may be told beside a request, messages and remarks: it asks for nothing and takes nothing back."""
        remarks = self.pages.get("talk", {}).get("remark", {}).get("prompts", [])
        both = (self.texts.get("aside") or self.texts.get("text", ()), frames(remarks))
        return tuple(some for some in both if some)

    @cached_property
    def headings(self) -> frozenset[str]:
        """Two letters with which a parameter's description begins or ends: mostly the noun for what its values are."""
        said = [text for tool in self.tools for leaf in tool.leaves() for text in leaf.descriptions]
        return frozenset(end for text in said for end in (text[:2], text[-2:]))

    @cached_property
    def synonyms(self) -> Synonyms:
        return Synonyms(self.frames.get("synonyms", {}), self.language)

    @cached_property
    def by_key(self) -> dict[str, ToolWords]:
        return {tool.key: tool for tool in self.tools}

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """The chains of chains_*.toml whose tools are there."""
        found = []
        for table in self.pages.get("chains", {}).get("chain", ()):
            if self.by_key.keys() >= set(table["steps"]):
                first, second = (self.by_key[key] for key in table["steps"])
                found.append(Chain(first, second, table["link"], frames(table["requests"]), frames(table["answers"])))
        return tuple(found)

    @cached_property
    def domains(self) -> dict[str, tuple[ToolWords, ...]]:
        """The tools by the file that they stand in."""
        return {name: tuple(tool for tool in self.tools if tool.domain == name) for name in {tool.domain for tool in self.tools}}


class World:
    """The words of one world; languages without a frames.toml are left out."""

    def __init__(self, name: str, words: Mapping[str, Words]) -> None:
        self.name = name
        self.languages = tuple(words)
        self._words = words

    @classmethod
    def load(cls, name: str, languages: tuple[str, ...] = LANGUAGES) -> "World":
        folders = {language: WORDS / name / language for language in languages}
        return cls(
            name, {language: _words(language, path) for language, path in folders.items() if (path / "frames.toml").is_file()}
        )

    def language(self, language: str) -> Words:
        return self._words[language]


@cache  # what is learned of words while drawing is kept with them
def _words(language: str, folder: Path) -> Words:
    pages: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            pages[path.stem] = tomllib.loads(path.read_text("utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from None
    tools = {stem: pages.pop(stem) for stem in list(pages) if stem.startswith("tools")}
    for stem in [stem for stem in pages if "_" in stem]:
        _add(pages.setdefault(stem.partition("_")[0], {}), pages.pop(stem))
    return Words(
        language=language,
        names={kind: tuple(values) for kind, values in pages.pop("names", {}).items()},
        texts={kind: frames(values) for kind, values in pages.pop("texts", {}).items()},
        frames=pages.pop("frames", {}),
        tools=tuple(tool_words(table, stem) for stem, page in tools.items() for table in page.get("tool", [])),
        pages=pages,
    )


def _add(page: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the tables and lists of another file to a page."""
    for key, value in more.items():
        if isinstance(value, dict):
            _add(page.setdefault(key, {}), value)
        else:
            page[key] = [*page.get(key, []), *value]


def tool_words(table: dict[str, Any], domain: str) -> ToolWords:
    """A [[tool]] table, or a table of the same shape in another page."""
    return ToolWords(
        names=tuple(table["names"]),
        descriptions=tuple(table["descriptions"]),
        requests=frames(table["requests"]),
        parameters=tuple(_parameter(slot, entry) for slot, entry in table.get("parameters", {}).items()),
        incomplete=frames(table.get("incomplete", [])),
        answers=frames(table.get("answers", [])),
        errors=frames(table.get("errors", [])),
        results=table.get("results", {}),
        domain=domain,
        key=table["names"][0],
    )


def _parameter(slot: str, table: dict[str, Any]) -> Parameter:
    return Parameter(
        slot=slot,
        names=tuple(table["names"]),
        kind=table["kind"],
        required=table.get("required", False),
        descriptions=tuple(table.get("descriptions", [""])),
        clauses=frames(table.get("clauses", [])),
        yes=tuple(table.get("yes", [])),
        no=tuple(table.get("no", [])),
        values=tuple(table.get("values", [])),
        spoken=tuple(table.get("spoken", table.get("said", []))),
        bounds=tuple(table.get("bounds", [])),
        default=table.get("default"),
        stated=table.get("stated", False),
        parameters=tuple(_parameter(inner, entry) for inner, entry in table.get("parameters", {}).items()),
    )


def faults(words: Words) -> list[str]:
    """What is wrong with the words of a language: unknown kinds and slots, requests that leave out what is required, ..."""
    from training.kinds import known, schema  # kinds draws from words, so it imports this module

    every = ((kind, name) for kind, names in words.names.items() for name in names)
    found = [f"{kind}: {name} ends like a sentence" for kind, name in every if name[-1] in ".!?。！？"]
    for tool in (*words.tools, *(chain.together(chain.first, chain.second) for chain in words.chains)):
        leaves = {leaf.slot: leaf for leaf in tool.leaves()}
        required = {slot for slot, leaf in leaves.items() if leaf.required}
        for leaf in leaves.values():
            if not known(words, leaf.kind):
                found.append(f"{tool.key}: kind {leaf.kind} of {leaf.slot} is unknown")
            if leaf.bounds and (len(leaf.bounds) != 2 or schema(leaf)["type"] not in ("integer", "number")):
                found.append(f"{tool.key}: bounds of {leaf.slot} want two numbers, and a kind of numbers")
            if leaf.default is not None and leaf.required:
                found.append(f"{tool.key}: {leaf.slot} is required, so it has no default")
            if leaf.stated and not all(leaf.descriptions):
                found.append(f"{tool.key}: {leaf.slot} is stated without a description")
            if leaf.kind == "flag" and not (leaf.yes and leaf.no):
                found.append(f"{tool.key}: flag {leaf.slot} has no yes and no")
            if leaf.kind == "enum" and (len(leaf.values) < 2 or len(leaf.spoken) not in (0, len(leaf.values))):
                found.append(f"{tool.key}: enum {leaf.slot} wants values, and as many spoken ones or none")
            if not leaf.required and leaf.kind != "flag" and not leaf.clauses:
                found.append(f"{tool.key}: optional {leaf.slot} has no clauses")
            found += [f"{tool.key}: a clause of {leaf.slot} wants one {{}}" for clause in leaf.clauses if clause[1:2] != ("",)]
        found += [
            f"{tool.key}: kind {kind} of result {key} is unknown"
            for key, kind in tool.results.items()
            if isinstance(kind, str) and not known(words, kind)
        ]
        for request in tool.requests:
            said = set(request[1::2])
            found += [f"{tool.key}: no parameter {slot}: {request[0]}..." for slot in sorted(said - set(leaves))]
            found += [f"{tool.key}: {slot} is missing: {request[0]}..." for slot in sorted(required - said)]
        for request in tool.incomplete:
            if len(required - set(request[1::2])) != 1:
                found.append(f"{tool.key}: an incomplete request leaves out exactly one required slot: {request[0]}...")
        for text in (*tool.requests, *tool.incomplete):
            found += [f"{tool.key}: {fault}: {text[0]}..." for fault in _unclear(words, text, leaves)]
        for text in (*tool.answers, *tool.errors):
            strange = set(text[1::2]) - set(leaves) - set(tool.results)
            found += [f"{tool.key}: neither slot nor result {slot}: {text[0]}..." for slot in sorted(strange)]
    return [*found, *_chain_faults(words)]


def _unclear(words: Words, text: Frame, leaves: Mapping[str, Parameter]) -> Iterator[str]:
    """What nobody could read in a request: names with no word between them, a percent sign twice."""
    from training.kinds import alike

    for place in range(1, len(text), 2):
        leaf, after = leaves.get(text[place]), text[place + 1]
        following = leaves.get(text[place + 2]) if place + 2 < len(text) else None
        if leaf is None or leaf.clauses:
            continue
        if leaf.kind == "percent" and after.lstrip().startswith(("%", "percent", "per cent")):
            yield f"the value of {leaf.slot} says percent itself"
        if following is None or following.clauses or after not in ("", " "):
            continue
        if alike(words, leaf.kind) == alike(words, following.kind) == "name":
            yield f"no word stands between {leaf.slot} and {following.slot}"


def _chain_faults(words: Words) -> Iterator[str]:
    """What is wrong with the chains beyond what is wrong with any tool: links of different kinds, what would be known twice."""
    from training.kinds import alike, schema

    for table in words.pages.get("chains", {}).get("chain", ()):
        yield from (f"a chain wants the tool {key}, which is not there" for key in table["steps"] if key not in words.by_key)
    for chain in words.chains:
        name = f"{chain.first.key} -> {chain.second.key}"
        mine, other = ({leaf.slot: leaf for leaf in told.leaves()} for told in (chain.first, chain.second))
        for slot, key in chain.link.items():
            kind = chain.first.results.get(key)
            if slot not in other or not isinstance(kind, str):
                yield f"{name}: nothing to link {slot} with {key}"
            elif kind != other[slot].kind:
                given, wanted = (schema(leaf)["type"] for leaf in (Parameter(key, (key,), kind), other[slot]))
                fits = given == wanted or (given, wanted) == ("integer", "number")
                if not fits or alike(words, kind) != alike(words, other[slot].kind):
                    yield f"{name}: {key} is no value for {slot}"
        for slot in mine.keys() & other.keys() - chain.link.keys():
            if mine[slot].kind != other[slot].kind or (other[slot].required and not mine[slot].required):
                yield f"{name}: {slot} is of two kinds, or needed by the second alone"
        twice = chain.first.results.keys() & chain.second.results.keys()
        yield from (
            f"{name}: an answer of what is known twice: {text[0]}..." for text in chain.answers if twice & set(text[1::2])
        )


if __name__ == "__main__":
    world = World.load(sys.argv[1] if len(sys.argv) > 1 else "train", tuple(sys.argv[2:]) or LANGUAGES)
    for language in world.languages:
        for fault in faults(world.language(language)):
            print(f"{language}: {fault}")
