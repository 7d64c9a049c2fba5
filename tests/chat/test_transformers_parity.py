"""The same folder through transformers: same prompts, same ids, same text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.chat.checkpoints import TEMPLATES, byte_level_json, sentencepiece_json, write_checkpoint

from tokenwell.chat.conversation import Conversation, Message, ToolCall
from tokenwell.chat.detokenize import Detokenizer
from tokenwell.chat.model import ChatModel

TOOLS = (
    {"type": "function", "function": {"name": "f", "description": "<Ü>", "parameters": {"type": "object", "properties": {}}}},
)
MESSAGES = (
    Message("system", " S & <b> "),
    Message("user", "Hello 🙂 the\n"),
    Message("assistant", "Hi", reasoning="thinking"),
    Message("user", "What now?"),
    Message("assistant", "", tool_calls=(ToolCall("abcdefghi", "f", '{"a": [1, "é"]}'),)),
    Message("tool", "result", tool_call_id="abcdefghi", name="f"),
    Message("assistant", "It is  "),
)
AS_DICTS: list[dict[str, Any]] = [
    {"role": "system", "content": " S & <b> "},
    {"role": "user", "content": "Hello 🙂 the\n"},
    {"role": "assistant", "content": "Hi", "reasoning_content": "thinking"},
    {"role": "user", "content": "What now?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": [1, "é"]}}}],
    },
    {"role": "tool", "content": "result", "tool_call_id": "abcdefghi", "name": "f"},
    {"role": "assistant", "content": "It is  "},
]


def load(tmp_path: Path, tokenizer: str, template: str) -> tuple[ChatModel, Any]:
    from transformers import PreTrainedTokenizerFast

    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if "im_end" in tokenizer:
        config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": "<|im_start|>"}
    folder = write_checkpoint(tmp_path, tokenizer, tokenizer_config=config, chat_template_jinja=template)
    return ChatModel.load(folder), PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("style", ["chatml", "llama3", "mistral", "harmony", "strict_chatml"])
@pytest.mark.parametrize("tokenizer", [byte_level_json(), sentencepiece_json()], ids=["byte_level", "sentencepiece"])
def test_prompts_are_those_of_apply_chat_template(tmp_path: Path, style: str, tokenizer: str) -> None:
    model, theirs = load(tmp_path, tokenizer, TEMPLATES[style])
    for count in (2, 4, 6, 7):
        for tools in ((), TOOLS):
            ours = model.render(Conversation(messages=MESSAGES[:count], tools=tools))
            text = theirs.apply_chat_template(
                AS_DICTS[:count], tools=list(tools) or None, add_generation_prompt=True, tokenize=False
            )
            assert ours.text == text
            assert ours.tokens == theirs(text, add_special_tokens=False)["input_ids"]
    ours = model.render(Conversation(messages=MESSAGES, continue_final_message=True))
    assert ours.text == theirs.apply_chat_template(AS_DICTS, continue_final_message=True, tokenize=False)
    ours = model.render(
        Conversation(messages=MESSAGES, add_generation_prompt=False, template_arguments={"enable_thinking": False})
    )
    assert ours.text == theirs.apply_chat_template(AS_DICTS, tokenize=False, enable_thinking=False)


@pytest.mark.parametrize(
    "tokenizer", [byte_level_json(), sentencepiece_json(), sentencepiece_json("gemma")], ids=["bytes", "llama", "gemma"]
)
def test_ids_and_text_are_the_same(tmp_path: Path, tokenizer: str) -> None:
    model, theirs = load(tmp_path, tokenizer, "{{ messages[0].content }}")
    for text in ("the quick 🙂", " two  spaces", "<|im_end|>x</s>[INST]", "日本語\n\n\tx", ""):
        assert model.encode(text) == theirs(text)["input_ids"]
    numbers = random.Random(1)
    for _ in range(30):
        ids = [numbers.randrange(model.tokenizer.vocab_size) for _ in range(20)]
        for skip in (True, False):
            detokenizer = Detokenizer(model.tokenizer, skip_special_tokens=skip)
            streamed = "".join(detokenizer.feed([id]) for id in ids) + detokenizer.finish()
            assert streamed == theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
