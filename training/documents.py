"""Dialogues about files: read and answer, append, write, and read then edit: a section, a line, a list entry.

A file is a Document of files.py, so that every edit is an edit of its parts and the whole new text is known.
"""

from random import Random
from typing import Any

from training.conditions import others
from training.dialogue import Dialogue
from training.edits import Edit, absent, done, opened, put_line, start, write
from training.files import Document, Section, bare, entry, made
from training.kinds import draw
from training.pseudo import pick
from training.scene import Scene, inline
from training.talk import join_plainly
from training.world import Words

# How often each request is made, and the kits of tools that it is made with; the first tool that can do it is the right one.
_WHOLE = (("read", "write"), ("read", "write", "append"))
EDITS: dict[str, tuple[int, tuple[tuple[str, ...], ...]]] = {
    "append": (
        5,
        (("append",), ("append", "read", "write"), ("append", "read", "write"), ("read", "write"), ("append", "section")),
    ),
    "section": (6, (*_WHOLE, ("section",), ("section", "read", "write"), ("section", "append"))),
    "add": (4, _WHOLE),
    "set": (4, (*_WHOLE, ("read", "replace"), ("read", "replace", "append"))),
    "remove": (3, _WHOLE),
    "entry": (3, (*_WHOLE[:1], *(("read", "write", "append"),) * 2, ("read", "append"))),
    "unless": (2, (*_WHOLE[:1], ("read", "write", "append"), ("read", "append"))),
    "tick": (5, (*_WHOLE, ("read", "replace", "write"))),
    "copy": (2, _WHOLE),
    "create": (2, (("write",), *_WHOLE)),
    "lines": (2, (("write",), ("read", "write", "append"))),
    "more": (1, (("append",), ("read", "write", "append"))),
    "replace": (5, (("replace",), ("replace", "read", "append"), *_WHOLE)),
    "key": (3, (("read",), *_WHOLE, ("read", "replace"))),
    "whole": (3, (("read",), *_WHOLE, ("read", "append"))),
    "list": (2, (("read",), ("read", "write", "append"))),
    "move": (2, (("read", "append"), ("read", "write", "append"))),
}
_DRAWN = [name for name, (weight, _) in EDITS.items() for _ in range(weight)]


def document(random: Random, words: Words, world: object = None) -> Dialogue:
    """One edit of a file; after an answer from a file now and then a second edit."""
    while True:
        name = pick(random, _DRAWN)
        found = edited(random, words, name, pick(random, EDITS[name][1]))
        if found is not None:
            return found


def edited(random: Random, words: Words, name: str, kit: tuple[str, ...]) -> Dialogue | None:
    """A dialogue with this edit and these file tools; None when the file that was drawn has nothing that fits."""
    scene = Scene(random, words, "document")
    page = words.pages["documents"]
    if name not in page["requests"]:
        return None
    edit = Edit(scene, name, kit, made(random, words, _length(random, name)))
    edit.said["file"] = scene.draw("file").said
    for part in kit:
        edit.tools[part] = scene.declare(page["kit"][part])
    for _ in range(10):
        target = draw(random, words, "file").said
        if target != edit.said["file"]:
            edit.said["target"] = target
            break
    answer = _SAY[name](edit)
    if answer is None:
        return None
    scene.say(answer)
    if name == "key" and "write" in kit and random.random() < 0.4:
        _further(edit)
    beside = [inline(page["kit"][part]) for part in ("delete", "rename", "list") if random.random() < 0.4]
    return scene.dialogue(scene.beside([*beside, *beside, *others(words)]))


def _length(random: Random, name: str) -> int:
    most = 40 if name in ("key", "list", "move") else 30
    return min(most, pick(random, (2, 3, 5, 6, 8, 8, 10, 12, 16, 24, 40)))


# ------------------------------------------------------------------------------------------------ requests


def _append(edit: Edit) -> str:
    edit.said["text"] = edit.drawn("text", "text", "task", "query")
    start(edit)
    if "append" in edit.tools:
        edit.call("append", edit.wrote(), file=edit.said["file"], content=edit.said["text"])
        return done(edit)
    if answer := absent(edit, edit.said["text"]):
        return answer
    write(edit, edit.read() + "\n" + edit.said["text"])
    return done(edit)


def _whole_section(edit: Edit) -> str | None:
    place = _headed(edit)
    if place is None:
        return None
    edit.said["text"] = edit.drawn("text", "text", "query", "task")
    start(edit)
    if "section" in edit.tools:
        edit.call("section", edit.wrote(), file=edit.said["file"], heading=edit.said["heading"], content=edit.said["text"])
        return done(edit)
    if answer := opened(edit):
        return answer
    write(edit, edit.document.put(place, (edit.said["text"],)))
    return done(edit)


def _add(edit: Edit) -> str | None:
    places = _styled(edit, ("- ", "* ", "- [ ] ", "1. ", ""))
    if not places:
        return None
    place = pick(edit.scene.random, places)
    section = edit.document.sections[place]
    edit.said["heading"] = section.heading
    edit.said["item"] = edit.drawn("task", "product", "query", "text")
    start(edit)
    if answer := opened(edit):
        return answer
    write(edit, edit.document.put(place, (*section.lines, entry(section, edit.said["item"]))))
    return done(edit)


def _one_more(edit: Edit) -> str | None:
    """Another entry at the end of a file that is one list."""
    section = edit.document.sections[-1]
    if section.heading or len(edit.document.sections) > 1:
        return None
    edit.said["item"] = edit.drawn("task", "product", "query", "text")
    start(edit)
    if answer := opened(edit):
        return answer
    _put_entry(edit, section)
    return done(edit)


def _unless(edit: Edit) -> str | None:
    """Another entry of a list, unless it is there already; it is as often as not."""
    section = edit.document.sections[-1]
    if section.heading or len(edit.document.sections) > 1:
        return None
    there = edit.scene.random.random() < 0.5
    edit.said["item"] = bare(pick(edit.scene.random, section.lines)) if there else edit.drawn("task", "product", "query", "text")
    start(edit)
    if answer := opened(edit):
        return answer
    if there or any(bare(line) == edit.said["item"] for line in section.lines):
        return done(edit, "there")
    _put_entry(edit, section)
    return done(edit, "entry")


def _put_entry(edit: Edit, section: Section) -> None:
    """Add the item to the end of the file."""
    line = entry(section, edit.said["item"])
    if "append" in edit.tools:
        edit.call("append", edit.wrote(), file=edit.said["file"], content=line)
    else:
        write(edit, edit.document.text() + "\n" + line)


def _set(edit: Edit) -> str | None:
    found = _pair(edit)
    if found is None:
        return None
    place, line = found
    _new_value(edit)
    start(edit)
    if answer := opened(edit):
        return answer
    _change(edit, place, line)
    return done(edit)


def _change(edit: Edit, place: int, line: int) -> None:
    """Give the key on that line its new value."""
    before = edit.document.sections[place].lines[line]
    put_line(edit, place, line, before[: len(before) - len(edit.said["was"])] + edit.said["value"])


def _remove(edit: Edit) -> str | None:
    styles = ("- ", "* ", "- [ ] ")
    places = [place for place, section in enumerate(edit.document.sections) if section.style in styles and len(section.lines) > 1]
    if not places:
        return None
    place = pick(edit.scene.random, places)
    lines = list(edit.document.sections[place].lines)
    line = int(edit.scene.random.random() * len(lines))
    edit.said["item"] = bare(lines[line])
    start(edit)
    if answer := opened(edit):
        return answer
    write(edit, edit.document.put(place, tuple(lines[:line] + lines[line + 1 :])))
    return done(edit)


def _tick(edit: Edit) -> str | None:
    open_ones = [
        (place, line)
        for place, section in enumerate(edit.document.sections)
        for line, text in enumerate(section.lines)
        if text.startswith("- [ ] ")
    ]
    if not open_ones:
        return None
    place, line = pick(edit.scene.random, open_ones)
    edit.said["item"] = bare(edit.document.sections[place].lines[line])
    start(edit)
    if answer := opened(edit):
        return answer
    put_line(edit, place, line, "- [x] " + edit.said["item"])
    return done(edit)


def _copy(edit: Edit) -> str:
    start(edit)
    if answer := opened(edit):
        return answer
    edit.call("write", edit.wrote("target"), file=edit.said["target"], content=edit.document.text())
    return done(edit)


def _create(edit: Edit) -> str:
    edit.said["text"] = edit.drawn("text")
    start(edit)
    write(edit, edit.said["text"])
    return done(edit)


def _lines(edit: Edit) -> str:
    edit.said["content"] = edit.document.text()
    start(edit)
    write(edit, edit.said["content"])
    return done(edit, "create")


def _more(edit: Edit) -> str:
    edit.said["content"] = "\n".join(pick(edit.scene.random, edit.document.sections).lines)
    start(edit)
    edit.call("append", edit.wrote(), file=edit.said["file"], content=edit.said["content"])
    return done(edit, "append")


def _replace(edit: Edit) -> str | None:
    random = edit.scene.random
    place = int(random.random() * len(edit.document.sections))
    lines = edit.document.sections[place].lines
    line = int(random.random() * len(lines))
    old = bare(lines[line])
    if edit.document.text().count(old) != 1 or '"' in old:
        return None
    edit.said |= {"old": old, "new": edit.drawn("text", "task", "product")}
    start(edit)
    if "replace" in edit.tools:
        edit.call("replace", edit.wrote(), file=edit.said["file"], old=old, new=edit.said["new"])
        return done(edit)
    if answer := opened(edit):
        return answer
    put_line(edit, place, line, lines[line].replace(old, edit.said["new"]))
    return done(edit)


def _looked_up(edit: Edit) -> str:
    """Ask, read the file and say what it holds; or that it cannot be read."""
    start(edit)
    return opened(edit) or done(edit)


def _key(edit: Edit) -> str | None:
    if _pair(edit) is None:
        return None
    edit.said["value"] = edit.said["was"]
    return _looked_up(edit)


def _list(edit: Edit) -> str | None:
    places = [place for place in _styled(edit, ("- ", "* ", "")) if len(edit.document.sections[place].lines) < 6]
    if not places:
        return None
    section = edit.document.sections[pick(edit.scene.random, places)]
    edit.said["heading"] = section.heading
    edit.said["items"] = join_plainly(edit.scene.words.language, [bare(line) for line in section.lines])
    return _looked_up(edit)


def _whole(edit: Edit) -> str | None:
    """All that a short file says; half of them are a line or two of notes."""
    random, words = edit.scene.random, edit.scene.words
    if random.random() < 0.5:
        lines = tuple(edit.drawn("text", "task") for _ in range(pick(random, (1, 1, 2, 3))))
        edit.document = Document("", (Section("", tuple(dict.fromkeys(lines))),))
    if len(edit.document.text()) > 300:
        return None
    edit.said["content"] = edit.document.text()
    page = words.pages["documents"]
    edit.scene.ask(edit.put(pick(random, page["requests"]["whole"])))
    if answer := opened(edit):
        return answer
    return str(page["done"]["whole"][0]).replace("{content}", edit.document.text())


def _move(edit: Edit) -> str | None:
    if _pair(edit) is None:
        return None
    edit.said["value"] = edit.said["was"]
    start(edit)
    if answer := opened(edit):
        return answer
    told = edit.put(edit.scene.words.pages["documents"]["done"]["key"][0])
    edit.call("append", edit.wrote("target"), file=edit.said["target"], content=told)
    return done(edit)


def _further(edit: Edit) -> None:
    """After an answer from the file: correct what was told."""
    if edit.scene.messages[-2]["role"] != "tool" or edit.scene.messages[-2]["content"] != edit.document.text():
        return
    was = edit.said["was"]
    _new_value(edit)
    for place, section in enumerate(edit.document.sections):
        for line, (key, value) in enumerate(section.keys):
            if key == edit.said["key"] and value == was:
                edit.scene.user(edit.ask(pick(edit.scene.random, edit.scene.words.pages["documents"]["further"]["set"])))
                _change(edit, place, line)
                edit.scene.say(done(edit, "set"))
                return


# ------------------------------------------------------------------------------------------------ parts of a file


def _styled(edit: Edit, styles: tuple[str, ...]) -> list[int]:
    """The sections with a heading whose entries start like this."""
    sections = enumerate(edit.document.sections)
    return [place for place, section in sections if section.heading and section.style in styles]


def _headed(edit: Edit) -> int | None:
    place = int(edit.scene.random.random() * len(edit.document.sections))
    edit.said["heading"] = edit.document.sections[place].heading
    return place if edit.said["heading"] else None


def _pair(edit: Edit) -> tuple[int, int] | None:
    """A key of the file that stands there once: its section and line. said: key, was."""
    found = [
        (place, line, key, value)
        for place, section in enumerate(edit.document.sections)
        for line, (key, value) in enumerate(section.keys)
    ]
    counts = [key for _, _, key, _ in found]
    found = [entry for entry in found if counts.count(entry[2]) == 1]
    if not found:
        return None
    place, line, edit.said["key"], edit.said["was"] = pick(edit.scene.random, found)
    return place, line


def _new_value(edit: Edit) -> None:
    kind = edit.scene.words.pages["documents"]["keys"][edit.said["key"]]
    for _ in range(10):
        edit.said["value"] = edit.drawn(kind)
        if edit.said["value"] != edit.said["was"]:
            return


_SAY: dict[str, Any] = {
    "append": _append,
    "section": _whole_section,
    "add": _add,
    "set": _set,
    "remove": _remove,
    "tick": _tick,
    "copy": _copy,
    "create": _create,
    "lines": _lines,
    "more": _more,
    "replace": _replace,
    "key": _key,
    "list": _list,
    "whole": _whole,
    "entry": _one_more,
    "unless": _unless,
    "move": _move,
}
KINDS = {"document": (4.0, document)}
