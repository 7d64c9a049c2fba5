"""The scripted engine's tokenizer: a byte-level BPE learned from corpus.txt, written as Hugging Face's tokenizer.json.

Learning and writing are done here, not by a library, so that the bytes depend on nothing but this file and the corpus.
Source of the algorithm: Sennrich et al. 2016; of the byte alphabet and of the word pattern: the public tokenizer.json of the
Qwen2 and Qwen3 models.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


def _word_pattern(letters: str, digits: str) -> str:
    """How text is cut into words, as a regular expression."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
        rf"|[^\r\n{letters}{digits}]?[{letters}]+|[{digits}]| ?[^\s{letters}{digits}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_WORDS = _word_pattern(r"\p{L}", r"\p{N}")  # for the `tokenizers` library
_ASCII_WORDS = re.compile(_word_pattern("a-zA-Z", "0-9"))  # the same for ASCII text; `re` knows no \p


def byte_alphabet() -> list[str]:
    """The visible character that stands for each byte: itself where it is visible, else the next one from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(0x100 + hidden.index(byte)) for byte in range(256)]


def learn(corpus: str, size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of `size` tokens (256 bytes and merges) and the merges in order of their rank.

    The most frequent pair of neighbours is merged next; among equals the one that sorts first. The corpus is ASCII.
    Raises ValueError when it is too small for so many tokens.
    """
    alphabet = byte_alphabet()
    frequency = Counter("".join(alphabet[byte] for byte in word.encode()) for word in _ASCII_WORDS.findall(corpus))
    words = {word: list(word) for word in frequency}  # a word -> the symbols that it consists of by now
    pairs: Counter[tuple[str, str]] = Counter()
    for word, symbols in words.items():
        _count(pairs, symbols, frequency[word])
    vocabulary = {symbol: byte for byte, symbol in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    while len(vocabulary) < size:
        most = max(pairs.values(), default=0)
        if most == 0:
            raise ValueError(f"the corpus gives only {len(vocabulary)} tokens, not {size}")
        best = min(pair for pair, count in pairs.items() if count == most)
        merges.append(best)
        vocabulary.setdefault("".join(best), len(vocabulary))
        for word, symbols in words.items():
            if best[0] in symbols and best[1] in symbols:
                _count(pairs, symbols, -frequency[word])
                _merge(symbols, best)
                _count(pairs, symbols, frequency[word])
    return vocabulary, merges


def _count(pairs: Counter[tuple[str, str]], symbols: list[str], times: int) -> None:
    """Add the pairs of neighbours of one word, `times` times."""
    for pair in pairwise(symbols):
        pairs[pair] += times


def _merge(symbols: list[str], pair: tuple[str, str]) -> None:
    """Join every occurrence of the pair, from the left, in place."""
    index = 0
    while index < len(symbols) - 1:
        if (symbols[index], symbols[index + 1]) == pair:
            symbols[index : index + 2] = ["".join(pair)]
        index += 1


def tokenizer_json(vocabulary: dict[str, int], merges: list[tuple[str, str]], special: tuple[str, ...]) -> dict[str, Any]:
    """The content of tokenizer.json; the ids of the special tokens follow the vocabulary's."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": len(vocabulary) + index,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, content in enumerate(special)
        ],
        "normalizer": None,  # what a script says must come out as it was written
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }
