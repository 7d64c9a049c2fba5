"""One request about a file while it is carried out: what is said, the calls of the file tools, and the answer."""

from dataclasses import dataclass, field

from training.files import Document
from training.kinds import Value, draw
from training.pseudo import pick
from training.scene import Scene
from training.tools import Tool
from training.wording import sentence

_OPEN = ("{text}", "{item}")


@dataclass
class Edit:
    """One request about a file, while it is carried out."""

    scene: Scene
    name: str
    kit: tuple[str, ...]
    document: Document
    said: dict[str, str] = field(default_factory=dict)
    tools: dict[str, Tool] = field(default_factory=dict)

    def ask(self, frame: str) -> str:
        text = frame
        for slot in ("text", "item", "old", "new"):
            if slot in self.said:
                for before, after in (("'", "'"), ('"', '"'), ("“", "”"), ("「", "」")):
                    text = text.replace(before + "{" + slot + "}" + after, _quoted(before, after, self.said[slot]))
        return self.put(text)

    def put(self, text: str) -> str:
        for slot, said in self.said.items():
            text = text.replace("{" + slot + "}", said)
        return text

    def drawn(self, *kinds: str) -> str:
        """A text of one of these kinds; a sentence may have a second half behind a comma."""
        random, words = self.scene.random, self.scene.words
        kind = pick(random, kinds)
        text = draw(random, words, kind).said
        if kind in ("text", "task") and random.random() < 0.3:
            text += (
                pick(random, ("，", "，", "；") if words.language == "zh" else (", ", ", and ", "; "))
                + draw(random, words, kind).said
            )
        return text

    def call(self, kit: str, result: str, **values: str) -> None:
        """One call of a tool of the kit and its result."""
        self.scene.call((self.tools[kit], {slot: Value(value, value, "text") for slot, value in values.items()}))
        self.scene.result(result)

    def read(self) -> str:
        text = self.document.text()
        self.call("read", text, file=self.said["file"])
        return text

    def wrote(self, slot: str = "file") -> str:
        """What a tool returns that wrote the file (or the target)."""
        frame: str = pick(self.scene.random, self.scene.words.pages["documents"]["written"])
        return frame.replace("{file}", self.said[slot])


def start(edit: Edit, group: str | None = None) -> None:
    """The user's request; sometimes it says what to do when there is no such file."""
    page = edit.scene.words.pages["documents"]
    frame = pick(edit.scene.random, page["requests"][group or edit.name])
    if frame.endswith(_OPEN):
        edit.scene.user(edit.ask(frame))  # nothing may stand behind a text without quotes
    else:
        edit.scene.ask(edit.ask(frame))


def done(edit: Edit, name: str | None = None) -> str:
    return edit.put(pick(edit.scene.random, edit.scene.words.pages["documents"]["done"][name or edit.name]))


def absent(edit: Edit, content: str | None) -> str | None:
    """Now and then the file is not there: report it, or create it when the request says so. None: it is there."""
    random, page = edit.scene.random, edit.scene.words.pages["documents"]
    if random.random() > 0.1:
        return None
    message = edit.scene.messages[-1]
    create = content is not None and "write" in edit.tools and random.random() < 0.5 and not message["content"].endswith(content)
    if create:
        request = sentence(edit.scene.words.language, message["content"])
        message["content"] = pick(random, page["requests"]["otherwise"]).replace("{request}", request)
    edit.call("read", edit.put(pick(random, page["absent"])), file=edit.said["file"])
    if not create:
        return done(edit, "absent")
    edit.call("write", edit.wrote(), file=edit.said["file"], content=content or "")
    return done(edit, "created")


def opened(edit: Edit) -> str | None:
    """Read the file; the answer when it is not there."""
    found = absent(edit, None)
    if found is None:
        edit.read()
    return found


def write(edit: Edit, changed: Document | str) -> None:
    edit.call("write", edit.wrote(), file=edit.said["file"], content=changed if isinstance(changed, str) else changed.text())


def put_line(edit: Edit, place: int, line: int, new: str) -> None:
    """Change one line, in the whole text or by replacing the line."""
    lines = list(edit.document.sections[place].lines)
    old, lines[line] = lines[line], new
    if "replace" in edit.tools:
        edit.call("replace", edit.wrote(), file=edit.said["file"], old=old, new=new)
    else:
        write(edit, edit.document.put(place, tuple(lines)))


def _quoted(before: str, after: str, text: str) -> str:
    if before in text or after in text:
        before, after = ("“", "”") if '"' in text else ('"', '"')
    return before + text + after
