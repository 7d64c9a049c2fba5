"""The chat template of a checkpoint: where it is found, and messages rendered with it. Knows no tokens and no repairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from tokenwell.chat.metadata import read_json, read_text
from tokenwell.chat.sandbox import DEFAULT_LIMITS, Limits, Program
from tokenwell.wire.errors import CheckpointError, SettingsError

Turn = dict[str, Any]  # a message as templates read it: role, content, tool_calls, ...

_FOLDER_OF_OTHERS = "additional_chat_templates"


def _now() -> datetime:
    return datetime.now()


class Template:
    """One checkpoint's template, or several with names of which "tool_use" is taken when there are tools."""

    def __init__(
        self,
        sources: Mapping[str, str],
        origin: str,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """`sources`: Jinja text by name. Raises CheckpointError naming `origin` and the line of a syntax error."""
        self.sources = dict(sources)
        self.origin = origin
        if not sources:
            raise CheckpointError(f"{origin}: the chat template is empty; give one with the setting model.chat_template")
        self._programs = {name: _compiled(text, name, origin, limits, clock) for name, text in sources.items()}
        if "default" not in sources and len(sources) > 1:
            raise CheckpointError(
                f'{origin}: has the chat templates {", ".join(sorted(sources))} and none is called "default"; '
                "give one with the setting model.chat_template"
            )
        self._default = "default" if "default" in sources else next(iter(sources))

    @classmethod
    def load(cls, folder: Path, override: Path | None = None) -> Template | None:
        """The template of a checkpoint folder, or of the file `override`; None when there is none.

        Places, the first that has one wins: chat_template.jinja (with additional_chat_templates/*.jinja),
        chat_template.json, tokenizer_config.json. Raises CheckpointError, or SettingsError for `override`, when a template
        cannot be read or has a syntax error.
        """
        if override is not None:
            if not override.is_file():
                raise SettingsError(f"model.chat_template: there is no file {override}; give the path of a Jinja template")
            return cls({"default": read_text(override)}, str(override))
        path = folder / "chat_template.jinja"
        others = {file.stem: read_text(file) for file in sorted((folder / _FOLDER_OF_OTHERS).glob("*.jinja"))}
        if path.exists():
            return cls({**others, "default": read_text(path)}, str(path))
        for name in ("chat_template.json", "tokenizer_config.json"):
            entry = read_json(folder / name).get("chat_template")
            if entry is not None:
                return cls({**others, **_named(entry, folder / name)}, str(folder / name))
        return cls(others, str(folder / _FOLDER_OF_OTHERS)) if others else None

    def render(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        add_generation_prompt: bool,
    ) -> str:
        """The text. Raises RenderError when the template refuses and RunawayError when it had to be ended."""
        name = "tool_use" if tools and "tool_use" in self._programs else self._default
        # Public templates test `documents` and `tools` against none, so both are always there.
        given = {"documents": None, **variables, "messages": list(turns), "tools": list(tools) or None}
        return self._programs[name].render({**given, "add_generation_prompt": add_generation_prompt})

    def mentions(self, word: str) -> bool:
        """True when the word occurs anywhere in the templates' text."""
        return any(word in text for text in self.sources.values())


def _named(entry: object, path: Path) -> dict[str, str]:
    """Templates by name, from a string, a list of {name, template}, or an object name -> template."""
    match entry:
        case str():
            return {"default": entry}
        case dict() if all(isinstance(text, str) for text in entry.values()):
            return {str(name): text for name, text in entry.items()}
        case list():
            named = {}
            for item in entry:
                match item:
                    case {"name": str(name), "template": str(text)}:
                        named[name] = text
                    case _:
                        break
            else:
                return named
    raise CheckpointError(f"{path}: chat_template must be a string or a list of objects with name and template")


def _compiled(text: str, name: str, origin: str, limits: Limits, clock: Callable[[], datetime]) -> Program:
    which = "" if name == "default" else f" (the one called {name!r})"
    try:
        return Program(text, limits, clock)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(
            f"{origin}: line {error.lineno} of the chat template{which} is not valid Jinja: {error.message}; "
            "mend it, or give another with the setting model.chat_template"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{origin}: the chat template{which} is nested too deeply to be read") from error
