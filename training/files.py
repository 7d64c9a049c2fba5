"""Small files as people keep them: a title, sections with lists, key: value lines or prose."""

from dataclasses import dataclass, replace
from random import Random

from training.kinds import draw
from training.pseudo import pick
from training.scene import other_word
from training.world import Words


@dataclass(frozen=True)
class Section:
    """A heading and the lines under it. style: what an entry starts with; "" for prose, "k" for key: value lines."""

    heading: str
    lines: tuple[str, ...]
    style: str = ""
    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Document:
    """A small file: a title line or none, and sections. airy: a blank line under headings."""

    title: str
    sections: tuple[Section, ...]
    mark: str = "## "
    airy: bool = False
    colon: str = ": "

    def text(self) -> str:
        blocks = [self.title] if self.title else []
        for section in self.sections:
            body = "\n".join(section.lines)
            if section.heading:
                body = self.mark + section.heading + ("\n\n" if self.airy else "\n") + body
            blocks.append(body)
        return "\n\n".join(block.strip("\n") for block in blocks)

    def put(self, place: int, lines: tuple[str, ...]) -> "Document":
        changed = replace(self.sections[place], lines=lines)
        return replace(self, sections=(*self.sections[:place], changed, *self.sections[place + 1 :]))


def made(random: Random, words: Words, lines: int) -> Document:
    """A file of about so many lines."""
    page = words.pages["documents"]
    mark = pick(random, ("## ", "## ", "## ", "# ", "### "))
    title = pick(random, ("# ", "# ", "")) + pick(random, page["titles"]) if mark != "# " else ""
    headings = list(page["headings"])
    random.shuffle(headings)
    sections: list[Section] = []
    if random.random() < 0.2:  # one list without headings
        title = "# " + pick(random, page["titles"])
        style = pick(random, ("- ", "- [ ] ", "- [ ] ", "* ", "1. "))
        return Document(title, (_list(random, words, "", min(lines, 12), style),))
    left = lines
    colon = pick(random, (": ", ": ", ": ", " = ", ":\t")) if words.language == "en" else pick(random, ("：", "：", ": "))
    while left > 0:
        heading = headings[len(sections)]
        if random.random() < 0.25:
            heading = other_word(random, words.language, heading)
        section = _section(random, words, heading, min(left, random.randint(1, 7)), colon)
        left -= len(section.lines) + 1
        sections.append(section)
    return Document(title, tuple(sections), mark, random.random() < 0.3, colon)


def _section(random: Random, words: Words, heading: str, count: int, colon: str) -> Section:
    page = words.pages["documents"]
    style = pick(random, ("- ", "- ", "- ", "* ", "- [ ] ", "1. ", "", "k", "k", "- k"))
    if style.endswith("k"):
        names = list(page["keys"])
        random.shuffle(names)
        pairs = tuple((key, draw(random, words, page["keys"][key]).said) for key in names[:count])
        lines = tuple(f"{style[:-1]}{key}{colon}{value}" for key, value in pairs)
        return Section(heading, lines, style, pairs)
    return _list(random, words, heading, 1 if style == "" and random.random() < 0.6 else count, style)


def _list(random: Random, words: Words, heading: str, count: int, style: str) -> Section:
    """A section of entries in this style."""
    kind = pick(random, words.pages["documents"]["items"])
    entries: list[str] = []
    for _ in range(count):
        entry = draw(random, words, kind).said
        if entry not in entries:
            entries.append(entry)
    if style == "- [ ] ":
        return Section(heading, tuple(pick(random, ("- [ ] ", "- [ ] ", "- [x] ")) + entry for entry in entries), style)
    if style == "1. ":
        return Section(heading, tuple(f"{place}. {entry}" for place, entry in enumerate(entries, 1)), style)
    return Section(heading, tuple(style + entry for entry in entries), style)


def entry(section: Section, item: str) -> str:
    """A further line of a section in its style."""
    if section.style == "1. ":
        return f"{len(section.lines) + 1}. {item}"
    return section.style + item


def bare(line: str) -> str:
    """What a line of a list says, without its mark."""
    for mark in ("- [ ] ", "- [x] ", "- ", "* "):
        if line.startswith(mark):
            return line[len(mark) :]
    number, dot, rest = line.partition(". ")
    return rest if dot and number.isdigit() else line
