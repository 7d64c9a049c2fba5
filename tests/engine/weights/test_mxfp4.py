"""MXFP4 against the numpy arithmetic in tests/tiny/mxfp4.py, which is written from the format's definition alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.conftest import Tiny
from tests.tiny import write
from tests.tiny.mxfp4 import random_mxfp4, values

from tokenwell.checkpoint.shard import even, strided
from tokenwell.engine.weights import mxfp4
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError

CPU = torch.device("cpu")


def test_all_codes_at_all_scales() -> None:
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(255, 16, 16).contiguous()  # every byte at every scale
    scales = torch.arange(255, dtype=torch.uint8).view(255, 1).expand(255, 16).contiguous()
    assert torch.equal(mxfp4.dequantise(blocks, scales, torch.float32), values(blocks, scales))


def test_low_nibble_first() -> None:
    blocks = torch.zeros(1, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0], blocks[0, 0, 15] = 0x72, 0x9F
    weights = mxfp4.dequantise(blocks, torch.tensor([[128]], dtype=torch.uint8), torch.float32)
    assert weights[0, :2].tolist() == [2.0, 12.0]
    assert weights[0, 30:].tolist() == [-12.0, -1.0]
    assert not weights[0, 2:30].any()


def test_scale_255_is_not_a_number() -> None:
    weights = mxfp4.dequantise(torch.zeros(1, 16, dtype=torch.uint8), torch.tensor([255], dtype=torch.uint8), torch.float32)
    assert all(math.isnan(value) for value in weights.tolist())


@pytest.mark.parametrize("shape", [(64,), (3, 32), (2, 5, 96), (2, 2, 3, 64), (0, 64), (3, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    blocks, scales = random_mxfp4(shape, torch.Generator().manual_seed(3))
    weights = mxfp4.dequantise(blocks, scales, dtype)
    assert weights.shape == shape
    assert weights.dtype == dtype
    assert torch.equal(weights, values(blocks, scales).to(dtype))


def test_more_rows_than_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mxfp4, "_PIECE_BLOCKS", 7)
    blocks, scales = random_mxfp4((2, 11, 96), torch.Generator().manual_seed(4))
    assert torch.equal(mxfp4.dequantise(blocks, scales, torch.float32), values(blocks, scales))


def test_wrong_tensors_are_refused() -> None:
    blocks, scales = random_mxfp4((2, 64), torch.Generator().manual_seed(5))
    with pytest.raises(ValueError, match="must be uint8"):
        mxfp4.dequantise(blocks.int(), scales, torch.float32)
    with pytest.raises(ValueError, match="do not fit scales"):
        mxfp4.dequantise(blocks, scales[:, :1], torch.float32)
    with pytest.raises(ValueError, match="do not fit a destination"):
        mxfp4.dequantise_into(torch.empty(2, 32), blocks, scales)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Source, torch.Tensor]:
    """A source with `e_blocks` and `e_scales`, and the [4, 12, 128] weights in them."""
    blocks, scales = random_mxfp4((4, 12, 128), torch.Generator().manual_seed(6))
    write.write_checkpoint(tmp_path, {"e_blocks": blocks, "e_scales": scales})
    return Source(Checkpoint.open(tmp_path), CPU, torch.float32), values(blocks, scales)


def test_read_whole_and_cut(stored: tuple[Source, torch.Tensor]) -> None:
    source, weights = stored
    whole = source.empty((4, 12, 128))
    mxfp4.read_into(whole, source, "e", (4, 12, 128))
    assert torch.equal(whole, weights)
    assert source.finish() == []
    part = source.empty((2, 3, 64), torch.bfloat16)
    mxfp4.read_into(part, source, "e", (4, 12, 128), ((2, 4), strided(12, 1, 2, offset=1, step=2), even(128, 1, 2)))
    assert torch.equal(part, weights[2:4, 7::2, 64:].to(torch.bfloat16))


def test_read_refuses_half_blocks(stored: tuple[Source, torch.Tensor]) -> None:
    source, _ = stored
    with pytest.raises(CheckpointError, match=r"'e' \[4, 12, 128\]: columns 16 to 64 split an MXFP4 block"):
        mxfp4.read_into(torch.empty(4, 12, 48), source, "e", (4, 12, 128), (None, None, (16, 64)))
    with pytest.raises(CheckpointError, match="'absent_blocks'"):
        mxfp4.read_into(torch.empty(4, 12, 128), source, "absent", (4, 12, 128))


def test_both_forms_of_tiny_gpt_oss_are_the_same_weights(tiny: Tiny) -> None:
    dense = Source(Checkpoint.open(tiny("gpt-oss")), CPU, torch.float32).at("model.layers.0.mlp.experts.")
    packed = Source(Checkpoint.open(tiny("gpt-oss-mxfp4")), CPU, torch.float32).at("model.layers.0.mlp.experts.")
    for name in ("gate_up_proj", "down_proj"):
        experts, inputs, outputs = dense.shape(name)
        weights = packed.empty((experts, outputs, inputs))
        mxfp4.read_into(weights, packed, name, (experts, outputs, inputs))
        assert torch.equal(weights.transpose(1, 2), dense.tensor(name, (experts, inputs, outputs)))
