"""A checkpoint's tokenizer as the grammar library wants it: one JSON text, in which every id of the model stands for something.

Knows tokenizer files and ids; encodes and decodes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# A token that no text has: a mask allows it exactly where a grammar may end, whichever ids end a request.
END = "<|tokenwell:end|>"
_UNUSED = "<|tokenwell:unused:{}|>"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class VocabularyError(Exception):
    """The tokenizer files cannot be read; the message names the file and what is wrong with it."""


def describe(folder: Path, width: int) -> tuple[str, int]:
    """A tokenizer.json for a model with `width` logits, and the id of its END token, which stands for nothing else.

    Tokens that only tokenizer_config.json declares are added at their ids, those that it names are special, and ids between
    others that stand for nothing get a special token that no grammar names: the library takes ids for places in a list without
    gaps. Ids behind END, of which some models have as many as they like, are for the library to add. Raises VocabularyError.
    """
    file = folder / "tokenizer.json"
    tokenizer, config = _read(file), _read(folder / "tokenizer_config.json", optional=True)
    legacy = _read(folder / "special_tokens_map.json", optional=True)
    try:
        vocabulary = Vocabulary(tokenizer)
        for id, entry in (config.get("added_tokens_decoder") or {}).items():
            if int(id) < width:  # no other can be generated
                vocabulary.declare(int(id), entry)
        vocabulary.mark_special(_special(config, legacy))
        end = vocabulary.fill()
        vocabulary.spell_visible(_is_byte_level(tokenizer.get("decoder")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VocabularyError(f"{file} or tokenizer_config.json is not laid out as expected ({error!r})") from error
    # Truncation and padding are settings for training batches, which have no place here.
    changed = {"truncation": None, "padding": None, "decoder": _decoder(tokenizer.get("decoder"))}
    return json.dumps(tokenizer | changed), end


class Vocabulary:
    """The tokens of a parsed tokenizer.json, which is changed in place."""

    def __init__(self, tokenizer: dict[str, Any]) -> None:
        if not tokenizer.get("added_tokens"):
            tokenizer["added_tokens"] = []
        self._added: list[dict[str, Any]] = tokenizer["added_tokens"]
        self._model: dict[str, int] | list[list[Any]] = tokenizer["model"]["vocab"]
        # Unigram models list their tokens with scores, the others map tokens to ids.
        entries = self._model.items() if isinstance(self._model, dict) else ((item[0], id) for id, item in enumerate(self._model))
        self._ids = dict(entries)
        for token in self._added:
            self._ids.setdefault(token["content"], token["id"])

    def declare(self, id: int, entry: dict[str, Any] | str) -> None:
        """A token of added_tokens_decoder; nothing happens when the vocabulary knows its text."""
        flags = entry if isinstance(entry, dict) else {"content": entry}
        if flags["content"] not in self._ids:
            self._add(id, flags["content"], bool(flags.get("special", False)))

    def mark_special(self, texts: Iterable[str]) -> None:
        """Make tokens of the vocabulary special unless the added tokens say what they are. Texts without a token stay out."""
        added = {token["content"] for token in self._added}
        for text in texts:
            if text in self._ids and text not in added:
                self._append(self._ids[text], text, True)

    def fill(self) -> int:
        """Give every unused id between others a token, and END the first id behind them; its id."""
        used = set(self._ids.values())
        end = max(used, default=-1) + 1
        for id in range(end + 1):
            if id not in used:
                self._add(id, END if id == end else _UNUSED.format(id), True)
        # A token has the id that the model's vocabulary says, so all are in there.
        if isinstance(self._model, dict):
            self._model.update(self._ids)
        else:
            known = {id: text for text, id in self._ids.items()}
            self._model += [[known[id], 0.0] for id in range(len(self._model), end + 1)]
        return end

    def spell_visible(self, byte_level: bool) -> None:
        """Make ordinary vocabulary of added tokens like `<think>` that are not special: the library takes them for special ones.

        Then text in a grammar could neither be such a token nor hold one. Call it last.
        """
        if not isinstance(self._model, dict):
            return
        visible = [token for token in self._added if not token["special"] and _looks_special(token["content"])]
        for token in visible:
            text = token["content"]
            del self._model[text]
            self._model[_byte_letters(text) if byte_level else text.replace(" ", "▁")] = token["id"]
        gone = {token["content"] for token in visible}
        self._added[:] = [token for token in self._added if token["content"] not in gone]

    def _add(self, id: int, text: str, special: bool) -> None:
        self._ids[text] = id
        self._append(id, text, special)

    def _append(self, id: int, text: str, special: bool) -> None:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
        self._added.append({"id": id, "content": text, **flags})


def _looks_special(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def _is_byte_level(decoder: Any) -> bool:
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    return any(isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps)


def _byte_letters(text: str) -> str:
    """`text` in the alphabet of byte-level vocabularies (GPT-2's public encoder): a letter for each byte of its UTF-8."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return "".join(letters[byte] for byte in text.encode())


def _decoder(decoder: Any) -> Any:
    """The decoder, or an equal one in steps that the library reads: for one token at a time they say the same."""
    if not isinstance(decoder, dict) or decoder.get("type") != "Metaspace":
        return decoder
    space = {"type": "Replace", "pattern": {"String": decoder.get("replacement", "▁")}, "content": " "}
    return {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]}


def _special(config: dict[str, Any], legacy: dict[str, Any]) -> list[str]:
    """The texts of tokens that the files name or list as special."""
    found: list[Any] = []
    for source in (legacy, config):
        extra = source.get("extra_special_tokens")
        found += [source.get(name) for name in _NAMED] + (list(extra.values()) if isinstance(extra, dict) else [])
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(listed := config.get(name), list):
            found += listed
    texts = [token.get("content") if isinstance(token, dict) else token for token in found]
    return [text for text in texts if isinstance(text, str) and text]


def _read(file: Path, optional: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        if optional:
            return {}
        raise VocabularyError(f"{file}: no such file, so nothing is known of the tokens' text") from None
    except (OSError, ValueError, RecursionError) as error:
        raise VocabularyError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise VocabularyError(f"{file} does not hold a JSON object")
    return value
