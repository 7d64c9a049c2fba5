"""Arguments as XML-like parameters: one element a parameter, texts raw, everything else JSON."""

from __future__ import annotations

import json
from typing import Any

from tokenwell.chat.grammar.lark import SPELLED, Rules, alternatives, escaped, inline_json, literal, regex
from tokenwell.chat.grammar.members import Member, listed, members
from tokenwell.chat.grammar.patterns import searched
from tokenwell.chat.grammar.relax import fit
from tokenwell.chat.grammar.schema import Read
from tokenwell.chat.grammar.shapes import Shapes
from tokenwell.chat.grammar.text import COUNTED, FREE, text, until

_OPEN, _CLOSE = "<parameter=", "\n</parameter>"
_KEY = "[A-Za-z_][A-Za-z0-9_.-]{0,59}"  # no longer than readers look ahead
_UNWRITABLE = frozenset("<>\"'\n")
# What would end a value for a reader that forgives a forgotten closer.
_ENDINGS = (
    r"<\x{2f}parameter>\s*(<parameter=|<\x{2f}function>|<\x{2f}tool_call>)|<\x{2f}function>\s*<\x{2f}tool_call>|"
    r"<\x{2f}tool_call>|<parameter="
)


class XmlArguments:
    """Grammar of one schema's parameters. `left_out`: places of what it does not say."""

    def __init__(self, rules: Rules, root: Any) -> None:
        self.left_out: list[str] = []
        self._rules = rules
        self._shapes = Shapes(root)

    def arguments(self, where: str) -> str:
        """All parameters."""
        root = self._shapes.root
        shapes = self._shapes.of({**root, "type": "object"} if isinstance(root, dict) else {"type": "object"})
        self._widened(where)
        bodies = [self._object(shape, where) for shape in shapes if shape.get("type") == "object"]
        bodies += [self._fixed(value) for shape in shapes for value in shape.get("enum", ()) if isinstance(value, dict)]
        if not bodies:
            self.left_out.append(where)
            bodies = [self._object({"type": "object"}, where)]
        return self._rules.rule("parameters", alternatives(bodies))

    def _widened(self, where: str) -> None:
        self.left_out += [f"{where}.{keyword}" for keyword in self._shapes.widened]
        self._shapes.widened.clear()

    def _object(self, shape: dict[str, Any], where: str) -> str:
        properties, required = listed(shape)
        self.left_out += [f"{where}.{key}" for key in ("minProperties", "maxProperties") if key in shape]
        known = []
        for name, node in properties.items():
            place = f"{where}.properties.{name}"
            if node is False and name not in required:
                continue
            if not name or _UNWRITABLE.intersection(name):
                self.left_out.append(place)
                continue
            known.append(Member(self._parameter(literal(f"{_OPEN}{name}>\n"), node, place), name in required))
        return members(self._rules, known, self._others(shape, list(properties), where), "")

    def _others(self, shape: dict[str, Any], names: list[str], where: str) -> str | None:
        """A parameter that is none of the known ones."""
        unlike = f" & ~{regex('|'.join(map(escaped, names)))}" if names else ""
        options = []
        for pattern, node in shape.get("patternProperties", {}).items():
            place = f"{where}.patternProperties"
            found = searched(pattern)
            if found is None:
                self.left_out.append(place)
                continue
            if node is not False:
                options.append(self._other(f"{regex(_KEY)} & {regex(found)}{unlike}", node, place))
            unlike += f" & ~{regex(found)}"
        additional = shape.get("additionalProperties", True)
        if additional is not False:
            options.append(self._other(regex(_KEY) + unlike, additional, f"{where}.additionalProperties"))
        return self._rules.rule("other", alternatives(options)) if options else None

    def _other(self, key: str, node: Any, where: str) -> str:
        return self._parameter(f'{literal(_OPEN)} {self._rules.rule("KEY", key)} ">\\n"', node, where)

    def _parameter(self, opening: str, node: Any, where: str) -> str:
        shapes = self._shapes.of(node)
        self._widened(where)
        if not shapes:
            self.left_out.append(where)
        options = dict.fromkeys(option for shape in shapes or [{}] for option in self._values(shape, where))
        return self._rules.rule("parameter", f'{opening} {alternatives(options)} "\\n"')

    def _values(self, shape: dict[str, Any], where: str) -> list[str]:
        """A value and the closer behind it."""
        closer = literal(_CLOSE)
        if "enum" in shape:
            return [literal(_shown(value) + _CLOSE) for value in shape["enum"]]
        kind = shape.get("type")
        if kind is None:
            return [until(self._rules, FREE, _CLOSE, _ENDINGS)]
        if kind == "string":
            return [until(self._rules, text(shape, where, self.left_out, COUNTED), _CLOSE, _ENDINGS)]
        if kind == "boolean":
            return [f'("true" | "false") {closer}']
        if kind == "null":
            return [f'"null" {closer}']
        return [f"{self._json(shape, where)} {closer}"]

    def _json(self, shape: dict[str, Any], where: str) -> str:
        """A value that is written as JSON. References in it still point into the whole schema."""
        whole: Any = shape
        if '"$ref": ' in json.dumps(shape):
            whole = {**_pointed(shape), "$defs": {"root": _pointed(self._shapes.root)}}
        fitted = fit(Read(whole, ()), where)
        self.left_out += fitted.left_out
        return self._rules.rule("json", inline_json(fitted.schema, SPELLED))

    def _fixed(self, value: dict[str, Any]) -> str:
        return literal("".join(f"{_OPEN}{name}>\n{_shown(each)}{_CLOSE}\n" for name, each in value.items())) or '""'


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pointed(node: Any) -> Any:
    """A copy whose references point into `#/$defs/root`."""
    if isinstance(node, dict):
        return {
            key: "#/$defs/root" + value[1:].rstrip("/") if key == "$ref" and isinstance(value, str) else _pointed(value)
            for key, value in node.items()
        }
    return [_pointed(each) for each in node] if isinstance(node, list) else node
