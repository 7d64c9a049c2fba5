"""Arguments in Gemma's notation: bare keys, strings between delimiters without escapes, no white space.

Keys are in the order in which the template prints them again (by name, capitals like small letters), so that the replayed
history has the tokens that were generated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenwell.chat.formats.gemma4 import STRING
from tokenwell.chat.grammar.lark import SPELLED, Rules, alternatives, complaint, escaped, inline_json, literal, regex, sequence
from tokenwell.chat.grammar.members import Member, listed, members
from tokenwell.chat.grammar.patterns import searched
from tokenwell.chat.grammar.shapes import Shapes
from tokenwell.chat.grammar.text import COUNTED, text, until

_KEY = "[A-Za-z_][A-Za-z0-9_.-]{0,59}"  # no longer than readers look ahead
_UNWRITABLE = frozenset(":=,{}[]()<>\"'\n")  # they would end a key that stands without quotes


class GemmaArguments:
    """Grammar of one schema's values. `left_out`: places of what it does not say."""

    def __init__(self, rules: Rules, root: Any, delimiter: str, ids: Mapping[str, int]) -> None:
        self.left_out: list[str] = []
        self._rules = rules
        self._shapes = Shapes(root)
        self._known: dict[str, str] = {}
        self._delimiter = sequence(delimiter, ids)
        self._is_token = all(letter in ids for letter in delimiter)

    def arguments(self, where: str) -> str:
        """The whole object."""
        root = self._shapes.root
        return self._value({**root, "type": "object"} if isinstance(root, dict) else {"type": "object"}, where)

    def _value(self, node: Any, where: str) -> str:
        key = json.dumps(node, sort_keys=True)
        if key not in self._known:
            # Named before it is made: schemas may contain themselves.
            self._known[key] = name = self._rules.name("value")
            shapes = self._shapes.of(node)
            self.left_out += [f"{where}.{keyword}" for keyword in self._shapes.widened]
            self._shapes.widened.clear()
            if not shapes:
                self.left_out.append(where)  # nothing satisfies it
            self._rules.define(name, alternatives(self._shape(shape, where) for shape in shapes or [{}]))
        return self._known[key]

    def _shape(self, shape: dict[str, Any], where: str) -> str:
        if "enum" in shape:
            return alternatives(self._written(value) for value in shape["enum"])
        kind = shape.get("type")
        if kind == "string":
            return self._string(text(shape, where, self.left_out, None if self._is_token else COUNTED))
        if kind in ("integer", "number"):
            return self._number(shape, where)
        if kind == "boolean":
            return '("true" | "false")'
        if kind == "null":
            return '"null"'
        if kind == "array":
            return self._array(shape, where)
        if kind == "object":
            return self._object(shape, where)
        return self._anything(where)

    def _anything(self, where: str) -> str:
        kinds = ("string", "number", "boolean", "null", "array", "object")
        return alternatives(self._value({"type": kind}, where) for kind in kinds)

    def _string(self, terminal: str) -> str:
        if not self._is_token:
            return f"{self._delimiter} {until(self._rules, terminal, STRING)}"
        return f"{self._delimiter} {self._rules.rule('TEXT', terminal)} {self._delimiter}"

    def _number(self, shape: dict[str, Any], where: str) -> str:
        body = inline_json(shape, SPELLED)
        if complaint(Rules().text(body)) is not None:
            self.left_out += [f"{where}.{key}" for key in shape if key != "type"]
            body = inline_json({"type": shape["type"]}, SPELLED)
        return body

    def _array(self, shape: dict[str, Any], where: str) -> str:
        prefix = [self._value(node, f"{where}.prefixItems[{place}]") for place, node in enumerate(shape.get("prefixItems", ()))]
        rest = shape.get("items", True)
        item = None if rest is False else self._value(rest, f"{where}.items")
        low, high = shape.get("minItems", 0), shape.get("maxItems")
        if (high is not None and high < low) or (item is None and low > len(prefix)):
            self.left_out.append(f"{where}.minItems")
            low = 0
        return f'"[" {self._items(prefix, item, low, high)} "]"'

    def _items(self, prefix: list[str], item: str | None, low: int, high: int | None) -> str:
        """Items from the last to the first, each optional part holding everything behind it."""
        prefix = prefix if high is None else prefix[:high]
        if not prefix:
            return self._equal_items(item, low, high)
        fewest, most = max(low - len(prefix), 0), None if high is None else high - len(prefix)
        more = self._rules.rule("more", f'"," {item}') if item is not None else ""
        body = f"{more}{_times(fewest, most)}" if more and most != 0 else ""
        for place in range(len(prefix) - 1, -1, -1):
            separator = '"," ' if place else ""
            body = f"{separator}{prefix[place]} {body}".rstrip()
            body = body if place < low else f"({body})?"
        return body

    def _equal_items(self, item: str | None, low: int, high: int | None) -> str:
        if item is None or high == 0:
            return ""
        more = self._rules.rule("more", f'"," {item}')
        body = f"{item} {more}{_times(max(low - 1, 0), None if high is None else high - 1)}"
        return body if low else f"({body})?"

    def _object(self, shape: dict[str, Any], where: str) -> str:
        properties, required = listed(shape)
        self.left_out += [f"{where}.{key}" for key in ("minProperties", "maxProperties") if key in shape]
        known = []
        for name in sorted(properties, key=str.lower):
            place = f"{where}.properties.{name}"
            if properties[name] is False and name not in required:
                continue
            if not name or _UNWRITABLE.intersection(name):
                self.left_out.append(place)
                continue
            known.append(Member(f"{literal(name + ':')} {self._value(properties[name], place)}", name in required))
        other = self._others(shape, list(properties), where)
        body = members(self._rules, known, other, '","')
        return f'"{{" {body} "}}"'

    def _others(self, shape: dict[str, Any], names: list[str], where: str) -> str | None:
        """A member whose key is none of the known ones."""
        unlike = "".join(f" & ~{regex(pattern)}" for pattern in ["|".join(map(escaped, names))] if names)
        options = []
        for pattern, node in shape.get("patternProperties", {}).items():
            place = f"{where}.patternProperties"
            found = searched(pattern)
            if found is None:
                self.left_out.append(place)
            elif node is not False:
                options.append(self._member(f"{regex(_KEY)} & {regex(found)}{unlike}", node, place))
            unlike += f" & ~{regex(found)}" if found is not None else ""
        additional = shape.get("additionalProperties", True)
        if additional is not False:
            options.append(self._member(regex(_KEY) + unlike, additional, f"{where}.additionalProperties"))
        return self._rules.rule("other", alternatives(options)) if options else None

    def _member(self, key: str, node: Any, where: str) -> str:
        return f'{self._rules.rule("KEY", key)} ":" {self._value(node, where)}'

    def _written(self, value: Any) -> str:
        """One value exactly."""
        if isinstance(value, str):
            return f"{self._delimiter} {literal(value)} {self._delimiter}"
        if isinstance(value, list):
            return ' "," '.join(self._written(each) for each in value).join(('"[" ', ' "]"'))
        if isinstance(value, dict):
            pairs = [f"{literal(name + ':')} {self._written(value[name])}" for name in sorted(value, key=str.lower)]
            return ' "," '.join(pairs).join(('"{" ', ' "}"'))
        return literal(json.dumps(value))


def _times(low: int, high: int | None) -> str:
    if high is None:
        return f"{{{low},}}" if low else "*"
    return f"{{{low},{high}}}"
