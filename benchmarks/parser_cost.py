"""What does reading an answer cost a token, from token ids to events? Prints one JSON line.

Measured with text only (the parser) and with ids (detokeniser and parser), one token at a time, with a real byte-level tokenizer.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenwell.bundled.checkpoint import scripted_folder
from tokenwell.chat.conversation import Conversation, Prompt
from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.writing import write_call
from tokenwell.chat.model import ChatModel
from tokenwell.chat.parser import Parser

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "write_file",
            "parameters": {"type": "object", "properties": {"content": {"type": "string"}, "edits": {"type": "array"}}},
        },
    },
)
WORDS = "The quick brown fox jumps over the lazy dog, and `so on`.\n"
PROSE = WORDS * 1_000
LARGEST_US = 3.0  # what a token may cost
ROUNDS = 3


def microseconds(feed: Callable[[Any], object], pieces: Sequence[Any]) -> float:
    """Microseconds of `feed` for each piece."""
    start = time.perf_counter()
    for piece in pieces:
        feed(piece)
    return (time.perf_counter() - start) / len(pieces) * 1e6


def with_text(text: str, bound: Bound) -> float:
    """Microseconds of the parser for each piece of four characters."""
    return microseconds(Parser(bound, TOOLS).feed, [text[at : at + 4] for at in range(0, len(text), 4)])


def with_ids(model: ChatModel, text: str) -> float:
    """Microseconds of detokeniser and parser for each token; marks in `text` are the format's characters."""
    ids: list[list[int]] = []
    of_mark = {character: id for id, character in model.format.ids.items()}
    run = ""
    for character in text + "\udfff":
        if character in of_mark or character == "\udfff":
            ids += [[id] for id in model.tokenizer.encode(run, add_special_tokens=False)] if run else []
            ids += [[of_mark[character]]] if character in of_mark else []
            run = ""
        else:
            run += character
    return microseconds(model.stream(Prompt(Conversation(()), "", [], tools=TOOLS), "id").feed, ids)


def main() -> None:
    """Measure content, a long text as an argument, and arguments of many small values."""
    figures: dict[str, float] = {}
    small = [{"line": number, "old": "a", "new": None, "all": True} for number in range(1_000)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = scripted_folder(Path(folder))
        for format in ("hermes", "qwen_xml", "gemma4"):
            model = ChatModel.load(checkpoint, chat_format=format)
            for name, arguments in (("content", None), ("long_text", {"content": PROSE}), ("small_values", {"edits": small})):
                text = PROSE if arguments is None else write_call(model.format, "write_file", arguments)
                if name != "small_values":  # four characters of those are several values, which no token is
                    figures[f"{format}_{name}_us"] = min(with_text(text, model.format) for _ in range(ROUNDS))
                figures[f"{format}_{name}_ids_us"] = min(with_ids(model, text) for _ in range(ROUNDS))
    worst = max(figures.values())
    rounded = {key: round(value, 2) for key, value in figures.items()}
    print(json.dumps({"benchmark": "parser_cost", **rounded, "ratio": round(worst / LARGEST_US, 2)}))


if __name__ == "__main__":
    main()
