"""Activations as kernels hand them to products in e4m3."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Codes(NamedTuple):
    """Token i is codes[i] * scale[i]."""

    codes: torch.Tensor  # [tokens, in] e4m3
    scale: torch.Tensor  # [tokens, 1] float32

    @classmethod
    def empty(cls, tokens: int, width: int, device: torch.device) -> Codes:
        """Room for them."""
        codes = torch.empty((tokens, width), dtype=torch.float8_e4m3fn, device=device)
        return cls(codes, torch.empty((tokens, 1), dtype=torch.float32, device=device))

    def dense(self) -> torch.Tensor:
        """The numbers in float32."""
        return self.codes.to(torch.float32) * self.scale
