"""The held-out tasks: drawn from words that training never sees, and written to src/tokenwell/readiness/tasks.jsonl.

    python -m training.held_out          writes the file; the same seed gives the same tasks

300 single calls, 100 tasks of several turns and 100 prompts that want no call, half of each in English, half in Chinese.
"""

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tokenwell.agent import tools as agent
from tokenwell.readiness.folder import NAMES, Folder
from tokenwell.readiness.task import Call, Kind, Language, Task, Turn
from tokenwell.readiness.task import tasks as written
from training import chain, dialogue, field, tools
from training.dialogue import Dialogue
from training.pseudo import pick
from training.world import ToolWords, Words, World

FILE = Path(__file__).parents[1] / "src/tokenwell/readiness/tasks.jsonl"
SEED = 20261121
SINGLE = 150  # of each language
_TALK = {"chat": 10, "identity": 8, "outside": 12}
_UNSERVED, _MISSING = 12, 8


def tasks(seed: int = SEED) -> list[Task]:
    """All tasks of one drawing."""
    world = World.load("held")
    found: list[Task] = []
    for language in ("en", "zh"):
        words, random = world.language(language), Random(f"{seed} {language}")
        found += _numbered(language, "single", singles(random, words, SINGLE))
        found += _numbered(language, "turns", turns(random, words))
        found += _numbered(language, "talk", talks(random, words))
    return found


def gold(task: Task) -> Dialogue:
    """The dialogue that a model without a fault would have; a single call ends with the call."""
    folder = Folder(task.files)
    messages = [dialogue.system(task.system)] if task.system else []
    for turn in task.turns:
        messages.append(dialogue.user(turn.user))
        for calls in turn.rounds:
            message = dialogue.calls(messages, [(call.name, dict(call.arguments)) for call in calls])
            messages.append(message)
            if task.kind != "single":
                messages += dialogue.results(message, [_result(folder, call) for call in calls])
        if turn.answer:
            messages.append(dialogue.assistant(turn.answer))
    return Dialogue(messages, list(task.tools), task.language, f"{task.kind}: {task.category}")


def dialogues(drawings: int = 0) -> list[Dialogue]:
    """The gold dialogues of the tasks that are in the file, or of so many other drawings."""
    drawn = [task for more in range(drawings) for task in tasks(SEED + 1 + more)]
    return [gold(task) for task in (drawn if drawings else written())]


def _result(folder: Folder, call: Call) -> str:
    return folder.run(call.name, call.arguments) if call.name in NAMES else call.result


def _numbered(language: Language, kind: Kind, found: Iterator[Task]) -> list[Task]:
    numbered = []
    for number, task in enumerate(found, 1):
        numbered.append(msgspec.structs.replace(task, id=f"{language}-{kind}-{number:03d}"))
    return numbered


# ------------------------------------------------------------------------------------------------ one call


def singles(random: Random, words: Words, count: int) -> Iterator[Task]:
    """One call each; every tool has its turn."""
    order = list(words.tools)
    random.shuffle(order)
    for told, _ in zip(cycle(order), range(count), strict=False):
        tool = tools.declare(random, words, told)
        request = chain.ask(random, words, tool)
        text = tools.polish(random, words, request)
        declared = chain.beside(random, words, [tool])
        turn = Turn(text, ((Call(tool.name, request.arguments),),))
        yield _task(random, words, "single", told.domain.removeprefix("tools_"), (turn,), declared)


# ------------------------------------------------------------------------------------------------ several turns


def turns(random: Random, words: Words) -> Iterator[Task]:
    """The agent's own tools, chains of tools, and several requests in a row."""
    declared = list(agent.TOOLS)
    for category, count, make in field.MAKERS:
        for _ in range(count):
            script, files, end = make(random, words)
            yield Task("", "turns", category, _language(words), script, tuple(declared), agent.SYSTEM, files, end)
    for category, script, declared in chain.drafts(random, words):
        yield _task(random, words, "turns", category, script, declared)


# ------------------------------------------------------------------------------------------------ no call


def talks(random: Random, words: Words) -> Iterator[Task]:
    """Small talk, what it is, questions outside, what no tool serves, and what lacks a value."""
    for group, count in _TALK.items():
        page = words.talk[group]
        for prompt in random.sample(page["prompts"], count):
            declared = chain.beside(random, words, [_declared(random, words)]) if random.random() < 0.7 else []
            turn = Turn(prompt, answer=pick(random, page["answers"]))
            yield _task(random, words, "talk", group, (turn,), declared)
    for told in random.sample(words.tools, _UNSERVED):
        wanted = tools.declare(random, words, told)
        text = tools.polish(random, words, tools.ask(random, words, wanted))
        near = pick(random, [other for other in words.domains[told.domain] if other is not told])
        declared = chain.beside(random, words, [tools.declare(random, words, near)], avoid=[told])
        yield _task(
            random,
            words,
            "talk",
            "unserved",
            (_refused(words, "unserved", text, pick(random, words.talk["unserved"]["answers"])),),
            declared,
        )
    for told in random.sample([told for told in words.tools if told.incomplete], _MISSING):
        tool = tools.declare(random, words, told)
        frame = pick(random, told.incomplete)
        text = chain.ask(random, words, tool, frame).text
        lacking = next(leaf for leaf in told.leaves() if leaf.required and leaf.slot not in frame[1::2])
        answer = words.talk["missing"]["answer"].replace("{name}", tool.spelled[lacking.slot].replace("_", " "))
        yield _task(
            random, words, "talk", "missing", (_refused(words, "missing", text, answer),), chain.beside(random, words, [tool])
        )


def _refused(words: Words, group: str, text: str, answer: str) -> Turn:
    """What cannot be done: the answer has to say so, or to ask."""
    page = words.talk[group]
    return Turn(text, answer=answer, says=(tuple(page["says"]),), lacks=tuple(page["lacks"]))


def _declared(random: Random, words: Words) -> tools.Tool:
    told: ToolWords = pick(random, words.tools)
    return tools.declare(random, words, told)


def _language(words: Words) -> Language:
    return "zh" if words.language == "zh" else "en"


def _task(
    random: Random, words: Words, kind: Kind, category: str, script: tuple[Turn, ...], declared: list[dict[str, Any]]
) -> Task:
    system = pick(random, words.frames["system"]) if random.random() < 0.4 else ""
    return Task("", kind, category, _language(words), script, tuple(declared), system)


def main() -> None:
    found = tasks()
    lines = [json.dumps(msgspec.to_builtins(task), ensure_ascii=False, separators=(",", ":")) for task in found]
    FILE.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(found)} tasks, {FILE.stat().st_size:,} bytes: {FILE}")


if __name__ == "__main__":
    main()
