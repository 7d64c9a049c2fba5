"""Text to token ids and back, from the tokenizer files of a checkpoint. Knows no conversations and no streams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from tokenwell.chat.conversation import ChatError
from tokenwell.chat.metadata import read_json, read_text
from tokenwell.chat.spelling import Spelling
from tokenwell.wire.errors import CheckpointError

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """The tokenizer of one checkpoint. Safe to use from several threads once loaded."""

    def __init__(self, encoder: tokenizers.Tokenizer, named: dict[str, str]) -> None:
        self.encoder = encoder
        self.named = named  # "bos_token" -> its text, and so on: the variables that templates see
        self.spelling = Spelling.of(_decoder_of(encoder))
        added = encoder.get_added_tokens_decoder()
        self.added: dict[str, int] = {token.content: id for id, token in added.items()}
        self.special = {token.content: id for id, token in added.items() if token.special}
        self.special_ids = frozenset(self.special.values())
        self._spaced = encoder.encode("a", add_special_tokens=False).tokens != ["a"]
        # Ids may have holes, so the count of tokens is not the bound that ids must stay below.
        self.vocab_size = max([*encoder.get_vocab(with_added_tokens=True).values(), -1]) + 1
        self._bytes: dict[int, bytes] = {}
        self._pieces: dict[int, str | int | None] = {}

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json and the names of the special tokens. Raises CheckpointError naming the file that is wrong."""
        encoder = _read_encoder(folder / "tokenizer.json")
        config = read_json(folder / "tokenizer_config.json")
        _add_declared_tokens(encoder, config, folder / "tokenizer_config.json")
        named = _named_tokens(config, read_json(folder / "special_tokens_map.json"))
        _mark_special(encoder, config, named)
        return cls(encoder, named)

    @property
    def bos_token(self) -> str | None:
        """The text of the beginning-of-sequence token."""
        return self.named.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The text of the end-of-sequence token."""
        return self.named.get("eos_token")

    def id_of(self, token: str) -> int | None:
        """The id of one token given by its string; None when the vocabulary has no such token."""
        return self.encoder.token_to_id(token)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text; special tokens written in it become their ids.

        With `add_special_tokens` the tokenizer adds what it was made to add, such as a beginning-of-sequence token. Raises
        ChatError when the text holds half a surrogate pair.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ChatError(
                f"The text holds an unpaired surrogate (U+{ord(text[error.start]):04X}) at character {error.start}; "
                "send valid Unicode."
            ) from error
        # The fast one does not say where in the text each token was; it takes a batch only.
        return self.encoder.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def encode_pieces(self, pieces: Sequence[str], *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text that is given in pieces; no token spans two of them. Raises ChatError like `encode`."""
        ids = self.encode(pieces[0], add_special_tokens=add_special_tokens)
        for piece in pieces[1:]:
            ids += self._inner(piece)
        return ids

    def _inner(self, piece: str) -> list[int]:
        """Ids of a text that does not start one: without the space that some tokenizers put before every text."""
        if self._spaced:
            newline = self.encode("\n", add_special_tokens=False)
            whole = self.encode(f"\n{piece}", add_special_tokens=False)
            if whole[: len(newline)] == newline:
                return whole[len(newline) :]
        return self.encode(piece, add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids. Ids that stand for nothing are skipped; bytes that are no character become U+FFFD."""
        try:
            return self.encoder.decode(list(ids), skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise ChatError(f"A token id is negative or too large; ids go from 0 to {self.vocab_size - 1}.") from error

    def token_bytes(self, id: int) -> bytes:
        """The exact bytes that a token adds to a running text; empty for an id that stands for nothing."""
        known = self._bytes.get(id)
        if known is None:
            known = self._bytes[id] = self._spell(id)
        return known

    def token_text(self, id: int) -> str:
        """The text of one token on its own, leading space included; U+FFFD where it holds a part of a character."""
        return self.token_bytes(id).decode("utf-8", "replace")

    def piece(self, id: int) -> str | int | None:
        """What a token adds to a text of a tokenizer with a text spelling: its text, the byte that it stands for, or None."""
        if id not in self._pieces:
            token = self.token_of(id)
            if token is None or self.spelling is None:
                self._pieces[id] = token
            else:
                byte = self.spelling.byte_of(token)
                self._pieces[id] = self.spelling.text_of(token) if byte is None else byte
        return self._pieces[id]

    def _spell(self, id: int) -> bytes:
        token = self.token_of(id)
        if token is None:
            return b""
        if self.spelling is None:
            return self.encoder.decode([id], skip_special_tokens=False).encode("utf-8", "replace")
        return self.spelling.bytes_of(token)

    def token_of(self, id: int) -> str | None:
        """The vocabulary's string of a token, in the tokenizer's own alphabet; None for ids that stand for nothing."""
        try:
            return self.encoder.id_to_token(id)
        except OverflowError:
            return None


def _decoder_of(encoder: tokenizers.Tokenizer) -> dict[str, Any] | None:
    decoder = encoder.decoder
    return None if decoder is None else json.loads(decoder.__getstate__())


def _read_encoder(path: Path) -> tokenizers.Tokenizer:
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file; a checkpoint needs tokenizer.json (other tokenizer files such as tokenizer.model or "
            "tekken.json must be converted to it first)"
        )
    text = read_text(path)
    try:
        encoder = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for everything it cannot parse
        raise CheckpointError(f"{path}: is not a usable tokenizer ({error}); download the file again") from error
    # Settings for training batches; a server must never cut or pad a prompt in silence.
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def _content(token: object) -> str | None:
    """The text of a token that a file gives as a string or as {"content": ...}."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _add_declared_tokens(encoder: tokenizers.Tokenizer, config: dict[str, Any], path: Path) -> None:
    """Add the tokens that only tokenizer_config.json knows, each at the id that it declares."""
    declared = config.get("added_tokens_decoder") or {}
    if not isinstance(declared, dict) or not all(key.isdecimal() for key in declared):
        raise CheckpointError(f"{path}: added_tokens_decoder must map token ids to tokens; download the file again")
    for id in sorted(map(int, declared)):
        entry = declared[str(id)]
        text = _content(entry)
        if text is None:
            raise CheckpointError(f"{path}: added token {id} has no text; download the file again")
        if encoder.token_to_id(text) is not None:
            continue
        flags = entry if isinstance(entry, dict) else {}
        token = tokenizers.AddedToken(
            text,
            single_word=bool(flags.get("single_word", False)),
            lstrip=bool(flags.get("lstrip", False)),
            rstrip=bool(flags.get("rstrip", False)),
            normalized=bool(flags.get("normalized", True)),
            special=bool(flags.get("special", False)),
        )
        encoder.add_tokens([token])
        if encoder.token_to_id(text) != id:
            raise CheckpointError(
                f"{path}: added token {text!r} is declared with id {id}, but tokenizer.json leaves only id "
                f"{encoder.token_to_id(text)} for it; the two files do not belong together"
            )


def _named_tokens(config: dict[str, Any], legacy: dict[str, Any]) -> dict[str, str]:
    """Special tokens by name, from tokenizer_config.json and, for names that it lacks, special_tokens_map.json."""
    named: dict[str, str] = {}
    for source in (legacy, config):
        extra = source.get("extra_special_tokens")
        entries = {name: source.get(name) for name in NAMED_TOKENS} | (extra if isinstance(extra, dict) else {})
        named |= {name: text for name, token in entries.items() if (text := _content(token)) is not None}
    return named


def _mark_special(encoder: tokenizers.Tokenizer, config: dict[str, Any], named: dict[str, str]) -> None:
    """Make tokens that the config calls special behave so, wherever in the vocabulary they are.

    Names without an entry in the vocabulary stay out: an id beyond the model's embeddings would crash it.
    """
    listed = [config.get("additional_special_tokens"), config.get("extra_special_tokens")]
    texts = [text for tokens in listed if isinstance(tokens, list) for token in tokens if (text := _content(token))]
    added = encoder.get_added_tokens_decoder()
    for text in [*named.values(), *texts]:
        id = encoder.token_to_id(text) if text else None
        if id is not None and id not in added:
            encoder.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False)])
