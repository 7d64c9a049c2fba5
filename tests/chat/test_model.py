"""A checkpoint's text side as a whole."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.chat.checkpoints import TEMPLATES, sentencepiece_json, write_checkpoint
from tests.waiting import PATIENCE_S

from tokenwell.chat.conversation import ChatError, Conversation, Message
from tokenwell.chat.events import Content
from tokenwell.chat.model import ChatModel
from tokenwell.wire.errors import CheckpointError, SettingsError

HELLO = Conversation(messages=(Message("user", "Hello 🙂"),))


@pytest.fixture
def chatml(tmp_path: Path) -> ChatModel:
    config = {"eos_token": "<|im_end|>", "chat_template": TEMPLATES["chatml"]}
    return ChatModel.load(write_checkpoint(tmp_path, tokenizer_config=config))


def text_of(events: list[object]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))


def test_prompt_tokens_are_those_of_the_rendered_text(chatml: ChatModel) -> None:
    prompt = chatml.render(HELLO)
    assert prompt.text == "<|im_start|>user\nHello 🙂<|im_end|>\n<|im_start|>assistant\n"
    assert chatml.tokenizer.decode(prompt.tokens, skip_special_tokens=False) == prompt.text
    assert prompt.tokens[0] == chatml.tokenizer.id_of("<|im_start|>")
    assert not prompt.continues


def test_the_template_owns_the_special_tokens(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    model = ChatModel.load(
        write_checkpoint(tmp_path, sentencepiece_json(), tokenizer_config=config, chat_template_jinja=TEMPLATES["mistral"])
    )
    bos = model.tokenizer.id_of("<s>")
    assert model.render(HELLO).tokens.count(bos) == 1
    without = write_checkpoint(
        tmp_path / "b", sentencepiece_json(), tokenizer_config=config, chat_template_jinja="{{ messages[0].content }}"
    )
    assert bos not in ChatModel.load(without).render(HELLO).tokens
    assert ChatModel.load(without).encode("hi")[0] == bos
    assert bos not in ChatModel.load(without).encode("hi", add_special_tokens=False)


def test_without_a_template_the_tokenizer_adds_them_and_it_is_said(tmp_path: Path) -> None:
    model = ChatModel.load(write_checkpoint(tmp_path, sentencepiece_json()))
    assert model.template is None and not model.reads_tools
    prompt = model.render(HELLO)
    assert prompt.text == "user: Hello 🙂\n\nassistant:"
    assert prompt.tokens[0] == model.tokenizer.id_of("<s>")
    assert ("chat template", "none") in [(choice.what, choice.chosen) for choice in model.choices]


def test_choices_say_what_was_found(chatml: ChatModel) -> None:
    chosen = {choice.what: choice.chosen for choice in chatml.choices}
    assert chosen["chat template"].endswith("tokenizer_config.json")
    assert chosen["chat format"] == "hermes" == chatml.format.name
    assert chosen["stop tokens"] == "<|im_end|> (2)"
    assert "developer" in chosen["chat repairs"]
    assert all(choice.reason for choice in chatml.choices)
    assert chatml.reads_tools


def test_settings(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, tokenizer_config={"chat_template": "original"})
    (tmp_path / "mine.jinja").write_text("mine")
    assert ChatModel.load(folder, chat_template=tmp_path / "mine.jinja", chat_format="plain").render(HELLO).text == "mine"
    with pytest.raises(SettingsError, match=r"model\.chat_format: 'klingon' is not known; choose one of auto, gemma4, harmony, "):
        ChatModel.load(folder, chat_format="klingon")
    with pytest.raises(SettingsError, match=r"model\.chat_template"):
        ChatModel.load(folder, chat_template=tmp_path / "none.jinja")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        ChatModel.load(tmp_path / "nowhere")


def test_streams_give_content_and_nothing_of_special_tokens(chatml: ChatModel) -> None:
    ids = chatml.encode("Grüße 🙂<|im_end|>")
    stream = chatml.stream(chatml.render(HELLO))
    events = [event for id in ids for event in stream.feed([id])] + stream.finish()
    assert text_of(events) == "Grüße 🙂"
    assert all(isinstance(event, Content) and event.text for event in events)
    kept = chatml.stream(None, skip_special_tokens=False)
    assert text_of([*kept.feed(ids), *kept.finish()]) == "Grüße 🙂<|im_end|>"


def test_streams_stop_at_stop_strings(chatml: ChatModel) -> None:
    ids = chatml.encode("one two three")
    for include, expected in ((False, "one "), (True, "one two")):
        stream = chatml.stream(None, stop=["two", "three"], include_stop=include)
        assert text_of([*stream.feed(ids), *stream.feed(ids), *stream.finish()]) == expected
        assert stream.stopped == "two"
    free = chatml.stream(None, stop=["four"])
    assert text_of([*free.feed(ids), *free.finish()]) == "one two three"
    assert free.stopped is None


def test_an_answer_starts_a_text_and_a_continuation_goes_on(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATES["mistral"]}
    model = ChatModel.load(write_checkpoint(tmp_path, sentencepiece_json(), tokenizer_config=config))
    ids = [model.tokenizer.id_of("▁the") or 0]
    opened = Conversation(messages=(Message("user", "u"), Message("assistant", "in")), continue_final_message=True)
    for prompt, expected in ((model.render(HELLO), "the"), (model.render(opened), " the"), (None, " the")):
        stream = model.stream(prompt)
        assert text_of([*stream.feed(ids), *stream.finish()]) == expected


def test_text_that_is_not_unicode_is_a_chat_error(chatml: ChatModel) -> None:
    with pytest.raises(ChatError, match="surrogate"):
        chatml.render(Conversation(messages=(Message("user", "\udc00"),)))
    with pytest.raises(ChatError, match="surrogate"):
        chatml.encode("\udc00")


def test_many_threads_render_the_same(chatml: ChatModel) -> None:
    with ThreadPoolExecutor(8) as pool:
        prompts = list(pool.map(chatml.render, [HELLO] * 64))
    assert {prompt.text for prompt in prompts} == {prompts[0].text}


def test_the_import_is_light() -> None:
    code = "import sys, tokenwell.chat.model; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert not {"torch", "transformers", "starlette", "numpy", "huggingface_hub"} & set(done.stdout.split())
