"""Streamed text equals the text of the whole, for every tokenizer, chunking and stop string."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chat.checkpoints import byte_level_json, sentencepiece_json, word_level_json, word_piece_json, write_checkpoint

from tokenwell.chat.detokenize import Detokenizer
from tokenwell.chat.tokenizer import Tokenizer

KINDS = ("byte_level", "llama", "gemma", "metaspace", "word_level", "word_piece")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    made = {
        "byte_level": byte_level_json(),
        **{kind: sentencepiece_json(kind) for kind in ("llama", "gemma", "metaspace")},
        "word_level": word_level_json(),
        "word_piece": word_piece_json(),
    }
    root = tmp_path_factory.mktemp("tokenizers")
    return {kind: Tokenizer.load(write_checkpoint(root / kind, text)) for kind, text in made.items()}


def chunked(ids: Sequence[int], cuts: Sequence[int]) -> list[list[int]]:
    places = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    return [list(ids[start:end]) for start, end in pairwise(places)]


def stream(detokenizer: Detokenizer, chunks: Sequence[Sequence[int]]) -> list[str]:
    return [*(detokenizer.feed(list(chunk)) for chunk in chunks), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [True, False])
@settings(max_examples=80)
@given(data=st.data())
def test_pieces_of_any_ids_make_the_text_of_the_whole(
    tokenizers: dict[str, Tokenizer], kind: str, skip: bool, data: st.DataObject
) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, 40), max_size=40))
    pieces = stream(Detokenizer(tokenizer, skip_special_tokens=skip), chunked(ids, cuts))
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma", "metaspace"])
@settings(max_examples=80)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_no_character_is_split_and_texts_come_back(tokenizers: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    pieces = stream(Detokenizer(tokenizer, skip_special_tokens=False), [[id] for id in ids])
    assert "".join(pieces) == whole
    if "\ufffd" not in whole:
        assert all("\ufffd" not in piece for piece in pieces)


def test_a_character_waits_for_its_last_byte(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_level"]
    ids = tokenizer.encode("𝄞", add_special_tokens=False)
    assert len(ids) == 4
    assert stream(Detokenizer(tokenizer), [[id] for id in ids]) == ["", "", "", "𝄞", ""]


def test_a_cut_character_becomes_a_replacement_at_the_end(tokenizers: dict[str, Tokenizer]) -> None:
    for kind in ("byte_level", "llama"):
        tokenizer = tokenizers[kind]
        ids = tokenizer.encode("a𝄞", add_special_tokens=False)[:-1]
        detokenizer = Detokenizer(tokenizer)
        assert detokenizer.feed(ids) == "a"
        assert detokenizer.finish() == tokenizer.decode(ids, skip_special_tokens=True)[1:] != ""
        assert detokenizer.finish() == ""


def test_the_space_at_the_start_of_a_text_and_of_a_continuation(tokenizers: dict[str, Tokenizer]) -> None:
    for kind, fresh in (("llama", "the the"), ("metaspace", "the the"), ("gemma", " the the")):
        tokenizer = tokenizers[kind]
        ids = [tokenizer.id_of("▁the") or 0] * 2
        assert "".join(stream(Detokenizer(tokenizer), [[id] for id in ids])) == fresh
        assert "".join(stream(Detokenizer(tokenizer, continues=True), [[id] for id in ids])) == " the the"


def test_skipped_special_tokens_do_not_count_as_the_first(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["metaspace"]
    ids = [tokenizer.id_of("<s>") or 0, tokenizer.id_of("▁the") or 0]
    assert "".join(stream(Detokenizer(tokenizer), [[id] for id in ids])) == "the"


def test_decoders_without_a_spelling_stream_too(tmp_path: Path) -> None:
    raw = json.loads(sentencepiece_json())
    raw["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁"}]}
    raw["decoder"]["decoders"][1] |= {"prepend_scheme": "never", "split": True}
    tokenizer = Tokenizer.load(write_checkpoint(tmp_path, json.dumps(raw)))
    assert tokenizer.spelling is None
    ids = tokenizer.encode("the 日 in", add_special_tokens=False)
    pieces = stream(Detokenizer(tokenizer), [[id] for id in ids])
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    assert all("\ufffd" not in piece for piece in pieces)


# ---------------------------------------------------------------- stop strings


def expected(text: str, stops: Sequence[str], include: bool) -> tuple[str, str | None]:
    """The rule, letter by letter: the first stop string to be complete; of two at once the longer."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if hits:
            stop = max(hits, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@settings(max_examples=200)
@given(
    text=st.text("ab é🙂", max_size=30),
    stops=st.lists(st.text("ab é🙂", max_size=4), max_size=4),
    cuts=st.lists(st.integers(0, 60), max_size=60),
    include=st.booleans(),
)
def test_stop_strings_cut_the_same_for_every_chunking(
    tokenizers: dict[str, Tokenizer], text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    tokenizer = tokenizers["byte_level"]
    ids = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, stops, include)
    pieces = stream(detokenizer, chunked(ids, cuts))
    assert ("".join(pieces), detokenizer.stopped) == expected(text, stops, include)


def test_what_could_become_a_stop_string_is_held_back(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_level"]
    ids = tokenizer.encode("zEzENDz", add_special_tokens=False)
    assert len(ids) == 7
    detokenizer = Detokenizer(tokenizer, ["END"])
    assert [detokenizer.feed([id]) for id in ids] == ["z", "", "Ez", "", "", "", ""]
    assert (detokenizer.stopped, detokenizer.finish()) == ("END", "")


def test_held_text_comes_at_the_end(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_level"]
    detokenizer = Detokenizer(tokenizer, ["END"])
    assert detokenizer.feed(tokenizer.encode("zEN", add_special_tokens=False)) == "z"
    assert (detokenizer.finish(), detokenizer.stopped) == ("EN", None)


def test_a_stop_string_may_be_completed_by_the_end(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["llama"]
    ids = tokenizer.encode("a日", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, ["日"])
    assert detokenizer.feed(ids) == "a"  # the run of byte tokens is still open
    assert (detokenizer.finish(), detokenizer.stopped) == ("", "日")
