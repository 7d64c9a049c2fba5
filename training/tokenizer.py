"""The tokenizer: bytes, everyday Chinese characters and English pieces, written as tokenizer.json.

A word is always cut the same way, wherever it stands, so that copying a name is copying its tokens: spaces, punctuation
marks, digits, Chinese characters and the humps of camelCase are cut apart before pieces are looked up.
`python -m training.tokenizer` learns the English pieces from the train world and writes the file; same words, same file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.pseudo import HAN, word

FILE = Path(__file__).parent / "tokenizer.json"
SIZE = 8064
SPECIAL = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>",
    "<|tool_response>", "<tool_response|>", '<|"|>', "<|think|>", "<|channel>", "<channel|>",
)  # fmt: skip
MARKS = "，。、；：？！…—·「」『』《》【】（）“”‘’～￥°€£–•→×\u3000"
# What a tool declaration is written with: each is one token.
FORMAT = (
    "declaration", "description", "parameters", "properties", "required", "type", "enum", "items", "call", "response", "value",
    "model", "user", "system", "STRING", "INTEGER", "NUMBER", "BOOLEAN", "ARRAY", "OBJECT", "true", "false", "null",
)  # fmt: skip
BLANKS = ("  ", "    ", "      ", "        ", "\n\n")
CUT = (
    r"\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|\p{Han}|\p{N}| +|\n+"  # HTTPServer: HTTP Server
    r"|[^\s\p{L}\p{M}\p{N}]|(?:(?!\p{Han})[\p{Lo}\p{Lm}\p{Lt}\p{M}])+|\s"
)
_INVENTED = 8_000  # invented words among those that pieces are learned from
_MOST = 40  # no word counts more often: the frames of the train world repeat a few words very often


def build(words: Counter[str]) -> Tokenizer:
    """A tokenizer of SIZE tokens with pieces learned from these words and their counts."""
    learner = _bare(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False, special_tokens=[]
    )
    texts = (each for each, count in sorted(words.items()) if each not in FORMAT for _ in range(count))
    learner.train_from_iterator(texts, trainer)
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map(_spelled, (*HAN, *MARKS, *BLANKS, *FORMAT))]
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *pieces])}
    merges: list[tuple[str, str]] = []
    for first, second in json.loads(learner.to_str())["model"]["merges"]:  # the most useful ones first
        if len(vocabulary) == SIZE:
            break
        merges.append((first, second))
        vocabulary.setdefault(first + second, len(vocabulary))
    # What is a token is taken whole: characters, marks and the words of declarations need no merges.
    tokenizer = _bare(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return tokenizer


def config() -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
        "bos_token": "<bos>",
        "eos_token": "<turn|>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }


@cache
def load(path: Path = FILE) -> Tokenizer:
    """The tokenizer that was written."""
    return Tokenizer.from_file(str(path))


def encode(texts: list[str]) -> list[list[int]]:
    """Token ids of each text; markup written in it becomes its tokens."""
    return [each.ids for each in load().encode_batch_fast(texts, add_special_tokens=False)]


def ids(*texts: str) -> list[int]:
    """The ids of texts that are one token each."""
    known = [load().token_to_id(text) for text in texts]
    assert None not in known
    return [each for each in known if each is not None]


def _bare(model: tokenizers.models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    cut = pre_tokenizers.Split(Regex(CUT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _spelled(character: str) -> str:
    """A text in the byte alphabet of the vocabulary."""
    ((spelled, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(character)
    return str(spelled)


def counted(texts: Iterator[str]) -> Counter[str]:
    """Words of letters with their counts, small and capitalised; some invented words beside them."""
    cut = pre_tokenizers.Split(Regex(CUT), behavior="isolated")
    found = Counter(part for text in texts for part, _ in cut.pre_tokenize_str(text) if part.isascii() and part.isalpha())
    words: Counter[str] = Counter()
    for part, count in found.items():
        words[part] += min(count, _MOST)
        words[part.lower()] += min(count, _MOST) // 4 + 1
        words[part.lower().capitalize()] += min(count, _MOST) // 4 + 1
    random = Random(0)
    for _ in range(_INVENTED):
        invented = word(random)
        words[invented if random.random() < 0.5 else invented.capitalize()] += 1
    return words


def _texts() -> Iterator[str]:
    """Every string of the train world's files."""
    import tomllib

    from training.leaves import strings
    from training.world import WORDS

    for path in sorted((WORDS / "train").glob("*/*.toml")):
        yield from strings(tomllib.loads(path.read_text("utf-8")))


if __name__ == "__main__":
    made = build(counted(_texts()))
    made.save(str(FILE), pretty=False)
    print(f"{FILE}: {made.get_vocab_size()} tokens")
