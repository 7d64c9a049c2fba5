"""What does reading an answer cost a token, from token ids to events? Prints one JSON line."""

from __future__ import annotations

import json
import time

from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.bound import bind
from tokenwell.chat.parser import Parser

TOOLS = ({"type": "function", "function": {"name": "write_file", "parameters": {"type": "object"}}},)
PROSE = "The quick brown fox jumps over the lazy dog, and so on. " * 20_000


def microseconds_per_token(text: str, format: str) -> float:
    """Microseconds of the parser for each piece of four characters."""
    parser = Parser(bind(FORMATS[format], {}), TOOLS)
    pieces = [text[place : place + 4] for place in range(0, len(text), 4)]
    start = time.perf_counter()
    for piece in pieces:
        parser.feed(piece)
    parser.finish()
    return (time.perf_counter() - start) / len(pieces) * 1e6


def main() -> None:
    """Measure content and a long string argument."""
    call = '<tool_call>\n{"name": "write_file", "arguments": {"content": "' + PROSE + '"}}\n</tool_call>'
    figures = {"content_us": microseconds_per_token(PROSE, "hermes"), "argument_us": microseconds_per_token(call, "hermes")}
    worst = max(figures.values())
    print(
        json.dumps({"benchmark": "parser_cost", **{key: round(value, 2) for key, value in figures.items()}, "ratio": worst / 3})
    )


if __name__ == "__main__":
    main()
