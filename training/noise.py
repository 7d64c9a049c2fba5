"""Noise in what the model reads: now and then a piece of a word is another one, as in a text with words that it does not know.

Where a value ends and what is asked for must then be read from more than one word. What the assistant writes anywhere in the
dialogue is left as it is, so everything that is to be copied is still there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training import tokenizer
from training.pack import DIALOGUES, LONGEST


class Noise:
    """Replaces a share of the pieces of words: English by English ones, Chinese characters by others."""

    def __init__(self, share: float, device: torch.device) -> None:
        self.share = share
        pieces = tokenizer.load()
        texts = [pieces.decode([number]).strip() for number in range(pieces.get_vocab_size())]
        english = [len(text) > 1 and text.isascii() and text.isalpha() for text in texts]
        chinese = [len(text) == 1 and "\u4e00" <= text <= "\u9fff" for text in texts]
        self._kinds = [torch.tensor(kind, device=device) for kind in (english, chinese)]
        self._choices = [kind.nonzero().flatten().to(torch.int32) for kind in self._kinds]

    def __call__(self, ids: Tensor, documents: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        """ids [rows, tokens] with noise; all four as in pack.Batch."""
        rows, tokens = ids.shape
        most, size = DIALOGUES + -(-tokens // LONGEST), len(self._kinds[0])
        first = torch.arange(rows, device=ids.device)[:, None] * most
        texts = ((first + documents) * size).flatten()  # where each token's dialogue begins in a table of all pieces
        written = torch.zeros(rows * most * size, dtype=torch.bool, device=ids.device)
        written[texts[places] + targets.clamp(min=0)] = True
        drawn = torch.rand(ids.shape, device=ids.device) < self.share
        drawn &= ~written[texts + ids.flatten()].view_as(ids)
        for kind, choices in zip(self._kinds, self._choices, strict=True):
            others = choices[torch.randint(len(choices), ids.shape, device=ids.device)]
            ids = torch.where(drawn & kind[ids], others.to(ids.dtype), ids)
        return ids
