"""Programs and libraries that computing needs: the installed torch, Level Zero, container runtimes. Imports none of them.

Sources: torch writes torch/version.py when it is built; libze_intel_gpu.so.1 is Intel's compute runtime for Level Zero;
nvidia-ctk and /etc/cdi are of the NVIDIA Container Toolkit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenwell.host.machine import Machine

_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", "/usr/lib/aarch64-linux-gnu")
# By the cards' maker, the build of torch that computes on them.
BUILDS = {"intel": "xpu", "nvidia": "cuda", "amd": "rocm"}
_LEVEL_ZERO = ("libze_intel_gpu.so.1", "libze_intel_gpu.so")


@dataclass(frozen=True)
class TorchFacts:
    """A torch on the disk; its accelerators' versions are None where it was built without them."""

    version: str  # "2.13.0+cpu"
    cuda: str | None  # "13.0"
    hip: str | None
    xpu: str | None

    @property
    def build(self) -> str:
        """The kind of card that it computes on: "cuda", "rocm", "xpu" or "cpu"."""
        tag = self.version.partition("+")[2]
        if self.cuda or tag.startswith("cu"):
            return "cuda"
        if self.hip or tag.startswith("rocm"):
            return "rocm"
        return "xpu" if self.xpu or tag == "xpu" else "cpu"

    @property
    def cuda_version(self) -> tuple[int, int] | None:
        """The CUDA release it was built with."""
        if found := re.match(r"(\d{1,2})\.(\d{1,2})", self.cuda or ""):
            return int(found[1]), int(found[2])
        found = re.search(r"\+cu(\d{2})(\d)$", self.version)
        return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class SoftwareFacts:
    """Unknown is None."""

    torch: TorchFacts | None  # None: none that this Python could import
    level_zero: bool  # Intel's compute runtime is installed
    level_zero_build: int | None  # 37020 of 26.05.37020.3
    docker: bool
    nvidia_toolkit: bool  # of containers
    firmware: frozenset[str]  # those of the asked files that are below /lib/firmware, compressed or not


def read_software(machine: Machine, firmware: frozenset[str] = frozenset()) -> SoftwareFacts:
    """What is installed. `firmware`: names below /lib/firmware to look for."""
    paths = (f"{folder}/{name}" for folder in _LIBRARY_FOLDERS for name in _LEVEL_ZERO)
    library = next((target for path in paths if (target := machine.target(path))), None)
    build = re.search(r"\.so\.\d+\.\d+\.(\d{4,6})$", library or "")  # libze_intel_gpu.so.1.14.37020
    return SoftwareFacts(
        torch=_torch(machine),
        level_zero=library is not None,
        level_zero_build=int(build[1]) if build else None,
        docker=machine.node("/run/docker.sock") is not None or machine.node("/usr/bin/docker") is not None,
        nvidia_toolkit=machine.node("/usr/bin/nvidia-ctk") is not None or bool(machine.names("/etc/cdi")),
        firmware=frozenset(name for name in firmware if _has_firmware(machine, name)),
    )


def _torch(machine: Machine) -> TorchFacts | None:
    for folder in machine.site_folders:
        text = machine.text(f"{folder.rstrip('/')}/torch/version.py")
        if text is None:
            continue
        values = dict(re.findall(r"^(\w+)\b[^=\n]*=\s*['\"]([^'\"\n]+)['\"]", text, re.MULTILINE))
        if "__version__" in values:
            return TorchFacts(
                values["__version__"], values.get("cuda"), values.get("hip") or values.get("rocm"), values.get("xpu")
            )
    return None


def _has_firmware(machine: Machine, name: str) -> bool:
    return any(machine.node(f"/lib/firmware/{name}{ending}") for ending in ("", ".zst", ".xz"))
