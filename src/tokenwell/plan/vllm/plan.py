"""`tokenwell plan --engine vllm==0.19`: the lines that vLLM prints at start, predicted or reproduced from a printed memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal

from tokenwell.plan.allocator import allocated
from tokenwell.plan.card import ModelCard
from tokenwell.plan.vllm.activations import overhead_gib
from tokenwell.plan.vllm.cache import Cache, layout
from tokenwell.plan.vllm.device import GIB, Device
from tokenwell.plan.vllm.weights import REPLICATED_TOWERS, Parameter, parameters
from tokenwell.wire.errors import CheckpointError, SettingsError

VERSIONS = ("0.19",)
_KV_BYTES = {"auto": 2, "bf16": 2, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
_PLAIN = ("auto", "none", "bf16", "bfloat16")
_DECIMALS = 2  # of a memory that vLLM prints, the zeros at its end left out


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """What vLLM prints, for one rank. Ranges are (lowest, highest)."""

    version: str
    weights_gib: float  # `Model loading took`
    available_gib: tuple[float, float]  # `Available KV cache memory`
    num_blocks: tuple[int, int]
    tokens: tuple[int, int]  # `GPU KV cache size`
    max_concurrency: tuple[float, float]
    max_model_len: int
    longest: int  # tokens of the longest request that the smaller number of blocks holds; vLLM does not start below max_model_len
    max_num_batched_tokens: int
    cache: Cache
    parameters: tuple[Parameter, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def likely(self) -> tuple[int, int, float]:
        """Blocks, tokens and concurrency in the middle of the memory's range: at the memory itself, if one was given."""
        blocks = self.cache.blocks(int(sum(self.available_gib) / 2 * GIB))
        return blocks, self.cache.tokens(blocks), self.cache.concurrency(blocks)

    @property
    def fits(self) -> bool:
        """Whether vLLM starts with this window."""
        return self.longest >= self.max_model_len


def vllm_plan(
    card: ModelCard, *, version: str = "0.19", tp: int = 1, quantization: str | None = None, kv_cache_dtype: str = "auto",
    max_model_len: int | None = None, max_num_batched_tokens: int | None = None, max_num_seqs: int | None = None,
    gpu_memory_utilization: float = 0.9, total_gib: float, platform: str = "cuda", capability: float = 8.0, device_name: str = "",
    available_kv_gib: float | None = None, align: bool = False,
) -> VllmPlan:  # fmt: skip
    """vLLM's figures for a model on cards of `total_gib` each.

    `available_kv_gib` is a printed `Available KV cache memory`: its decimals, two or more, leave a range of block counts. Without
    it the memory is predicted. `align`: prefix caching is on for a model with recurrent states. Raises SettingsError for settings
    that vLLM refuses and CheckpointError or CapacityError for models that it has no layout for.
    """
    told = ".".join(version.split(".")[:2])
    if told not in VERSIONS:
        raise SettingsError(f"--engine vllm=={version}: the figures of vLLM {', '.join(VERSIONS)} are known, no others")
    _check(card, tp, quantization, kv_cache_dtype, platform)
    if not 0 < gpu_memory_utilization <= 1:
        raise SettingsError(f"--gpu-memory-utilization {gpu_memory_utilization} must be above 0 and at most 1")
    if max_model_len is not None and not 0 < max_model_len <= card.window:
        raise SettingsError(f"--max-model-len {max_model_len} must be from 1 to the {card.window} tokens that the model knows")
    device = Device(platform, int(total_gib * GIB), capability, device_name)
    window = max_model_len or card.window
    rows = max_num_seqs or device.rows
    step = max_num_batched_tokens or min(device.batched_tokens, rows * window)
    held = parameters(card, quantization, tp, device, step)
    weights = allocated(parameter.made for parameter in held) / GIB
    cache = layout(card, tp, _KV_BYTES[kv_cache_dtype], device, window, step, align)
    notes = [*_weight_notes(card, held, weights, tp), *_cache_notes(cache, step)]
    if available_kv_gib is not None:
        low, high = _printed(available_kv_gib)
        notes.append(
            f"{available_kv_gib:g} GiB is rounded: {low:g} to {high:g} GiB, "
            f"{cache.blocks(int(low * GIB))} to {cache.blocks(int(high * GIB))} blocks"
        )
    else:
        usable = math.ceil(device.total_bytes * gpu_memory_utilization) / GIB
        other, unsure = overhead_gib(card, device, tp, step, rows)
        middle = usable - weights - other
        low, high = max(0.0, middle - unsure), max(0.0, middle + unsure)
        notes.append(
            f"KV memory = {total_gib} GiB x {gpu_memory_utilization} - {weights:.2f} weights - {other:.2f} for one step of "
            f"{step} tokens, sampling of {rows} rows and libraries = {middle:.2f} GiB, give or take {unsure}; recorded "
            "graphs are not subtracted"
        )
    blocks = cache.blocks(int(low * GIB)), cache.blocks(int(high * GIB))
    longest = _longest(card, cache, tp, kv_cache_dtype, device, step, blocks[0], align)
    if longest < window:
        notes.append(
            f"vLLM does not start: a request of {window} tokens needs {cache.blocks_per_request} blocks "
            f"({cache.gib(cache.blocks_per_request):.2f} GiB), {blocks[0]} are there; --max-model-len {longest} fits"
        )
    if tp > 1:
        notes.append(
            "only the first rank prints its memory, and the rank with the least decides: every "
            f"{cache.block_bytes / (1 << 20):.3g} MiB less on another rank are one block less"
        )
    return VllmPlan(
        told, weights, (low, high), blocks, (cache.tokens(blocks[0]), cache.tokens(blocks[1])),
        (cache.concurrency(blocks[0]), cache.concurrency(blocks[1])), window, longest, step, cache, tuple(held), tuple(notes),
    )  # fmt: skip


def _printed(gib: float) -> tuple[float, float]:
    """The memories that are printed so."""
    decimals = max(_DECIMALS, -int(Decimal(str(gib)).as_tuple().exponent))
    half = 0.5 * 10.0**-decimals
    return max(0.0, round(gib - half, decimals + 1)), round(gib + half, decimals + 1)


def explain_printed(plan: VllmPlan, tokens: int, max_concurrency: float) -> str:
    """Whether a printed pair of figures goes with the plan's memory, and what follows where it does not."""
    cache = plan.cache
    blocks = cache.blocks_that_print(tokens, max_concurrency)
    if not blocks:
        return f"no number of blocks prints {tokens} tokens and {max_concurrency}x with these settings: one of them was another"
    low, high = cache.gib(blocks[0]), cache.gib(blocks[-1] + 1)
    said = (
        f"{tokens} tokens and {max_concurrency}x are printed for {blocks[0]} to {blocks[-1]} blocks, {low:.4f} to {high:.4f} GiB"
    )
    if blocks[0] <= plan.num_blocks[1] and plan.num_blocks[0] <= blocks[-1]:
        return f"{said}: the memory agrees"
    if blocks[-1] < plan.num_blocks[0]:
        least, most = (plan.available_gib[0] - high) * 1024, (plan.available_gib[1] - low) * 1024
        return (
            f"{said}; the rank that printed its memory had room for {plan.num_blocks[0]} to {plan.num_blocks[1]}. The smallest "
            f"rank decides, so another one, which prints nothing, had {max(0.0, least):.0f} to {most:.0f} MiB less"
        )
    return f"{said}, more than the {plan.num_blocks[1]} that the printed memory holds: the lines are not of one run"


def _check(card: ModelCard, tp: int, quantization: str | None, kv_cache_dtype: str, platform: str) -> None:
    """What vLLM would refuse before it loads anything."""
    if card.stored == "gguf":
        raise CheckpointError(
            "the figures of vLLM 0.19 for GGUF files are not known; give the model's safetensors or config.json"
        )
    if quantization not in (None, *_PLAIN, card.stored) and (quantization != "fp8" or card.stored is not None):
        stored = (
            f"its weights are stored as {card.stored}" if card.stored else "vLLM 0.19 quantises to fp8 while loading, no other"
        )
        raise SettingsError(f"--quantization {quantization}: {stored}")
    if kv_cache_dtype not in _KV_BYTES:
        raise SettingsError(f"--kv-cache-dtype {kv_cache_dtype!r} is not known; use {', '.join(_KV_BYTES)}")
    if platform not in ("cuda", "xpu"):
        raise SettingsError(f"vLLM's figures are known for the platforms cuda and xpu, not for {platform!r}")
    for layer in card.layers:
        if tp < 1 or layer.heads % tp or (layer.kv_heads % tp and (tp % layer.kv_heads or layer.kind == "linear")):
            raise SettingsError(
                f"--tp {tp}: layer {layer.index} has {layer.heads} heads and {layer.kv_heads} key heads, which do not split so"
            )


def _longest(
    card: ModelCard, cache: Cache, tp: int, kv_cache_dtype: str, device: Device, step: int, blocks: int, align: bool
) -> int:  # fmt: skip
    """The longest window, at most the one asked for, of which one request fits into `blocks`."""
    low, high = 0, cache.max_model_len
    while low < high:
        middle = (low + high + 1) // 2
        if layout(card, tp, _KV_BYTES[kv_cache_dtype], device, middle, step, align).blocks_per_request <= blocks:
            low = middle
        else:
            high = middle - 1
    return low


def _weight_notes(card: ModelCard, held: list[Parameter], weights: float, tp: int) -> list[str]:
    total = sum(parameter.nbytes for parameter in held) / GIB
    notes = [
        f"weights of a rank: {total:.3f} GiB of parameters and tables, {weights:.3f} GiB as torch's allocator counts them "
        "(512 B steps; 2 MiB steps from 10 MiB on)"
    ]
    ropes = sum(parameter.nbytes for parameter in held if parameter.name.startswith("rope"))
    notes.append(f"rope tables take {ropes / GIB:.3f} GiB whatever the window")
    if any(layer.folded for layer in card.layers):
        notes.append("K == V in full-attention layers: vLLM loads the key projection twice and keeps both K and V")
    towers = sum(parameter.nbytes for parameter in held if REPLICATED_TOWERS.search(parameter.name))
    if towers and tp > 1:
        notes.append(f"the towers, {towers / GIB:.3f} GiB, are whole on every rank")
    return notes


def _cache_notes(cache: Cache, step: int) -> list[str]:
    notes = []
    for kind in cache.types:
        length = cache.max_model_len
        if kind.kind == "full":
            why = f"ceil({length} / {kind.block_tokens})"
        elif kind.window is not None:
            why = f"ceil(min({kind.window} - 1 + {step}, {length}) / {kind.block_tokens}) + 1"
        else:
            why = f"the state padded by {cache.state_padding:.1%} to a page of {kind.block_tokens} tokens"
        notes.append(
            f"{kind.name}: {kind.layers} layers in {kind.groups} groups, {kind.blocks_per_request} blocks a request = {why}"
        )
    if any(kind.kind == "linear" for kind in cache.types):
        notes.append(
            "the tokens are a floor that holds for short requests: states take blocks by request, not by token; for long ones "
            "concurrency x window is the capacity"
        )
    notes.append(
        f"a block of a group is {cache.block_bytes} bytes; tokens = blocks // {cache.groups} groups x smallest block; "
        f"concurrency = blocks / {cache.blocks_per_request}"
    )
    return notes
