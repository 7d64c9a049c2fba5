"""Tokenizer files of tiny checkpoints: a small byte-level BPE with the special tokens and the chat markup of its family."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

_TEXT = """The quick brown fox jumps over the lazy dog. Paged attention stores keys and values in blocks of equal size, and
a block table maps positions to them. When the user asks for the weather in Paris, the assistant calls a tool and answers.
def add(first, second): return first + second  # {"name": "add", "arguments": {"first": 1, "second": 2}} 0123456789
Grüße aus Köln, voilà, 你好世界, こんにちは, привет мир, 🙂👍 and some more text for the sake of the merges."""

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_GEMMA4 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    "{{ message['content'] | trim + '<turn|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% elif loop.first and message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported, got ' + message['role'] + '.') }}{% endif %}"
    "{% endfor %}"
)
_HARMONY = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '<|message|>' + message['content'] }}"
    "{{ '<|return|>' if message['role'] == 'assistant' and loop.last else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """Special tokens in id order and what they are for. `first`: they precede the text tokens, as in Gemma."""

    special: tuple[str, ...]
    eos: tuple[str, ...]  # generation_config.json's; the first one is the tokenizer's
    bos: str | None
    pad: str | None
    template: str
    first: bool = False
    visible: tuple[str, ...] = ()  # added tokens that are not special: they stay in decoded text


FAMILIES = {
    "llama3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        None,
        _LLAMA3,
    ),
    "mistral": Family(
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        ("</s>",),
        "<s>",
        None,
        _MISTRAL,
        first=True,
    ),
    "qwen": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ("<|im_end|>", "<|endoftext|>"),
        None,
        "<|endoftext|>",
        _CHATML,
        visible=("<tool_call>", "</tool_call>", "<think>", "</think>"),
    ),
    "gemma4": Family(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_response>"),
        ("<eos>", "<turn|>", "<|tool_response>"),
        "<bos>",
        "<pad>",
        _GEMMA4,
        first=True,
    ),
    "gpt-oss": Family(
        (
            "<|startoftext|>",
            "<|endoftext|>",
            "<|return|>",
            "<|constrain|>",
            "<|channel|>",
            "<|start|>",
            "<|end|>",
            "<|message|>",
            "<|call|>",
        ),
        ("<|return|>", "<|endoftext|>", "<|call|>"),
        "<|startoftext|>",
        "<|endoftext|>",
        _HARMONY,
    ),
}


@functools.cache
def tokenizer_json(family: str) -> str:
    """The tokenizer.json of a family; the same bytes every time."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokens = FAMILIES[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 80 + (len(tokens.special) if tokens.first else 0),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(tokens.special) if tokens.first else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in tokens.special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in tokens.visible])
    return tokenizer.to_str(pretty=True)


def special_ids(family: str) -> dict[str, int]:
    """Ids of all added tokens of a family by text."""
    return {token["content"]: token["id"] for token in json.loads(tokenizer_json(family))["added_tokens"]}


def eos_ids(family: str) -> list[int]:
    """The ids that end a turn, as generation_config.json lists them."""
    ids = special_ids(family)
    return [ids[text] for text in FAMILIES[family].eos]


def write_tokenizer(family: str, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json."""
    tokens, ids = FAMILIES[family], special_ids(family)
    (folder / "tokenizer.json").write_text(tokenizer_json(family))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens.bos,
        "eos_token": tokens.eos[0],
        "pad_token": tokens.pad,
        "chat_template": tokens.template,
        "added_tokens_decoder": {
            str(number): {"content": text, "special": text in tokens.special} for text, number in ids.items()
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False))
    generation = {
        "bos_token_id": ids[tokens.bos] if tokens.bos else None,
        "eos_token_id": eos_ids(family),
        "pad_token_id": ids[tokens.pad] if tokens.pad else None,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
    }
    (folder / "generation_config.json").write_text(
        json.dumps({key: value for key, value in generation.items() if value is not None})
    )
