"""A tiny checkpoint folder's chat side: byte-level BPE, ChatML template, config files. No weights: the fake engine needs none."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = """The quick brown fox jumps over the lazy dog. A token service answers many clients at once, and every client
gets its own tokens in order. Größe, naïve, 東京, and 🙂 need several bytes each. hello world hello there"""

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CHATML = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{%- if tools %}<|im_start|>tools
{{ tools | tojson }}<|im_end|>
{% endif -%}
{%- if boom %}{{ raise_exception("boom was asked for") }}{% endif -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""


def write_checkpoint(folder: Path) -> Path:
    """Write the files into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"architectures": ["FakeForCausalLM"], "model_type": "fake", "max_position_embeddings": 4096, "eos_token_id": 2}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": [2], "temperature": 0.7, "top_p": 0.9})
    _write(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>", "chat_template": CHATML})
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
