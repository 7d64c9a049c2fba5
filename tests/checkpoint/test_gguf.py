"""The GGUF container: exact bytes of every type, parts of split models, and errors that name the file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint.gguf_files import text, write_gguf

from tokenwell.checkpoint.gguf import TYPES, Counted, Gguf, read_gguf
from tokenwell.wire.errors import CheckpointError

METADATA = {
    "general.architecture": "qwen3",
    "qwen3.block_count": 2,
    "a.flag": True,
    "a.number": 0.5,
    "a.list": [3, -1, 7],
    "tokenizer.ggml.tokens": ["a", "bc", ""],
}


def test_what_a_header_says(tmp_path: Path) -> None:
    tensors = [("token_embd.weight", (10, 256), 12, 10 * 144), ("blk.0.attn_norm.weight", (256,), 0, 1024)]
    found = read_gguf(write_gguf(tmp_path / "a.gguf", METADATA, tensors))
    assert found.metadata["qwen3.block_count"] == 2
    assert found.metadata["a.list"] == [3, -1, 7]
    assert found.metadata["tokenizer.ggml.tokens"] == Counted(3)
    assert [(tensor.dtype, tensor.shape, tensor.nbytes) for tensor in found.tensors] == [
        ("Q4_K", (10, 256), 1440),
        ("F32", (256,), 1024),
    ]


@pytest.mark.parametrize(
    ("name", "bits"),
    [("Q2_K", 2.625), ("Q3_K", 3.4375), ("Q4_K", 4.5), ("Q5_K", 5.5), ("Q6_K", 6.5625), ("Q8_0", 8.5), ("IQ2_XXS", 2.0625),
     ("IQ3_XXS", 3.0625), ("IQ4_XS", 4.25), ("IQ4_NL", 4.5), ("IQ1_S", 1.5625), ("MXFP4", 4.25), ("BF16", 16)],
)  # fmt: skip
def test_types_take_as_many_bits_as_llama_cpp_says(name: str, bits: float) -> None:
    (entry,) = [entry for entry in TYPES.values() if entry[0] == name]
    assert 8 * entry[2] / entry[1] == bits


def test_a_type_that_is_not_known_reaches_to_the_next_tensor(tmp_path: Path) -> None:
    tensors = [("a", (4, 64), 99, 320), ("b", (2, 32), 8, 68), ("c", (8,), 98, 96)]
    found = read_gguf(write_gguf(tmp_path / "a.gguf", METADATA, tensors))
    assert [(tensor.dtype, tensor.nbytes) for tensor in found.tensors] == [("type 99", 320), ("Q8_0", 68), ("type 98", 96)]


def test_parts_are_one_model_and_a_missing_one_is_named(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    write_gguf(parts[0], METADATA, [("a", (32,), 8, 34)])
    write_gguf(parts[1], {"split.no": 1}, [("b", (32,), 8, 34)])
    write_gguf(parts[2], {"split.no": 2}, [("c", (32,), 8, 34)])
    whole = read_gguf(parts[0])
    assert [tensor.name for tensor in whole.tensors] == ["a", "b", "c"]
    assert read_gguf(parts[2]) == whole
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=r"m-00002-of-00003.gguf is missing"):
        read_gguf(parts[0])


def test_a_broken_file_is_said_to_be_broken(tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "good.gguf", METADATA, [("a", (32, 32), 8, 32 * 34)])
    data = good.read_bytes()
    file = tmp_path / "bad.gguf"
    for broken, said in (
        (b"", "not a GGUF file"),
        (b"GGUF\x03", "truncated"),
        (b"PK\x03\x04" + data[4:], "not a GGUF file"),
        (data[:4] + struct.pack("<I", 77) + data[8:], "version 77"),
        (data[:100], "truncated or corrupt"),
        (data[:-100], "the file has"),
        (data[:8] + struct.pack("<QQ", 1 << 60, 1 << 60) + data[24:], "truncated or corrupt"),
        (data[:24] + text("k") + struct.pack("<II", 77, 0), "type 77"),
        (data[:24] + text("k") + struct.pack("<IIQ", 9, 9, 1 << 40), "array of type 9"),
        (data[:24] + text("k") + struct.pack("<IIQ", 9, 8, 1 << 62), "truncated or corrupt"),
    ):
        file.write_bytes(broken)
        with pytest.raises(CheckpointError, match=said) as told:
            read_gguf(file)
        assert str(file) in str(told.value)
    with pytest.raises(CheckpointError, match="there twice"):
        read_gguf(write_gguf(file, METADATA, [("a", (32,), 8, 34), ("a", (32,), 8, 34)]))
    with pytest.raises(CheckpointError, match="no whole blocks of Q4_K"):
        read_gguf(write_gguf(file, METADATA, [("a", (8, 100), 12, 800)]))


@settings(max_examples=150)
@given(data=st.data())
def test_no_damage_makes_another_error_or_takes_long(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gguf")
    whole = bytearray(
        write_gguf(folder / "a.gguf", METADATA, [("a", (32, 32), 8, 32 * 34), ("b", (4,), 0, 16)]).read_bytes()[:400]
    )
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(4, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    (folder / "a.gguf").write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        assert isinstance(read_gguf(folder / "a.gguf"), Gguf)
    except CheckpointError as error:
        assert "a.gguf" in str(error)
