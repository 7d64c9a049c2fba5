"""Tensors by name: values, cuts, conversion, accounting, and errors that name the tensor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.conftest import Tiny
from tests.tiny import write
from tests.tiny.recipes import RECIPES

from tokenwell.checkpoint.shard import Span, even, head_rows, strided
from tokenwell.engine.weights import read
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError

CPU = torch.device("cpu")


def source(
    folder: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32, rank: int = 0, world: int = 1
) -> Source:
    return Source(Checkpoint.open(write.write_checkpoint(folder, tensors)), CPU, dtype, rank, world)


def counting(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape).to(dtype)


@pytest.mark.parametrize("name", RECIPES)
def test_every_tensor_of_every_tiny_checkpoint(tiny: Tiny, name: str) -> None:
    checkpoint = Checkpoint.open(tiny(name))
    weights = Source(checkpoint, CPU, torch.float32)
    for file in sorted(checkpoint.folder.glob("*.safetensors")):
        for key, expected in load_file(file).items():
            dtype = torch.float32 if expected.is_floating_point() else expected.dtype
            assert torch.equal(weights.tensor(key, tuple(expected.shape), dtype=dtype), expected.to(dtype))
    assert weights.finish() == []


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16])
def test_floating_point_is_rounded_once(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    values = torch.randn(300, 173, generator=torch.Generator().manual_seed(0)).to(stored)
    tensor = source(tmp_path, {"w": values}, wanted).tensor("w", (300, 173))
    assert tensor.dtype == wanted
    assert torch.equal(tensor, values.to(wanted))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool])
def test_integers_are_read_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    values = (torch.arange(60) % 7 - (0 if dtype in (torch.uint8, torch.bool) else 3)).to(dtype).view(5, 12)
    weights = source(tmp_path, {"w": values})
    assert torch.equal(weights.tensor("w", (5, 12), dtype=dtype), values)
    assert torch.equal(weights.tensor("w", (5, 12), dtype=dtype, part=((1, 4), (2, 12, 3))), values[1:4, 2::3])


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    weights = source(tmp_path, {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)})
    assert weights.tensor("scalar", ()).item() == 2.5
    assert weights.tensor("scalar", (), dtype=torch.bfloat16).item() == 2.5
    assert weights.tensor("empty", (0, 3)).shape == (0, 3)
    assert weights.finish() == []


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_make_the_whole(tmp_path: Path, world: int, dim: int, dtype: torch.dtype) -> None:
    values = counting(8, 12, 20)
    write.write_checkpoint(tmp_path, {"w": values})
    checkpoint = Checkpoint.open(tmp_path)
    parts = [Source(checkpoint, CPU, dtype, rank, world).tensor("w", (8, 12, 20), shard_dim=dim) for rank in range(world)]
    assert torch.equal(torch.cat(parts, dim), values.to(dtype))


@st.composite
def _spans(draw: st.DrawFn, size: int) -> Span | None:
    if draw(st.booleans()):
        return None
    start = draw(st.integers(0, size))
    return start, draw(st.integers(start, size)), draw(st.integers(1, 3))


@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_any_cut_into_any_layout(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shape: list[int]) -> None:
    """With limits this low every way to read is taken: direct, in pieces, row by row."""
    values = counting(*shape)
    weights = source(tmp_path_factory.getbasetemp() / "cuts", {"w": values})
    part = tuple(data.draw(_spans(size)) for size in shape)
    expected = values[tuple(slice(None) if span is None else slice(*span) for span in part)]
    layout = data.draw(st.permutations(range(len(shape))))
    destination = torch.full(
        [expected.shape[dim] for dim in layout], -1.0, dtype=data.draw(st.sampled_from([torch.float32, torch.float64]))
    )
    view = destination.permute([layout.index(dim) for dim in range(len(shape))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_HOST_PIECE", data.draw(st.integers(1, 40)))
        patch.setattr(read, "_SEEK_BYTES", data.draw(st.integers(1, 100)))
        weights.read_into(view, "w", tuple(shape), part=part)
    assert torch.equal(view.to(torch.float32), expected)


def test_one_row_of_a_transposed_tensor(tmp_path: Path) -> None:
    """Contiguous by torch's rules, though its stride is not 1: there is nothing to stride over."""
    values = counting(2, 1)
    destination = torch.full((1, 2), -1.0).t()
    source(tmp_path, {"w": values}).read_into(destination[:1], "w", (2, 1), rows=(0, 1))
    assert destination.tolist() == [[values[0, 0].item()], [-1.0]]


@pytest.mark.parametrize("shape", [(3, 200_000), (70, 3000), (2, 3, 50_000), (500_000,)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tensors_larger_than_a_piece(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    weights = source(tmp_path, {"w": values}, dtype)
    assert torch.equal(weights.tensor("w", shape), values.to(dtype))
    half = tuple((0, size // 2) if dim == len(shape) - 1 else None for dim, size in enumerate(shape))
    assert torch.equal(weights.tensor("w", shape, part=half), values[..., : shape[-1] // 2].to(dtype))


def test_parts_of_a_fused_weight(tmp_path: Path) -> None:
    q, k = counting(8, 6), counting(4, 6) + 100
    weights = source(tmp_path, {"q": q, "k": k})
    fused = weights.empty((8, 6))
    weights.read_into(fused[:6], "q", (8, 6), rows=(2, 8))
    weights.read_into(fused[6:], "k", (4, 6), rows=(0, 2))
    assert torch.equal(fused, torch.cat([q[2:], k[:2]]))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_fused_experts_keep_gate_and_up_apart_on_every_rank(tmp_path: Path, world: int) -> None:
    experts, width, dim = 3, 8, 5
    whole = (experts, 2 * width, dim)
    values = counting(*whole)
    write.write_checkpoint(tmp_path, {"gate_up": values})
    checkpoint = Checkpoint.open(tmp_path)
    size = width // world
    for rank in range(world):
        weights = Source(checkpoint, CPU, torch.float32, rank, world)
        mine = weights.empty((experts, 2 * size, dim))
        weights.read_into(mine[:, :size], "gate_up", whole, part=(None, even(2 * width, rank, world, block=0, blocks=2)))
        weights.read_into(mine[:, size:], "gate_up", whole, part=(None, even(2 * width, rank, world, block=1, blocks=2)))
        gate, up = values[:, :width], values[:, width:]
        assert torch.equal(mine, torch.cat([gate[:, rank * size :][:, :size], up[:, rank * size :][:, :size]], dim=1))


def test_interleaved_transposed_experts(tmp_path: Path) -> None:
    """gpt-oss in bf16: [E, in, 2I] with gate and up columns in turn, wanted as [E, 2I, in] with the gate first."""
    stored = counting(2, 5, 12)
    weights = source(tmp_path, {"gate_up": stored})
    mine = weights.empty((2, 6, 5))
    for half, offset in enumerate((0, 1)):
        part = (None, None, strided(12, 1, 2, offset=offset, step=2))
        weights.read_into(mine[:, 3 * half : 3 * half + 3].transpose(1, 2), "gate_up", (2, 5, 12), part=part)
    assert torch.equal(mine[:, :3], stored[:, :, 6::2].transpose(1, 2))
    assert torch.equal(mine[:, 3:], stored[:, :, 7::2].transpose(1, 2))


def test_few_heads_on_many_ranks(tmp_path: Path) -> None:
    values = counting(2 * 4, 6)
    write.write_checkpoint(tmp_path, {"k": values})
    checkpoint = Checkpoint.open(tmp_path)
    for rank in range(4):
        rows = Source(checkpoint, CPU, torch.float32, rank, 4).tensor("k", (8, 6), rows=head_rows(2, 4, rank, 4))
        assert torch.equal(rows, values[rank // 2 * 4 :][:4])


def test_views_share_the_account(tmp_path: Path) -> None:
    weights = source(tmp_path, {"model.layers.0.w": counting(2), "model.norm": counting(3), "lm_head": counting(4)})
    layer = weights.at("model.").at("layers.0.")
    assert layer.has("w")
    assert not layer.has("norm")
    assert layer.shape("w") == (2,)
    layer.tensor("w", (2,))
    weights.at("model.").tensor("norm", (3,))
    with pytest.raises(CheckpointError, match=r"1 tensors.*: lm_head\. "):
        layer.finish()
    weights.tensor("lm_head", (4,))
    weights.tensor("lm_head", (4,))  # tied weights may be read again
    assert layer.finish() == []
    assert weights.at("").prefix == ""
    with pytest.raises(ValueError, match="must end with"):
        weights.at("model")


def test_skipped_tensors_are_counted_and_told(tmp_path: Path) -> None:
    weights = source(tmp_path, {"vision.a": counting(2), "vision.b": counting(3), "text.vision.c": counting(4)})
    assert weights.skip(r"audio\..*", "no audio input") == 0
    assert weights.at("text.").skip(r"vision\..*", "no image input") == 2
    with pytest.raises(CheckpointError, match=r"1 tensors.*text\.vision\.c"):
        weights.finish()
    weights.tensor("text.vision.c", (4,))
    assert weights.skip(".*", "all is read") == 0
    (line,) = weights.finish()
    assert "2 tensors" in line
    assert "no image input" in line
    assert "vision.a" in line


def test_unused_tensors_are_named_up_to_a_few(tmp_path: Path) -> None:
    weights = source(tmp_path, {f"extra.{index:02}": counting(1) for index in range(40)})
    with pytest.raises(CheckpointError) as error:
        weights.finish()
    message = str(error.value)
    assert str(tmp_path) in message
    assert "40 tensors" in message
    assert "extra.00" in message
    assert "and 35 more" in message
    assert "extra.30" not in message


def test_missing_tensor_names_the_closest(tmp_path: Path) -> None:
    weights = source(tmp_path, {"language_model.model.layers.0.self_attn.q_proj.weight": counting(2), "other": counting(1)})
    with pytest.raises(CheckpointError) as error:
        weights.at("model.layers.0.").tensor("self_attn.q_proj.weight", (2,))
    message = str(error.value)
    assert str(tmp_path) in message
    assert "no tensor 'model.layers.0.self_attn.q_proj.weight'" in message
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in message
    with pytest.raises(CheckpointError, match="no tensor 'zzzzzz'"):
        weights.shape("zzzzzz")


def test_wrong_shape_tells_both(tmp_path: Path) -> None:
    weights = source(tmp_path, {"model.w": counting(2, 3)})
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'model\.w' is \[2, 3\].*needs \[3, 2\]"):
        weights.at("model.").tensor("w", (3, 2))
    with pytest.raises(CheckpointError, match=r"is \[2, 3\].*needs \[6\]"):
        weights.read_into(torch.empty(6), "model.w", (6,))


def test_integers_where_floating_point_is_needed(tmp_path: Path) -> None:
    weights = source(tmp_path, {"w": torch.zeros(4, dtype=torch.uint8), "f": counting(4)})
    with pytest.raises(CheckpointError, match=r"'w' is stored as U8.*float32.*quantisation"):
        weights.tensor("w", (4,))
    with pytest.raises(CheckpointError, match=r"'f' is stored as F32.*int64"):
        weights.tensor("f", (4,), dtype=torch.int64)
    with pytest.raises(CheckpointError, match="2 tensors"):
        weights.finish()  # what failed was not read


def test_shard_that_does_not_divide_names_the_tensor(tmp_path: Path) -> None:
    weights = source(tmp_path, {"model.w": counting(3, 4)}, rank=1, world=2)
    with pytest.raises(CheckpointError, match=r"'model\.w' \[3, 4\] cannot be split into 2 equal parts along dimension 0"):
        weights.at("model.").tensor("w", (3, 4), shard_dim=0)


def test_misuse_is_an_error_of_the_program(tmp_path: Path) -> None:
    weights = source(tmp_path, {"w": counting(4, 4)})
    with pytest.raises(ValueError, match="only one of"):
        weights.tensor("w", (4, 4), shard_dim=0, rows=(0, 2))
    with pytest.raises(ValueError, match=r"\(2, 4\) does not fit a destination of \(4, 4\)"):
        weights.read_into(torch.empty(4, 4), "w", (4, 4), rows=(0, 2))
    with pytest.raises(ValueError, match="rank 2 is not one of 2 ranks"):
        Source(weights.checkpoint, CPU, torch.float32, 2, 2)


def test_file_that_shrinks_while_it_is_loaded(tmp_path: Path) -> None:
    weights = source(tmp_path, {"w": counting(1000)})
    write.truncate(tmp_path / "model.safetensors", 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors became shorter"):
        weights.tensor("w", (1000,))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read: No such file"):
        weights.tensor("w", (1000,))


_LOAD = """
import resource, sys
from pathlib import Path
import torch
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.source import Source

checkpoint = Checkpoint.open(Path(sys.argv[1]))
source = Source(checkpoint, torch.device("cpu"), getattr(torch, sys.argv[2]), 0, int(sys.argv[3]))
torch.ones(1 << 20, dtype=torch.bfloat16).float()  # the first tensor work of a process has costs of its own
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensors = [
    source.tensor(name, info.shape, shard_dim=1 if source.world > 1 else None) for name, info in checkpoint.names.items()
]
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
print(grown - sum(tensor.nbytes for tensor in tensors))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 MB: two tensors, the larger one of 260 MB."""
    tensors = {"table": torch.ones(130_000, 1000, dtype=torch.bfloat16), "w": torch.ones(4000, 5000, dtype=torch.bfloat16)}
    return write.write_checkpoint(tmp_path_factory.mktemp("large"), tensors)


@pytest.mark.parametrize(("dtype", "world"), [("bfloat16", 1), ("float32", 1), ("bfloat16", 2)])
def test_peak_memory_is_the_destination(large: Path, dtype: str, world: int) -> None:
    command = [sys.executable, "-c", _LOAD, str(large), dtype, str(world)]
    excess = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert excess < 32 << 20
