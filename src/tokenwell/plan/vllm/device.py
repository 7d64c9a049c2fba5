"""What vLLM 0.19 chooses by the device alone: kernels, block size, step budget, rows.

Source: vLLM 0.19's engine/arg_utils.py (defaults of `vllm serve`), config/cache.py, platforms/*.py and the quantisation
methods of fp8 and MXFP4 (fused_moe/oracle/mxfp4.py), and the scale layouts of Triton's kernels for Hopper.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
_LARGE_BYTES = 70 * GIB  # cards from this size on, except the A100, get the larger defaults


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """How experts are held."""

    width_multiple: int  # to which their width on a rank is padded
    hidden_multiple: int
    bias_bytes: int  # of one value
    scale_rows: int = 0  # the scales are copied with rows padded to this multiple, and the originals stay; 0: they are not


@dataclass(frozen=True, slots=True)
class Device:
    """One card as vLLM sees it."""

    platform: str  # "cuda" | "xpu"
    total_bytes: int  # what the driver calls total memory
    capability: float = 8.0  # NVIDIA's compute capability; the default is an A100's
    name: str = ""

    @property
    def large(self) -> bool:
        """Whether `vllm serve` takes its defaults for large cards: by memory and name, and nothing else."""
        a100 = "a100" in self.name.lower() if self.name else self.platform == "cuda" and self.capability == 8.0
        return self.total_bytes >= _LARGE_BYTES and not a100

    @property
    def batched_tokens(self) -> int:
        """Default of --max-num-batched-tokens."""
        return 8192 if self.large else 2048

    @property
    def rows(self) -> int:
        """Default of --max-num-seqs."""
        return 1024 if self.large else 256

    @property
    def block_tokens(self) -> int:
        """Default of --block-size."""
        return 64 if self.platform == "xpu" else 16

    @property
    def marlin_fp8(self) -> bool:
        """Whether fp8 weights go through Marlin, because the card has no fp8 arithmetic: a scale for every output then."""
        return self.platform == "cuda" and self.capability < 8.9

    @property
    def mxfp4(self) -> Mxfp4:
        """How MXFP4 experts are held: Marlin before Hopper and on consumer Blackwell, Triton, FlashInfer on large Blackwell."""
        if self.platform == "xpu":
            return Mxfp4(128, 128, 2)
        if 9.0 <= self.capability < 10.0:
            return Mxfp4(64, 1, 4, scale_rows=256)
        if 10.0 <= self.capability < 11.0:
            return Mxfp4(256, 256, 4)
        return Mxfp4(128, 256, 2)
