"""What vLLM 0.19 sets aside besides weights and KV cache: the peak of its profiling step, and libraries.

An estimate, for the peak depends on kernels. Of three moments the largest counts: a step holds the widest block's inputs and
outputs for all its tokens; sampling holds the logits of all rows in three forms; a tower of vLLM's own holds the patches of one
picture of the largest size. What is left over, and the uncertainty, are fitted to logs: five of field_figures.json (four of an
A100 80 GB, one of an Arc B580), one of Mistral 7B on a card of 24 GB and two of Qwen3.5.
"""

from __future__ import annotations

from tokenwell.plan.card import ModelCard
from tokenwell.plan.fields import Fields
from tokenwell.plan.vllm.device import GIB, Device

_BYTES_A_LOGIT = 12  # float32 logits, their sorted copy and probabilities
_LIBRARIES_GIB = {"cuda": 0.55, "xpu": 0.88}  # contexts' growth, workspaces
_UNCERTAIN_GIB = 0.3
_UNCERTAIN_WITH_PICTURES_GIB = 0.6
# Qwen's processor lets a picture become so many tokens; logged as `Encoder cache ... budget of 16384 tokens`.
_PICTURE_TOKENS = 16_384
_PATCH_WIDTHS = 16  # a patch takes so many times the tower's hidden size, in 16 bits


def overhead_gib(card: ModelCard, device: Device, tp: int, batched_tokens: int, rows: int) -> tuple[float, float]:
    """GiB on one rank for a step of `batched_tokens` tokens and `rows` rows, and by how much that may be wrong."""
    sampling = rows * card.vocabulary * _BYTES_A_LOGIT
    picture = _picture_bytes(card)
    peak = max(sampling, _step_bytes(card, tp, batched_tokens), picture)
    return peak / GIB + _LIBRARIES_GIB[device.platform], _UNCERTAIN_WITH_PICTURES_GIB if picture else _UNCERTAIN_GIB


def _step_bytes(card: ModelCard, tp: int, tokens: int) -> int:
    """The residual stream twice, and the widest feed-forward block's outputs and their gated half, in 16 bits."""
    widest = 0
    for tensor in card.tensors:
        if tensor.role == "linear" and tensor.name.endswith(".gate_proj.weight"):
            widest = max(widest, *tensor.shape)
    return tokens * 2 * (2 * card.hidden + 3 * widest // tp)


def _picture_bytes(card: ModelCard) -> int:
    """0 without a tower that cuts pictures of any size into patches."""
    vision = Fields(card.config).part("vision_config")
    if vision is None or vision.get("spatial_merge_size") is None:
        return 0
    return _PICTURE_TOKENS * vision.size("spatial_merge_size") ** 2 * _PATCH_WIDTHS * vision.size("hidden_size") * 2
