"""The operating system around this process: kernel, distribution, container or not, groups. Knows nothing of hardware.

Sources: os-release(5), proc_sys_kernel(5), group(5), modprobe.d(5), the UEFI specification (the variable SecureBoot); the marks
that runtimes leave: /.dockerenv (Docker), /run/.containerenv (Podman), the variable `container` (systemd's Container Interface),
KUBERNETES_SERVICE_HOST, "microsoft" in WSL's kernel name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tokenwell.host.machine import Machine, whole_number

_RUNTIMES = ("docker", "podman", "lxc", "lxc-libvirt", "systemd-nspawn", "rkt", "proot", "oci")
_MODPROBE = "/etc/modprobe.d"
_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@dataclass(frozen=True)
class SystemFacts:
    """Unknown is None."""

    name: str | None  # as people read it: "Ubuntu 24.04.3 LTS"
    distribution: str | None  # "ubuntu"
    version: str | None  # "24.04"
    codename: str | None  # "noble"
    family: frozenset[str]  # the distribution and those that it is like: {"ubuntu", "debian"}
    kernel: tuple[int, int] | None
    kernel_release: str | None  # "6.14.0-27-generic"
    command_line: str | None  # of the kernel
    blacklists: Mapping[str, str]  # kernel module that is kept from loading by itself -> the file that says so
    wsl: bool
    container: str | None  # "docker", "podman", "kubernetes", "lxc", …; None: no mark of one
    groups: Mapping[int, str]  # number -> name
    secure_boot: bool | None
    iommu: bool | None  # devices are in groups; None: cannot be seen
    firmware_folder: bool  # whether /lib/firmware can be seen


def read_system(machine: Machine) -> SystemFacts:
    """Facts about the operating system."""
    fields = _os_release(machine)
    release = machine.text("/proc/sys/kernel/osrelease")
    version = re.match(r"(\d{1,3})\.(\d{1,4})", release or "")
    groups = machine.names("/sys/kernel/iommu_groups")
    return SystemFacts(
        name=fields.get("PRETTY_NAME"),
        distribution=fields.get("ID"),
        version=fields.get("VERSION_ID"),
        codename=fields.get("VERSION_CODENAME"),
        family=frozenset({fields.get("ID", ""), *fields.get("ID_LIKE", "").split()} - {""}),
        kernel=(int(version[1]), int(version[2])) if version else None,
        kernel_release=release,
        command_line=machine.text("/proc/cmdline"),
        blacklists=_blacklists(machine),
        wsl="microsoft" in (release or "").lower(),
        container=_container(machine),
        groups=_groups(machine),
        secure_boot=_secure_boot(machine),
        iommu=None if groups is None else bool(groups),
        firmware_folder=bool(machine.names("/lib/firmware")),
    )


def _os_release(machine: Machine) -> dict[str, str]:
    text = machine.text("/etc/os-release") or machine.text("/usr/lib/os-release") or ""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, equals, value in pairs if equals}


def _container(machine: Machine) -> str | None:
    environment = machine.environment
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    if machine.node("/run/.containerenv") is not None:
        return "podman"
    if machine.node("/.dockerenv") is not None:
        return "docker"
    if (name := environment.get("container", "")) in _RUNTIMES:
        return name
    return "lxc" if re.search(r"/lxc/|/lxc\.payload", machine.text("/proc/self/cgroup") or "") else None


def _blacklists(machine: Machine) -> dict[str, str]:
    """Only the administrator's own files: those of the distribution keep away what nobody computes on."""
    found = {}
    for name in machine.names(_MODPROBE) or ():
        text = machine.text(f"{_MODPROBE}/{name}") if name.endswith(".conf") else None
        for module in re.findall(r"^\s*blacklist\s+([\w-]+)\s*$", text or "", re.MULTILINE):
            found[module] = f"{_MODPROBE}/{name}"
    return found


def _secure_boot(machine: Machine) -> bool | None:
    data = machine.read(_SECURE_BOOT)  # four bytes of attributes, then the value
    return bool(data[4]) if data is not None and len(data) == 5 else None


def _groups(machine: Machine) -> dict[int, str]:
    found = {}
    for line in (machine.text("/etc/group") or "").splitlines():
        fields = line.split(":")
        number = whole_number(fields[2]) if len(fields) >= 3 else None
        if number is not None:
            found[number] = fields[0]
    return found
