"""Where a template of a downloaded checkpoint runs: a Jinja sandbox with the names that public templates expect, and an end.

The names and filters are those of Hugging Face's chat templates. A template is foreign code, so a rendering has a deadline
and a bound on what it writes. Knows nothing of messages or checkpoints.
"""

from __future__ import annotations

import json
import re
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from tokenwell.chat.conversation import ChatError

_FORMAT_WIDTH = re.compile(r"\d+")  # every number in a format such as "%-20.3f"


@dataclass(frozen=True)
class Limits:
    """How far a rendering may go. `range()` has the sandbox's own bound of 100,000 numbers."""

    seconds: float = 5.0
    characters: int = 64 * 2**20  # of the text, and of whatever an operator of the template makes


DEFAULT_LIMITS = Limits()


class RenderError(ChatError):
    """The template itself refused or failed on these messages; other messages may be fine."""


class RunawayError(ChatError):
    """The rendering was ended because it took too long or wrote too much."""


class _Expired(BaseException):
    """Raised inside the rendering thread at its deadline; no template or filter can catch it."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's tokens for training; here it is its body, in a scope."""

    tags = {"generation"}  # noqa: RUF012 (the name and type are Jinja's)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(Namespace):
    """`namespace()` without names that start with an underscore, which could reach into the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # positional only, so that a template may use the name `self`
        self, *rest = args
        for name in dict(*rest, **kwargs):
            _Namespace._check(name)
        Namespace.__init__(self, *rest, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold the name {name!r}")


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with bounds on the operators that make much out of little."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, limits: Limits, clock: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self._limits = limits
        self.filters["tojson"] = _tojson
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: clock().strftime(form),
            "namespace": _Namespace,
        }

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if self._result_size(operator, left, right) > self._limits.characters:
            raise jinja2.exceptions.SecurityError(f"the result of {operator!r} is too large for a chat template")
        return super().call_binop(context, operator, left, right)

    def _result_size(self, operator: str, left: Any, right: Any) -> int:
        """A bound on characters or items of a result, or bits of a number; 0 where it cannot be large."""
        match operator, left, right:
            case "+", str() | list() | tuple(), str() | list() | tuple():
                return len(left) + len(right)
            case "*", str() | list() | tuple(), int():
                return len(left) * right
            case "*", int(), str() | list() | tuple():
                return left * len(right)
            case "**", int(), int():
                return left.bit_length() * right
            case "%", str(), _:
                return sum(map(int, _FORMAT_WIDTH.findall(left)))
        return 0


def _raise_exception(message: object) -> None:
    raise jinja2.exceptions.TemplateError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on it: Jinja's own filter escapes HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Program:
    """A compiled template."""

    def __init__(self, source: str, limits: Limits, clock: Callable[[], datetime]) -> None:
        """Raises jinja2.TemplateSyntaxError."""
        self._limits = limits
        self._template = _Environment(limits, clock).from_string(source)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises RenderError when the template fails and RunawayError when it has to be ended."""
        outcome: list[str | Exception] = []

        def work() -> None:
            try:
                outcome.append(self._write(variables))
            except _Expired:
                pass
            except Exception as error:  # whatever a foreign template does wrong is its fault, not ours
                outcome.append(error)

        # A thread of its own, because that is the one thing that can be interrupted whatever it executes, and because the
        # interruption can then hit nothing else.
        thread = threading.Thread(target=work, name="chat-template", daemon=True)
        thread.start()
        thread.join(self._limits.seconds)
        if thread.is_alive():
            _interrupt(thread)
        if not outcome:
            raise RunawayError(f"The chat template did not finish within {self._limits.seconds:g} s on these messages.")
        if isinstance(outcome[0], RunawayError):
            raise outcome[0]
        if isinstance(outcome[0], Exception):
            raise RenderError(_describe(outcome[0])) from outcome[0]
        return outcome[0]

    def _write(self, variables: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        length = 0
        for piece in self._template.generate(variables):
            length += len(piece)
            if length > self._limits.characters:
                raise RunawayError(f"The chat template wrote more than {self._limits.characters} characters.")
            pieces.append(piece)
        return "".join(pieces)


def _interrupt(thread: threading.Thread) -> None:
    """Raise _Expired in the thread. It lands at the thread's next Python instruction; wait a moment for it to leave."""
    import ctypes  # needed for runaways only

    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Expired))
    deadline = time.monotonic() + 1.0
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(0.05)


def _describe(error: Exception) -> str:
    """One plain sentence: what the template said, and its line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    where = f" (line {lines[-1]} of the template)" if lines else ""
    if type(error) is jinja2.exceptions.TemplateError:  # the template's own raise_exception
        return f"The chat template rejects these messages: {error}{where}"
    return f"The chat template fails on these messages: {type(error).__name__}: {error}{where}"
