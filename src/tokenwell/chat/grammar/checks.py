"""What a grammar could not promise, checked when the answer is there. Knows schemas and events, no grammar."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenwell.chat.conversation import Check
from tokenwell.chat.events import Content, Event, ToolArguments, ToolEnd, ToolStart


def violations(checks: Sequence[Check], events: Iterable[Event]) -> tuple[str, ...]:
    """Warnings for one whole answer, in words for the client. Calls that were cut off are not checked."""
    if not checks:
        return ()
    content: list[str] = []
    names: dict[int, str] = {}
    arguments: dict[int, list[str]] = {}
    done: list[int] = []
    for event in events:
        match event:
            case Content(text=text):
                content.append(text)
            case ToolStart(index=index, name=name):
                names[index] = name
            case ToolArguments(index=index, text=text):
                arguments.setdefault(index, []).append(text)
            case ToolEnd(index=index):
                done.append(index)
    result: list[str] = []
    for check in checks:
        if check.tool is None:
            if content and not names:
                result += _wrong(check, "the content", "".join(content))
            continue
        for index in done:
            if names.get(index) == check.tool:
                result += _wrong(check, f"the arguments of call {index} ({check.tool})", "".join(arguments.get(index, ())))
    return tuple(result)


def _wrong(check: Check, what: str, text: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError:
        return [f"{check.where}: {what} are no JSON" if what.startswith("the arg") else f"{check.where}: {what} is no JSON"]
    try:
        error = next(iter(_validator(check.schema).iter_errors(value)), None)
    # Patterns are strangers' programs, and Python's dialect of them is not JavaScript's.
    except Exception as failure:
        return [f"{check.where}: {what} could not be checked ({type(failure).__name__}: {str(failure)[:200]})"]
    if error is None:
        return []
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
    return [f"{check.where}: {what} do not fit the schema at `{place or '.'}`: {error.message[:300]}"]


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    # Loaded when first needed: most answers have nothing to check, and the gateway starts without it.
    import jsonschema  # type: ignore[import-untyped]

    return jsonschema.Draft202012Validator(json.loads(schema), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
