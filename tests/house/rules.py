"""The house rules that ruff, mypy and import-linter cannot check: each is a function from one source file to its breaches.

Knows nothing of pytest; `test_rules` runs every rule over the tree and over a sample that breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
LINES_LIMIT = 600
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "stuff", "base_classes"}
# Functions whose argument names somebody else chooses, with who that is.
FREE_ARGUMENTS = {
    ("src/tokenwell/chat/sandbox.py", "__init__"): "a chat template, in namespace(name=value)",
    ("src/tokenwell/engine/gate.py", "kept"): "the layer whose calls are compared",
    ("src/tokenwell/engine/kernels/norms.py", "_launch"): "one kernel that most callers use a part of",
}
ACCELERATORS = ("torch.cuda", "torch.xpu", "torch.mps", "torch.hip")


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the repository's root and its text."""

    path: PurePosixPath
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def dotted_names(self) -> list[tuple[int, str]]:
        """(line, name) of every dotted name that is used or imported."""
        names = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                names.append((node.lineno, ast.unparse(node)))
            elif isinstance(node, ast.Import):
                names += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        return names


Rule = Callable[[Source], Iterator[str]]


def sources(folder: str) -> Iterator[Source]:
    """Every Python file below a folder of the repository."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield Source(PurePosixPath(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))


def _uses(source: Source, *names: str) -> Iterator[str]:
    for line, dotted in source.dotted_names:
        if any(dotted == name or dotted.startswith(name + ".") for name in names):
            yield f"line {line} uses {dotted}"


def short_files(source: Source) -> Iterator[str]:
    """A file has at most 600 lines."""
    lines = source.text.count("\n")
    if lines > LINES_LIMIT:
        yield f"has {lines} lines, {LINES_LIMIT} are allowed: split it along what it owns"


def says_what_it_owns(source: Source) -> Iterator[str]:
    """A file with code begins with a docstring."""
    if source.tree.body and not ast.get_docstring(source.tree):
        yield "has no docstring that says what it owns and what it does not know"


def nothing_left_undone(source: Source) -> Iterator[str]:
    """No notes to do something later."""
    for number, line in enumerate(source.text.splitlines(), start=1):
        if word := re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield f"line {number} says {word[1]}: do it or open an issue"


def speaking_names(source: Source) -> Iterator[str]:
    """A folder is a noun of the domain; identifiers are ASCII; nothing is a mixin."""
    for part in (*source.path.parts[:-1], source.path.stem):
        if part in EMPTY_NAMES:
            yield f'"{part}" names nothing of the domain'
    for node in ast.walk(source.tree):
        name = getattr(node, "name", None) or getattr(node, "id", None) or getattr(node, "arg", None)
        if isinstance(name, str) and not name.isascii():
            yield f"line {getattr(node, 'lineno', '?')}: the identifier {name} is not ASCII"
        if isinstance(node, ast.ClassDef) and node.name.endswith("Mixin"):
            yield f"line {node.lineno}: {node.name} is a mixin"


def no_arguments_handed_through(source: Source) -> Iterator[str]:
    """No **kwargs through layers: a function that hands its own **arguments to another does not say what it takes."""
    for function in ast.walk(source.tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or not function.args.kwarg:
            continue
        if (str(source.path), function.name) in FREE_ARGUMENTS:
            continue
        own = function.args.kwarg.arg
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            for keyword in call.keywords:
                if keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == own:
                    yield f"line {call.lineno}: {function.name} hands its **{own} to {ast.unparse(call.func)}"


def accelerators_behind_the_platform(source: Source) -> Iterator[str]:
    """torch.cuda and its like are used in engine/platform alone."""
    if not source.path.is_relative_to("src/tokenwell/engine/platform"):
        yield from _uses(source, *ACCELERATORS)


def environment_read_once(source: Source) -> Iterator[str]:
    """The environment is read in config/load.py alone."""
    if source.path != PurePosixPath("src/tokenwell/config/load.py"):
        yield from _uses(source, "os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv")


def clean_interpreters(source: Source) -> Iterator[str]:
    """Other processes are started as command lines that a person can repeat, not by multiprocessing."""
    yield from _uses(source, "multiprocessing", "torch.multiprocessing", "os.fork")


def every_test_runs(source: Source) -> Iterator[str]:
    """No test is skipped or expected to fail."""
    yield from _uses(source, "pytest.skip", "pytest.xfail", "pytest.importorskip", "unittest.skip")
    yield from _uses(source, "pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail")


SERVICE_RULES: tuple[Rule, ...] = (
    short_files,
    says_what_it_owns,
    nothing_left_undone,
    speaking_names,
    no_arguments_handed_through,
    accelerators_behind_the_platform,
    environment_read_once,
    clean_interpreters,
)
TEST_RULES: tuple[Rule, ...] = (short_files, nothing_left_undone, every_test_runs)
