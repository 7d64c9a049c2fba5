"""Every file of the bundled checkpoint, as bytes. Knows no folder; imports neither torch nor transformers."""

from __future__ import annotations

from importlib import resources

from safetensors.numpy import save

from tokenwell.bundled.checkpoint import as_json
from tokenwell.bundled.model import config_json, tensors
from tokenwell.bundled.vocabulary import END_OF_TEXT, MARKERS, SPECIAL, TURN_END, learn, tokenizer_json

VOCAB_SIZE = 1024
CONTEXT_TOKENS = 8192


def files() -> dict[str, bytes]:
    """Every file of the checkpoint by name."""
    corpus = resources.files("tokenwell.bundled").joinpath("corpus.txt").read_text(encoding="ascii")
    template = resources.files("tokenwell.bundled").joinpath("chat_template.jinja").read_text(encoding="ascii")
    added = SPECIAL + MARKERS
    vocabulary, merges = learn(corpus, VOCAB_SIZE - len(added))
    ids = {content: len(vocabulary) + index for index, content in enumerate(added)}
    end_ids = [ids[TURN_END], ids[END_OF_TEXT]]
    # Bytes that are no visible ASCII characters, and the markers: text without them reads more like text.
    quiet_ids = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0x100), *(ids[content] for content in MARKERS)]
    return {
        "config.json": as_json(config_json(VOCAB_SIZE, CONTEXT_TOKENS, end_ids)),
        "generation_config.json": as_json(
            {
                "do_sample": True,
                "temperature": 1.0,
                "top_k": 40,
                "top_p": 0.95,
                "max_new_tokens": 256,
                "eos_token_id": end_ids,
                "pad_token_id": end_ids[-1],
            }
        ),
        "tokenizer.json": as_json(tokenizer_json(vocabulary, merges)),
        "tokenizer_config.json": as_json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "add_bos_token": False,
                "bos_token": None,
                "eos_token": TURN_END,
                "pad_token": END_OF_TEXT,
                "unk_token": None,
                "clean_up_tokenization_spaces": False,
                "model_max_length": CONTEXT_TOKENS,
                "chat_template": template,
            }
        ),
        "model.safetensors": save(tensors(VOCAB_SIZE, quiet_ids), metadata={"format": "pt"}),
    }
