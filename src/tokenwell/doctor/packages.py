"""How each distribution installs what a card needs. A table of commands, and their choice; runs none of them.

Sources: the distributions' package lists; Ubuntu's table of hardware enablement kernels; NVIDIA's, AMD's and PyTorch's
installation pages (the indices of wheels by accelerator).
"""

from __future__ import annotations

from tokenwell.host.card_names import Family
from tokenwell.host.system import SystemFacts

_INSTALL = {
    "debian": "sudo apt install",
    "fedora": "sudo dnf install",
    "rhel": "sudo dnf install",
    "arch": "sudo pacman -S",
    "suse": "sudo zypper install",
}
_UBUNTU_KERNELS = {"20.04": (5, 15), "22.04": (6, 8), "24.04": (6, 17)}  # the newest that a release offers
_LEVEL_ZERO = {
    "ubuntu": "libze-intel-gpu1 libze1 intel-opencl-icd",
    "debian": "libze-intel-gpu1 libze1 intel-opencl-icd",
    "fedora": "intel-level-zero oneapi-level-zero",
    "rhel": "intel-level-zero oneapi-level-zero",
    "arch": "intel-compute-runtime level-zero-loader",
    "suse": "libze_intel_gpu1 level-zero",
}
_FIRMWARE = {
    "ubuntu": "linux-firmware",
    "debian": "firmware-intel-graphics firmware-misc-nonfree",
    "fedora": "intel-gpu-firmware linux-firmware",
    "rhel": "linux-firmware",
    "arch": "linux-firmware",
    "suse": "kernel-firmware-i915 kernel-firmware-xe",
}
_NVIDIA = {
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt install nvidia-open-kernel-dkms nvidia-driver",
    "fedora": "sudo dnf install akmod-nvidia",
    "rhel": "sudo dnf install nvidia-open",
    "arch": "sudo pacman -S nvidia-open",
    "suse": "sudo zypper install nvidia-open-driver-G06-signed-kmp-default",
}
_WHEELS = "https://download.pytorch.org/whl"
OLD_FAMILIES = frozenset({"Maxwell", "Pascal", "Volta"})  # CUDA 13 computes on none of them


def newer_kernel(system: SystemFacts, needed: tuple[int, int]) -> str | None:
    """The command that brings a kernel of at least this release; None where the distribution is unknown."""
    kind = _kind(system, _INSTALL)
    if system.wsl:
        return "wsl.exe --update"
    if system.distribution == "ubuntu":
        offered = _UBUNTU_KERNELS.get(system.version or "", (0, 0))
        return f"sudo apt install linux-generic-hwe-{system.version}" if offered >= needed else "sudo do-release-upgrade"
    commands = {
        "debian": f"sudo apt install -t {system.codename or 'stable'}-backports linux-image-amd64",
        "fedora": "sudo dnf upgrade --refresh",
        "rhel": "sudo dnf install --enablerepo=elrepo-kernel kernel-ml",
        "arch": "sudo pacman -Syu linux",
        "suse": "sudo zypper dup",
    }
    return commands.get(kind)


def without_kernel_word(system: SystemFacts, word: str) -> str | None:
    """The command that takes a word off the kernel's command line."""
    kind = _kind(system, _INSTALL)
    if kind in ("fedora", "rhel"):
        return f"sudo grubby --update-kernel=ALL --remove-args={word} && sudo reboot"
    if kind == "debian":
        return f"sudo sed -i 's/\\b{word}\\b//' /etc/default/grub && sudo update-grub && sudo reboot"
    return None


def nvidia_driver(system: SystemFacts) -> str | None:
    """The command that installs NVIDIA's own driver."""
    return _NVIDIA.get(_kind(system, _NVIDIA))


def level_zero(system: SystemFacts) -> str | None:
    """The command that installs Intel's compute runtime; on Ubuntu from Intel's archive, whose own is too old for new cards."""
    install = _install(system, _LEVEL_ZERO)
    return (
        f"sudo add-apt-repository -y ppa:kobuk-team/intel-graphics && {install}" if system.distribution == "ubuntu" else install
    )


def firmware(system: SystemFacts) -> str | None:
    """The command that installs the firmware of graphics cards."""
    return _install(system, _FIRMWARE)


def nvidia_toolkit(system: SystemFacts) -> str | None:
    """The command that lets Docker hand NVIDIA's cards to containers."""
    install = _INSTALL.get(_kind(system, _INSTALL))
    if install is None:
        return None
    configure = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    return f"{install} nvidia-container-toolkit && {configure}"


def torch(build: str) -> str:
    """The command that replaces torch by the build for an accelerator: "cpu", "xpu", "rocm", "cu126", "cu128" or "cu130"."""
    folder = "rocm7.2" if build == "rocm" else build
    return f"python -m pip install --force-reinstall torch --index-url {_WHEELS}/{folder}"


def torch_for_nvidia(family: Family | None, driver_branch: int | None) -> str:
    """The newest CUDA build that card and driver can run."""
    if family and family.name in OLD_FAMILIES:
        return "cu126"
    if driver_branch is None or driver_branch >= 580:
        return "cu130"
    return "cu128" if driver_branch >= 570 else "cu126"


def _kind(system: SystemFacts, table: dict[str, str]) -> str:
    """The distribution's own row, or that of a family it belongs to."""
    if system.distribution in table:
        return system.distribution
    return next((name for name in table if name in system.family), "")


def _install(system: SystemFacts, table: dict[str, str]) -> str | None:
    packages, install = table.get(_kind(system, table)), _INSTALL.get(_kind(system, _INSTALL))
    return f"{install} {packages}" if packages and install else None
