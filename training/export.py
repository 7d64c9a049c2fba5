"""The checkpoint folder: weights in bfloat16 in small shards, and everything else that a Hugging Face folder has.

`python -m training.export WEIGHTS FOLDER`: WEIGHTS is a folder with shards that the trainer left, which are
rounded, several of them as SHARE=FOLDER, whose mean is taken, or `random`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training import tokenizer
from training.model import ROPES, Mini, Shape

HERE = Path(__file__).parent
SHARD_BYTES = 15_000_000
MANTISSA = 3  # bits that matrices keep, as many as fp8 (e4m3) has
INDEX = "model.safetensors.index.json"
_KINDS = {"s": "sliding_attention", "f": "full_attention"}


def write(weights: dict[str, torch.Tensor], shape: Shape, folder: Path) -> None:
    """The whole folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save(weights, folder)
    _write(folder / "config.json", config(shape))
    stops = tokenizer.ids("<turn|>", "<|tool_response>", "<eos>")
    (bos, pad) = tokenizer.ids("<bos>", "<pad>")
    _write(
        folder / "generation_config.json",
        {"bos_token_id": bos, "eos_token_id": stops, "pad_token_id": pad, "do_sample": False, "max_new_tokens": 2048},
    )
    _write(folder / "tokenizer_config.json", tokenizer.config())
    for source, name in (
        (HERE / "tokenizer.json", "tokenizer.json"),
        (HERE / "chat_template.jinja", "chat_template.jinja"),
        (HERE / "model_card.md", "README.md"),
        (HERE / "LICENSE", "LICENSE"),
    ):
        shutil.copyfile(source, folder / name)


def config(shape: Shape) -> dict[str, Any]:
    """The content of config.json."""
    bos, pad, stop = tokenizer.ids("<bos>", "<pad>", "<turn|>")
    return {
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "dtype": "bfloat16",
        "vocab_size": shape.vocabulary,
        "vocab_size_per_layer_input": shape.vocabulary,
        "hidden_size": shape.hidden,
        "hidden_size_per_layer_input": shape.per_layer,
        "intermediate_size": shape.mlp,
        "use_double_wide_mlp": False,
        "num_hidden_layers": len(shape.layers),
        "num_kv_shared_layers": shape.shared,
        "layer_types": [_KINDS[kind] for kind in shape.layers],
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "global_head_dim": shape.head_dim,
        "attention_k_eq_v": False,
        "sliding_window": shape.window,
        "max_position_embeddings": shape.context,
        "rope_parameters": {_KINDS[kind]: rope for kind, rope in ROPES.items()},
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "final_logit_softcapping": shape.softcap,
        "tie_word_embeddings": True,
        "bos_token_id": bos,
        "eos_token_id": stop,
        "pad_token_id": pad,
    }


def rounded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights, matrices to MANTISSA bits: they stay bfloat16, but a repository stores them in half the space."""
    return {name: _rounded(tensor) if tensor.ndim > 1 else tensor for name, tensor in weights.items()}


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    fraction, exponent = torch.frexp(tensor.float())  # a fraction of at least a half has one bit that is always set
    steps = 2 ** (MANTISSA + 1)
    return torch.ldexp((fraction * steps).round() / steps, exponent).to(tensor.dtype)


def save(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """The weights in bfloat16, in shards below SHARD_BYTES, with their index."""
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in weights.items()}
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * 2
        if filled + size > SHARD_BYTES and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += size
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model-*.safetensors"):
        old.unlink()
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # the library makes files that only their owner reads
        where |= dict.fromkeys(shard, file)
    total = sum(tensor.numel() * 2 for tensor in tensors.values())
    _write(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def read(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder that `save` wrote."""
    names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    return {name: tensor for file in names for name, tensor in load_file(folder / file).items()}


def mean(parts: Sequence[tuple[float, dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """The weighted mean of the weights of several calls, in bfloat16.

    Raises ValueError where the shares do not add up to one.
    """
    if abs(sum(share for share, _ in parts) - 1) > 1e-6:
        raise ValueError("the shares of a mean have to add up to 1")
    return {name: sum((share * part[name].float() for share, part in parts), torch.zeros(())).bfloat16() for name in parts[0][1]}


def _weights(sources: Sequence[str]) -> dict[str, torch.Tensor]:
    """The weights of a folder, or the mean of those of several, given as SHARE=FOLDER."""
    if len(sources) == 1:
        return read(Path(sources[0]))
    given = [source.split("=", 1) for source in sources]
    return mean([(float(share), read(Path(folder))) for share, folder in given])


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    *sources, target = sys.argv[1:]
    shape = Shape.load()
    torch.manual_seed(0)
    write(Mini(shape).state_dict() if sources == ["random"] else rounded(_weights(sources)), shape, Path(target))
    print(f"{target}: {sum(path.stat().st_size for path in Path(target).glob('*')) / 1e6:.1f} MB")
