"""Values in JSON, or in a notation like it, read piece by piece into JSON text; slips are mended on the way.

One loop with a stack of open brackets, so that depth costs nothing. What is valid JSON already passes as it is, white space
included. Knows no calls and no schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tokenwell.chat.arguments.notation import Notation, literal, quoted
from tokenwell.chat.arguments.source import LOOK, SPACES, Source, Steps

Out = Callable[[str], None]

# Python's json and others recurse; what lies deeper than this would break a client, so null stands for it.
DEPTH = 200
_ESCAPES = {"'": "'", "`": "`", "0": "\\u0000", "a": "\\u0007", "v": "\\u000b", "\n": ""}
# The escape of a character's second half, and what may become one.
_LOW = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}\Z")
_LOW_BEGUN = re.compile(r"(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?\Z")
_REPLACEMENT = "\ufffd"
_KEY_NEXT = re.compile(rf"\s*[\"']?[\w.$-]{{1,{LOOK}}}[\"']?\s*[:=]")
_KEY_MAYBE = re.compile(rf"\s{{0,{LOOK}}}[\"']?[\w.$-]{{0,{LOOK}}}[\"']?\s{{0,{LOOK}}}\Z")


class Value:
    """Reads one value: `yield from Value(source, out, notation).read()`."""

    def __init__(self, source: Source, out: Out, notation: Notation, *, key: bool = False, call: bool = False) -> None:
        self._source = source
        self._target = out
        self._notation = notation
        self._stack: list[str] = []  # the open brackets as they are written in JSON
        self._expect = "key" if key else "value"  # key, colon, value or comma
        self._comma = False  # a comma was read that is not written yet
        self._gap = ""  # white space behind it
        self._first = True  # nothing stands in the innermost bracket yet
        self._key_only = key
        self._call = call  # the value is a call's arguments: a round bracket around them means an object
        self.finished = False  # an end mark was reached: nothing of the value can follow

    def _out(self, text: str) -> None:
        if len(self._stack) <= DEPTH:
            self._target(text)

    def read(self) -> Steps[bool]:
        """True when the value is complete, mended if need be; False when the answer was cut off inside it."""
        while True:
            char = yield from self._next()
            if not char:
                if self._source.ended and self._source.cut and self._source.at >= len(self._source.text):
                    return False
                self.finished = True
                self._close_all()
                return True
            if not self._stack and char in ",}])" and not self._key_only:
                self._put("null")
                return True
            done = yield from self._step(char)
            if done is not None:
                return done

    def _next(self) -> Steps[str]:
        """The next character that is no white space; "" at an end mark or the end of the text."""
        source, notation = self._source, self._notation
        while True:
            char = source.here or (yield from source.peek())
            if char in SPACES and char:
                end, text = source.at + 1, source.text
                while end < len(text) and text[end] in SPACES:
                    end += 1
                self._space(source.take(end))
            elif char in notation.firsts:
                word = yield from source.starts(notation.words)
                if word and word != notation.quote:
                    return ""
                return char
            elif "\ud800" <= char <= "\udfff" or (char.isspace() and char):
                source.take(source.at + 1)  # neither can be part of a value here
            else:
                return char

    def _space(self, text: str) -> None:
        if not self._notation.keep or not self._stack:
            return
        if self._comma:
            self._gap = (self._gap + text)[:LOOK]
        else:
            self._out(text)

    def _step(self, char: str) -> Steps[bool | None]:
        """Read one token; returns like `read` when the value is over, None when it goes on."""
        source = self._source
        if char in "}])":
            source.take(source.at + 1)
            self._close("{" if char == "}" else "[" if char == "]" else "(")
            return True if not self._stack else None
        if char == ",":
            source.take(source.at + 1)
            if self._expect in ("value", "colon") and self._in_object():
                self._put("null" if self._expect == "value" else ": null" if not self._notation.keep else ":null")
                self._after_value()
            self._comma = not self._first
            return None
        if char in ":=" and self._expect != "value":
            source.take(source.at + 1)
            if self._expect == "colon":
                self._out(":" if self._notation.keep else ": ")
                self._expect = "value"
            return None
        if self._expect == "colon":  # a key without a value behind it
            self._out(": ")
            self._expect = "value"
        if self._expect == "comma":
            self._comma = True
            self._expect = "key" if self._in_object() else "value"
        return (yield from self._token(char))

    def _token(self, char: str) -> Steps[bool | None]:
        """A key, or a value, or the beginning of one."""
        key = self._expect == "key"
        if char in "{[(" and not key:
            self._source.take(self._source.at + 1)
            self._open("{" if char == "{" or (char == "(" and self._call and not self._stack) else "[")
            return None
        if char in "{[(":
            self._source.take(self._source.at + 1)  # no key begins so
            return None
        self._write_comma()
        quote = self._notation.quote
        if quote and char == quote[0] and (yield from self._source.starts((quote,))):
            self._source.take(self._source.at + len(quote))
            complete = yield from self._delimited()
        elif char in "\"'":
            self._source.take(self._source.at + 1)
            complete = yield from self._string(char)
        else:
            complete = yield from self._bare(key)
        if not complete:
            return False
        if not self._stack:
            return True
        if key:
            self._expect = "colon"
        else:
            self._after_value()
        return None

    # ------------------------------------------------------------ brackets

    def _in_object(self) -> bool:
        return bool(self._stack) and self._stack[-1] == "{"

    def _open(self, bracket: str) -> None:
        self._write_comma()
        if len(self._stack) == DEPTH:
            self._target("null")
        self._stack.append(bracket)
        self._out(bracket)
        self._first = True
        self._expect = "key" if bracket == "{" else "value"

    def _close(self, bracket: str) -> None:
        """Close the innermost bracket; one of the wrong kind closes what was left open inside of it."""
        wanted = "[" if bracket == "(" else bracket
        if bracket != "(" and wanted in self._stack[-8:]:
            while self._stack[-1] != wanted:
                self._close_one()
        self._close_one()

    def _close_one(self) -> None:
        self._comma, gap, self._gap = False, self._gap, ""
        self._finish_pair()
        self._out(gap)
        self._out("}" if self._stack[-1] == "{" else "]")
        self._stack.pop()
        self._after_value()

    def _finish_pair(self) -> None:
        if self._in_object() and self._expect in ("colon", "value"):
            self._out(": null" if self._expect == "colon" else "null")

    def _close_all(self) -> None:
        if not self._stack:
            if self._expect == "value":
                self._out("null")
            return
        while self._stack:
            self._close_one()

    def _after_value(self) -> None:
        self._expect = "comma"
        self._first = False

    def _write_comma(self) -> None:
        if self._comma and not self._first:
            self._out("," + self._gap if self._notation.keep and self._gap else ", " if not self._notation.keep else ",")
        self._comma, self._gap, self._first = False, "", False

    def _put(self, text: str) -> None:
        self._write_comma()
        self._out(text)

    # ------------------------------------------------------------ strings and words

    def _string(self, quote: str) -> Steps[bool]:
        """The rest of a string in quotes."""
        source, notation = self._source, self._notation
        pattern, out = notation.plain[quote], self._out
        out('"')
        while True:
            char = source.here or (yield from source.peek())
            if not char:
                if source.cut:
                    return False
                break
            if found := pattern.match(source.text, source.at):
                text = source.take(found.end())
                out(text if quote == '"' else text.replace('"', '\\"'))
            elif char == quote:
                source.take(source.at + 1)
                break
            elif char == "\\":
                if not (yield from self._escape()):
                    source.take(len(source.text))
                    return False
            elif (yield from self._ends_here(char)):
                break
            else:
                out(quoted(notation.shown(source.take(source.at + 1))))
        out('"')
        return True

    def _escape(self) -> Steps[bool]:
        """An escape sequence; one that JSON does not know becomes what it was meant to be."""
        source = self._source
        while len(source.text) - source.at < 2 and not source.ended:
            yield
        follows = source.text[source.at + 1 : source.at + 2]
        if not follows:
            source.take(source.at + 1)
            return not source.cut
        size = {"u": 6, "x": 4}.get(follows, 2)
        while len(source.text) - source.at < size and not source.ended:
            digits = source.text[source.at + 2 :]
            if not all(digit in "0123456789abcdefABCDEF" for digit in digits):
                break
            yield
        digits = source.text[source.at + 2 : source.at + size]
        if follows in "ux" and (len(digits) < size - 2 or not all(digit in "0123456789abcdefABCDEF" for digit in digits)):
            if source.ended and source.cut and source.at + 2 + len(digits) >= len(source.text):
                return False
            source.take(source.at + 1)
            self._out("\\\\")
        elif follows == "u" and "d800" <= digits.lower() <= "dfff":
            return (yield from self._surrogate(digits))
        elif follows == "u" or follows in '"\\/bfnrt':
            self._out(source.take(source.at + size))
        elif follows == "x":
            source.take(source.at + size)
            self._out(f"\\u00{digits}")
        elif follows in _ESCAPES:
            source.take(source.at + 2)
            self._out(_ESCAPES[follows])
        else:
            source.take(source.at + 1)
            self._out("\\\\")
        return True

    def _surrogate(self, digits: str) -> Steps[bool]:
        """The escape of a half of a character; without its other half it becomes U+FFFD, as strict readers refuse it."""
        source = self._source
        behind = ""
        while digits.lower() < "dc00":
            behind = source.text[source.at + 6 : source.at + 12]
            if source.ended or not _LOW_BEGUN.match(behind):
                break
            yield
        if digits.lower() < "dc00" and _LOW.match(behind):
            self._out(source.take(source.at + 12))
        elif source.cut and source.ended and digits.lower() < "dc00" and _LOW_BEGUN.match(behind):
            return False
        else:
            source.take(source.at + 6)
            self._out(_REPLACEMENT)
        return True

    def _ends_here(self, char: str) -> Steps[bool]:
        """Whether an end mark stands here that ends an open string: a token does, text only when nothing else follows it."""
        source, notation = self._source, self._notation
        if char not in notation.firsts:
            return False
        word = yield from source.starts(notation.ends)
        if not word:
            return False
        if len(word) == 1 and "\ud800" <= word <= "\udfff":
            return True
        size = len(word)
        while not source.ended and not source.text[source.at + size : source.at + size + LOOK].strip():
            if len(source.text) - source.at >= size + LOOK:
                return False
            yield
        return source.ended and not source.text[source.at + size :].strip()

    def _delimited(self) -> Steps[bool]:
        """The rest of a string that ends at the notation's `quote`."""
        source, notation, out = self._source, self._notation, self._out
        out('"')
        while True:
            char = source.here or (yield from source.peek())
            if not char:
                if source.cut:
                    return False
                break
            if found := notation.undelimited.match(source.text, source.at):
                out(quoted(notation.shown(source.take(found.end()))))
                continue
            if (yield from source.starts((notation.quote,))):
                source.take(source.at + len(notation.quote))
                break
            if (yield from self._ends_here(char)):
                break
            out(quoted(notation.shown(source.take(source.at + 1))))
        out('"')
        return True

    def _bare(self, key: bool) -> Steps[bool]:
        """A number, a literal, or a string without quotes."""
        source, notation = self._source, self._notation
        pattern = notation.bare_key if key else notation.bare
        parts: list[str] = []
        while True:
            char = source.here or (yield from source.peek())
            if not char:
                if source.cut:
                    return False
                break
            if found := pattern.match(source.text, source.at):
                parts.append(source.take(found.end()))
                continue
            if char == notation.quote[:1] and (yield from source.starts((notation.quote,))):
                source.take(source.at + len(notation.quote))  # its opening delimiter was missing
                self._out(f'"{quoted("".join(parts))}"')
                return True
            at_comma = parts and char == "," and not key and self._in_object()
            inside = char in notation.firsts and not (yield from source.starts(notation.ends))
            if inside or (at_comma and not (yield from self._key_follows())):
                parts.append(source.take(source.at + 1))
            elif not parts:
                source.take(source.at + 1)
                parts.append("")
            else:
                break
        text = "".join(parts).strip()
        self._out(f'"{quoted(text)}"' if key or self._key_only else literal(text))
        return True

    def _key_follows(self) -> Steps[bool]:
        """Whether the comma here is followed by a next key, or the object's end, and so is no part of a bare text."""
        source, notation = self._source, self._notation
        while True:
            start = source.at + 1
            rest = source.text[start : start + 4 * LOOK]
            if _KEY_NEXT.match(rest) or rest.lstrip()[:1] in ("}", ")", "{", "["):
                return bool(rest)
            if _KEY_MAYBE.match(rest) and not source.ended:
                yield
                continue
            stripped = rest.lstrip()
            return not stripped or (notation.quote != "" and stripped.startswith(notation.quote)) or stripped.startswith('"')
