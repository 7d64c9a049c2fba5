"""How token strings are spelled in bytes: the part of a tokenizer's decoder that can be applied one token at a time.

Two families cover the models that are served: byte-level BPE writes each byte as one printable character (the table of
GPT-2), SentencePiece writes a space as U+2581 and bytes without a token of their own as <0xHH>. Any other decoder has no
spelling here (`Spelling.of` gives None) and its text is found by decoding. Knows no vocabulary and no streams.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_table() -> dict[str, int]:
    """Character -> byte: printable Latin-1 characters stand for themselves, the other bytes for U+0100, U+0101, ..."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in table)
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_level_table()


@dataclass(frozen=True)
class Spelling:
    """The rules of one decoder. `strip` leading `strip_text` characters are cut from the start of a whole text."""

    byte_level: bool = False
    replacements: tuple[tuple[str, str], ...] = ()  # in every token, in order
    byte_fallback: bool = False
    strip_text: str = ""
    strip: int = 0
    first_drops: str = ""  # this character vanishes from the first token of a text

    @classmethod
    def of(cls, decoder: dict[str, Any] | None) -> Spelling | None:
        """The spelling of a decoder as tokenizer.json describes it; None when tokens cannot be spelled one by one."""
        steps = _steps(decoder)
        kinds = [step["type"] for step in steps]
        if kinds in (["ByteLevel"], ["ByteLevel", "Fuse"]):
            return cls(byte_level=True)
        rules: dict[str, Any] = {"replacements": ()}
        rank = 0
        for step in steps:
            place = _rank(step)
            if place is None or place < rank:
                return None
            rank = place
            rules = _add_rule(rules, step)
        # Stripping without fusing first would act on every token.
        if not steps or (rules.get("strip") and "Fuse" not in kinds):
            return None
        return cls(**rules)

    def byte_of(self, token: str) -> int | None:
        """The byte that a byte-fallback token stands for; None for ordinary tokens."""
        match = _BYTE_TOKEN.fullmatch(token) if self.byte_fallback else None
        return int(match[1], 16) if match else None

    def text_of(self, token: str) -> str:
        """The text of an ordinary token; of byte-level tokens use `bytes_of`."""
        for old, new in self.replacements:
            token = token.replace(old, new)
        return token

    def bytes_of(self, token: str) -> bytes:
        """The exact bytes that a token adds to a text when it is not the first one."""
        if self.byte_level:
            try:
                return bytes([_BYTE_OF_CHARACTER[character] for character in token])
            except KeyError:  # an added token that was never written in the byte table: it stands for itself
                return token.encode("utf-8", "replace")
        byte = self.byte_of(token)
        return bytes([byte]) if byte is not None else self.text_of(token).encode("utf-8", "replace")


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [step for part in decoder.get("decoders", []) for step in _steps(part)]
    return [decoder]


def _rank(step: dict[str, Any]) -> int | None:
    """Steps must come in this order to be equal to the rules above; None: a step that has no rule."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(pattern)}} if pattern:
            return 0
        case {"type": "Metaspace"}:
            return 1
        case {"type": "ByteFallback"}:
            return 2
        case {"type": "Fuse"}:
            return 3
        case {"type": "Strip", "stop": 0}:
            return 4
    return None


def _add_rule(rules: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    match step["type"]:
        case "Replace":
            return rules | {"replacements": (*rules["replacements"], (step["pattern"]["String"], step["content"]))}
        case "Metaspace":
            drops = "" if step.get("prepend_scheme") == "never" else step["replacement"]
            return rules | {"replacements": (*rules["replacements"], (step["replacement"], " ")), "first_drops": drops}
        case "ByteFallback":
            return rules | {"byte_fallback": True}
        case "Strip":
            return rules | {"strip_text": step["content"], "strip": step["start"]}
    return rules
