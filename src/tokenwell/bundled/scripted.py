"""Every file of the folder that the scripted engine serves: a tokenizer, a template and configuration, no weights.

The tokenizer has every mark of every chat format as a special token, so that one folder serves them all. The template prints a
request as it is, one JSON object a line, so that the engine can read it back from its tokens.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from tokenwell.bundled.checkpoint import as_json
from tokenwell.bundled.vocabulary import END_OF_TEXT, TURN_END, TURN_START, learn, tokenizer_json
from tokenwell.chat.formats import FORMATS

NAME = "scripted"
CONTEXT_TOKENS = 1_048_576  # agents send hundreds of kilobytes, and a byte may be a token
_LEARNED_TOKENS = 768  # bytes and merges: English costs about three characters a token
_VERSION = 1  # raise it whenever a byte of a file changes for another reason than the marks

# `learn` is done once a folder, so the marks' order may follow the tables.
MARKS = tuple(dict.fromkeys((END_OF_TEXT, TURN_START, TURN_END, *(mark for each in FORMATS.values() for mark in each.marks))))


def version() -> str:
    """Names the files' content: the marks are part of it, so a new table gives a new folder."""
    return f"scripted-{_VERSION}-{hashlib.sha256(repr(MARKS).encode()).hexdigest()[:8]}"


def files() -> dict[str, bytes]:
    """Every file of the folder by name."""
    folder = resources.files("tokenwell.bundled")
    vocabulary, merges = learn(folder.joinpath("corpus.txt").read_text(encoding="ascii"), _LEARNED_TOKENS)
    end_id = len(vocabulary) + MARKS.index(TURN_END)
    return {
        "config.json": as_json(
            {
                "architectures": ["Scripted"],
                "model_type": "scripted",
                "max_position_embeddings": CONTEXT_TOKENS,
                "vocab_size": len(vocabulary) + len(MARKS),
                "eos_token_id": end_id,
            }
        ),
        "generation_config.json": as_json({"eos_token_id": [end_id]}),
        "tokenizer.json": as_json(tokenizer_json(vocabulary, merges, MARKS)),
        "tokenizer_config.json": as_json({"eos_token": TURN_END, "model_max_length": CONTEXT_TOKENS}),
        "chat_template.jinja": folder.joinpath("scripted_template.jinja").read_bytes(),
    }
