"""Quantised checkpoints: every format is read to the same numbers, whole, fused and over ranks, packed or dense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import write

from tokenwell.checkpoint import shard
from tokenwell.checkpoint.recipe import Recipe, read_recipe
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.quant import fp8, int4, read
from tokenwell.engine.weights.quant.fp8 import Fp8Matrix
from tokenwell.engine.weights.quant.int4 import Int4Matrix
from tokenwell.engine.weights.quant.read import Part
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError, SettingsError

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were kernels for this device."""
    monkeypatch.setattr(accelerator, "kernels_reason_not", lambda device: None)


def source(folder: Path, tensors: Tensors, recipe: Recipe, rank: int = 0, world: int = 1) -> Source:
    if not (folder / "config.json").exists():
        write.write_checkpoint(folder, tensors)
    return Source(Checkpoint.open(folder), CPU, torch.float32, rank, world, recipe)


def whole(name: str, rows: int) -> Part:
    return Part(name, rows, (0, rows))


def dense(matrix: read.Matrix) -> torch.Tensor:
    return matrix if isinstance(matrix, torch.Tensor) else matrix.dense(torch.float32)


# ---------------------------------------------------------------- how each format is stored, written down independently


def int32_words(codes: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Eight codes an int32 along the last dimension; code order[i] lies in nibble i."""
    groups = codes.to(torch.int64).unflatten(-1, (-1, 8))
    words = sum(groups[..., order[i]] << (4 * i) for i in range(8))
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()  # type: ignore[arg-type]


def four_bits(rows: int, columns: int, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [rows, columns], scales and zeros [rows, groups], and the numbers that they stand for."""
    codes = torch.randint(0, 16, (rows, columns))
    scales = torch.rand(rows, columns // group).half() * 0.1 + 0.01
    zeros = torch.randint(0, 16, (rows, columns // group))
    return codes, scales, zeros, (codes - zeros.repeat_interleave(group, 1)) * scales.float().repeat_interleave(group, 1)


def awq(name: str, rows: int, columns: int) -> tuple[Tensors, torch.Tensor]:
    codes, scales, zeros, values = four_bits(rows, columns, 32)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    tensors = {"qweight": int32_words(codes.T.contiguous(), order), "qzeros": int32_words(zeros.T.contiguous(), order)}
    return {f"{name}.{key}": value for key, value in tensors.items()} | {f"{name}.scales": scales.T.contiguous()}, values


def gptq(name: str, rows: int, columns: int, g_idx: torch.Tensor | None = None) -> tuple[Tensors, torch.Tensor]:
    codes, scales, zeros, values = four_bits(rows, columns, 32)
    if g_idx is not None:  # column j of the file is in group g_idx[j]
        values = (codes - zeros[:, g_idx]) * scales.float()[:, g_idx]
    tensors = {
        "qweight": int32_words(codes).T.contiguous(),
        "qzeros": int32_words((zeros.T - 1) % 16).contiguous(),
        "scales": scales.T.contiguous(),
        "g_idx": (torch.arange(columns) // 32 if g_idx is None else g_idx).to(torch.int32),
    }
    return {f"{name}.{key}": value for key, value in tensors.items()}, values


def compressed(name: str, rows: int, columns: int, symmetric: bool) -> tuple[Tensors, torch.Tensor]:
    codes, scales, zeros, values = four_bits(rows, columns, 32)
    tensors = {"weight_packed": int32_words(codes), "weight_scale": scales, "weight_shape": torch.tensor([rows, columns])}
    if symmetric:
        values = (codes - 8) * scales.float().repeat_interleave(32, 1)
    else:
        tensors["weight_zero_point"] = int32_words(zeros.T.contiguous()).T.contiguous()
    return {f"{name}.{key}": value for key, value in tensors.items()}, values


def eight_bits(
    name: str, rows: int, columns: int, scale: torch.Tensor, wide: torch.Tensor, suffix: str
) -> tuple[Tensors, torch.Tensor]:
    codes = (torch.randn(rows, columns) * 50).to(torch.float8_e4m3fn)
    tensors = {f"{name}.weight": codes, f"{name}.{suffix}": scale, f"{name}.input_scale": torch.tensor(0.5)}
    return tensors, codes.float() * wide


def fp8_tensor(name: str, rows: int, columns: int) -> tuple[Tensors, torch.Tensor]:
    scale = torch.rand(()) + 0.1
    return eight_bits(name, rows, columns, scale, scale, "weight_scale")


def fp8_channel(name: str, rows: int, columns: int) -> tuple[Tensors, torch.Tensor]:
    scale = torch.rand(rows, 1) + 0.1
    return eight_bits(name, rows, columns, scale.bfloat16(), scale.bfloat16().float(), "weight_scale")


def fp8_block(name: str, rows: int, columns: int) -> tuple[Tensors, torch.Tensor]:
    scale = torch.rand(-(-rows // 16), -(-columns // 32)) + 0.1
    wide = scale.repeat_interleave(16, 0)[:rows].repeat_interleave(32, 1)[:, :columns]
    return eight_bits(name, rows, columns, scale, wide, "weight_scale_inv")


W4A16 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
FORMATS: dict[str, tuple[Callable[[str, int, int], tuple[Tensors, torch.Tensor]], dict[str, Any]]] = {
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}),
    "w4a16": (
        lambda *size: compressed(*size, True),
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": W4A16 | {"symmetric": True}}}},
    ),
    "w4a16 asymmetric": (
        lambda *size: compressed(*size, False),
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": W4A16 | {"symmetric": False}}}},
    ),
    "fp8 tensor": (fp8_tensor, {"quant_method": "fp8"}),
    "fp8 channel": (
        fp8_channel,
        {"quant_method": "compressed-tensors",
         "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}},
    ),
    "fp8 block": (fp8_block, {"quant_method": "fp8", "weight_block_size": [16, 32]}),
}  # fmt: skip


@pytest.fixture(params=FORMATS)
def made(request: pytest.FixtureRequest) -> tuple[Tensors, dict[str, torch.Tensor], Recipe]:
    """Two modules, q [48, 128] and k [16, 128], with what they stand for."""
    form, config = FORMATS[request.param]
    tensors, values = {}, {}
    for name, rows in (("layer.q", 48), ("layer.k", 16)):
        stored, values[name] = form(name, rows, 128)
        tensors |= stored
    return tensors, values, read_recipe({"quantization_config": config})


# ---------------------------------------------------------------- reading


def test_dense_where_there_are_no_kernels(tmp_path: Path, made: Any) -> None:
    tensors, values, recipe = made
    weights = source(tmp_path, tensors, recipe).at("layer.")
    matrix = read.matrix(weights, [whole("q", 48), whole("k", 16)], 128, (0, 128))
    assert isinstance(matrix, torch.Tensor)
    assert torch.allclose(matrix, torch.cat([values["layer.q"], values["layer.k"]]), atol=1e-6)
    assert any("compute dtype" in line for line in weights.finish())


@pytest.mark.usefixtures("packed")
def test_packed_and_fused(tmp_path: Path, made: Any) -> None:
    tensors, values, recipe = made
    weights = source(tmp_path, tensors, recipe)
    matrix = read.matrix(weights, [whole("layer.q", 48), whole("layer.k", 16)], 128, (0, 128))
    assert isinstance(matrix, Fp8Matrix if recipe.stored == "fp8" else Int4Matrix)
    assert torch.allclose(dense(matrix), torch.cat([values["layer.q"], values["layer.k"]]), atol=1e-6)
    assert matrix.nbytes < 0.6 * 64 * 128 * 2 * (2 if recipe.block else 1)  # these blocks are tiny
    assert weights.finish() == []


@pytest.mark.usefixtures("packed")
def test_asked_for_none(tmp_path: Path, made: Any) -> None:
    tensors, values, recipe = made
    matrix = read.matrix(source(tmp_path, tensors, replace(recipe, order="none")), [whole("layer.q", 48)], 128, (0, 128))
    assert isinstance(matrix, torch.Tensor)
    assert torch.allclose(matrix, values["layer.q"], atol=1e-6)


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("split", ["column", "row"])
def test_ranks_make_the_whole(tmp_path: Path, made: Any, split: str) -> None:
    tensors, values, recipe = made
    pieces = []
    for rank in range(2):
        weights = source(tmp_path, tensors, recipe, rank, 2)
        keep = shard.even(48, rank, 2) if split == "column" else (0, 48)
        columns = shard.even(128, rank, 2) if split == "row" else (0, 128)
        pieces.append(dense(read.matrix(weights, [Part("layer.q", 48, keep)], 128, columns)))
    assert torch.allclose(torch.cat(pieces, 0 if split == "column" else 1), values["layer.q"], atol=1e-6)


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("form", ["fp8 block", "gptq"])
def test_ranks_that_cut_a_group(tmp_path: Path, form: str) -> None:
    make, config = FORMATS[form]
    tensors, _ = make("q", 16, 96)
    weights = source(tmp_path, tensors, read_recipe({"quantization_config": config}), 0, 2)
    with pytest.raises(CheckpointError, match=r"q\.weight.* cut a group of 32 columns"):
        read.matrix(weights, [whole("q", 16)], 96, (0, 48))


@pytest.mark.usefixtures("packed")
def test_columns_ordered_by_activation(tmp_path: Path) -> None:
    g_idx = torch.arange(128).div(32, rounding_mode="floor")[torch.randperm(128)]
    tensors, values = gptq("q", 24, 128, g_idx)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}
    recipe = read_recipe({"quantization_config": config})
    matrix = read.matrix(source(tmp_path, tensors, recipe), [whole("q", 24)], 128, (0, 128))
    assert isinstance(matrix, Int4Matrix)
    assert matrix.order is not None
    assert torch.allclose(matrix.dense(torch.float32), values, atol=1e-6)
    with pytest.raises(CheckpointError, match="act-order"):
        read.matrix(source(tmp_path, tensors, recipe, 0, 2), [whole("q", 24)], 128, (0, 64))


@pytest.mark.usefixtures("packed")
def test_a_plain_part_beside_a_quantised_one(tmp_path: Path) -> None:
    tensors, values = fp8_channel("q", 16, 32)
    tensors["k.weight"] = torch.randn(8, 32)
    recipe = read_recipe({"quantization_config": FORMATS["fp8 channel"][1]})
    matrix = read.matrix(source(tmp_path, tensors, recipe), [whole("q", 16), whole("k", 8)], 32, (0, 32))
    assert isinstance(matrix, torch.Tensor)
    assert torch.allclose(matrix, torch.cat([values, tensors["k.weight"]]), atol=1e-6)


@pytest.mark.usefixtures("packed")
def test_scales_of_another_shape(tmp_path: Path) -> None:
    tensors, _ = fp8_channel("q", 16, 32)
    tensors["q.weight_scale"] = torch.rand(3, 5)
    recipe = read_recipe({"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(CheckpointError, match=r"q\.weight_scale.*\[3, 5\]"):
        read.matrix(source(tmp_path, tensors, recipe), [whole("q", 16)], 32, (0, 32))


@pytest.mark.usefixtures("packed")
def test_quantised_while_read(tmp_path: Path) -> None:
    tensors = {
        "layer.q.weight": torch.randn(48, 64),
        "layer.k.weight": torch.randn(16, 64),
        "layer.router.weight": torch.randn(8, 64),
    }
    weights = source(tmp_path, tensors, read_recipe({}, "fp8")).at("layer.")
    matrix = read.matrix(weights, [whole("q", 48), whole("k", 16)], 64, (0, 64))
    assert isinstance(matrix, Fp8Matrix)
    values = torch.cat([tensors["layer.q.weight"], tensors["layer.k.weight"]])
    # e4m3 has three bits behind the point: at most half of 2^-3 off, or half of the smallest step.
    allowed = values.abs() / 16 + values.abs().amax(1, keepdim=True) / 448 * 2**-10
    assert ((dense(matrix) - values).abs() <= allowed).all()
    assert isinstance(read.matrix(weights, [whole("router", 8)], 64, (0, 64)), torch.Tensor)


def test_online_fp8_without_kernels(tmp_path: Path) -> None:
    tensors = {"q.weight": torch.randn(16, 64)}
    weights = source(tmp_path, tensors, read_recipe({}, "fp8"))
    assert torch.equal(dense(read.matrix(weights, [whole("q", 16)], 64, (0, 64))), tensors["q.weight"])
    assert any("--quantization fp8 is for accelerators" in line for line in weights.finish())


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(("group", "columns"), [(32, 64), (128, 256), (0, 96), (256, 512), (0, 44)])
def test_four_bits_are_packed_and_unpacked(group: int, columns: int) -> None:
    codes = torch.randint(0, 16, (7, columns))
    span = int4.span(group, columns)
    assert columns % span == 0 and (group == 0 or group % span == 0)
    assert torch.equal(int4.unpack(int4.pack(codes, span), span), codes.to(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_in_eight_bits(dtype: torch.dtype) -> None:
    matrix = torch.randn(3, 5, 40, dtype=torch.float32).to(dtype)
    matrix[1, 2] = 0
    codes, scales = fp8.quantise_rows(matrix)
    assert codes.shape == matrix.shape and scales.shape == (3, 5)
    assert torch.allclose(codes.float().abs().amax(-1)[scales > 1e-6], torch.tensor(448.0))
    again = fp8.dequantise(codes, scales, torch.float32)
    assert ((again - matrix.float()).abs() <= matrix.float().abs() / 16 + scales[..., None] * 2**-10).all()


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("config", "order", "error"),
    [
        ({"quant_method": "bitsandbytes"}, "auto", "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 3}, "auto", "3 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "auto", "gemv"),
        ({"quant_method": "awq", "bits": 4, "group_size": 48}, "auto", "groups of 48"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "auto", "several kinds"),
        ({"quant_method": "fp8", "weight_block_size": [100, 100]}, "auto", "128 x 128"),
    ],
)  # fmt: skip
def test_formats_that_are_not_supported(config: dict[str, Any], order: str, error: str) -> None:
    with pytest.raises(CheckpointError, match=error):
        read_recipe({"quantization_config": config}, order)


def test_orders() -> None:
    with pytest.raises(SettingsError, match="auto, none, fp8, mxfp4"):
        read_recipe({}, "int3")
    with pytest.raises(SettingsError, match="has none"):
        read_recipe({}, "mxfp4")
    with pytest.raises(SettingsError, match="is awq"):
        read_recipe({"quantization_config": {"quant_method": "awq", "bits": 4}}, "mxfp4")
    assert read_recipe({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4").stored == "mxfp4"
    assert read_recipe({"text_config": {"quantization_config": {"quant_method": "fp8"}}}).stored == "fp8"


def test_what_stays_in_the_compute_dtype() -> None:
    recipe = read_recipe({}, "fp8")
    kept = ["model.layers.0.mlp.gate", "model.layers.3.mlp.router", "layers.0.router.proj", "lm_head", "model.embed_tokens",
            "model.layers.1.per_layer_projection", "per_layer_model_projection", "model.embed_tokens_per_layer"]  # fmt: skip
    made = [
        "model.layers.0.mlp.gate_proj",
        "layers.0.self_attn.q_proj",
        "model.layers.0.mlp.experts.3.up_proj",
        "x.experts.gate_up_proj",
    ]
    assert not any(recipe.quantises(module) for module in kept)
    assert all(recipe.quantises(module) for module in made)
    assert not any(read_recipe({}).quantises(module) for module in made)


def test_ignored_modules() -> None:
    ignored = ["lm_head", "re:.*mlp.gate$", "model.layers.2"]
    recipe = read_recipe({"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ignored}})
    assert (
        recipe.ignores("lm_head")
        and recipe.ignores("model.layers.1.mlp.gate")
        and recipe.ignores("model.layers.2.self_attn.o_proj")
    )
    assert not recipe.ignores("model.layers.1.mlp.gate_proj") and not recipe.ignores("model.layers.22.self_attn.o_proj")
