"""Small real tokenizers and checkpoint folders for the chat tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog. It is 25 °C in Zürich today.",
    "def main():\n    return {'weather': get_weather(city=\"Paris\")}\n",
    "日本語のテキスト и немного кириллицы, 🙂🙃 and 👩‍👩‍👧.",
    "system user assistant tool developer role content name arguments",
]
# Templates in the styles of public ones, with the same refusals and losses.
TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "templates").glob("*.jinja"))
}
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@cache
def byte_level_json() -> str:
    """A byte-level BPE tokenizer as Qwen has it: all bytes, a few merges, special and added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=340,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=CHATML_TOKENS,
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("a b ü", normalized=False)])
    return tokenizer.to_str()


@cache
def sentencepiece_json(decoder: str = "llama") -> str:
    """A SentencePiece-like BPE with byte fallback: `decoder` "llama" strips one space, "gemma" none, "metaspace" its own."""
    letters = sorted({character for text in TEXT[:2] for character in text.replace(" ", "▁")} - {"\n"})
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("o", "r"), ("▁", "▁"), ("i", "n")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\n", *letters]
    tokens += ["h", "t", *("".join(pair) for pair in merges)]
    vocabulary = {token: id for id, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = spaces if decoder == "gemma" else normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = {
        "llama": decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)]),
        "gemma": decoders.Sequence(steps),
        "metaspace": decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback()]),
    }[decoder]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")])
    tokenizer.add_tokens([AddedToken("<note>", normalized=False)])
    return tokenizer.to_str()


@cache
def word_level_json() -> str:
    """Whole words and no decoder, as hand-made test checkpoints have it."""
    words = ["<unk>", "</s>", "hello", "world", "你好"]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer.to_str()


@cache
def word_piece_json() -> str:
    """A decoder that depends on the token before: ## joins."""
    words = ["[UNK]", "play", "##ing", "##s", "game", ".", "'"]
    tokenizer = Tokenizer(models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer.to_str()


def write_checkpoint(folder: Path, tokenizer: str | None = None, **files: Any) -> Path:
    """Write tokenizer.json and other files; a keyword `tokenizer_config` becomes tokenizer_config.json, `x_jinja` x.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(byte_level_json() if tokenizer is None else tokenizer, encoding="utf-8")
    for name, content in files.items():
        if name.endswith("_jinja"):
            (folder / f"{name.removesuffix('_jinja')}.jinja").write_text(content, encoding="utf-8")
        else:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
