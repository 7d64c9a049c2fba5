"""The system around a process, its limits, its disk and its ports: from the files in which the kernel tells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenwell.host.limits import read_limits
from tokenwell.host.machine import LiveMachine
from tokenwell.host.network import listening_ports
from tokenwell.host.recording import RecordedMachine
from tokenwell.host.software import TorchFacts, read_software
from tokenwell.host.storage import read_folder
from tokenwell.host.system import read_system


@pytest.mark.parametrize(
    ("record", "container"),
    [
        ({}, None),
        ({"files": {".dockerenv": ""}}, "docker"),
        ({"files": {"run/.containerenv": "", ".dockerenv": ""}}, "podman"),
        ({"environment": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "files": {".dockerenv": ""}}, "kubernetes"),
        ({"environment": {"container": "lxc"}}, "lxc"),
        ({"environment": {"container": "my favourite"}}, None),
        ({"files": {"proc/self/cgroup": "0::/lxc.payload.box/init.scope\n"}}, "lxc"),
    ],
)
def test_containers(record: dict[str, Any], container: str | None) -> None:
    assert read_system(RecordedMachine(record)).container == container


def test_a_system() -> None:
    files = {
        "usr/lib/os-release": "# a comment\nID='fedora'\nVERSION_ID=43\nPRETTY_NAME=\"Fedora Linux 43\"\n",
        "proc/sys/kernel/osrelease": "6.17.1-300.fc43.x86_64\n",
        "etc/group": "render:x:105:me,you\nbroken\nodd:x:many:\n",
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": {"hex": "0600000000"},
    }
    system = read_system(RecordedMachine({"files": files, "folders": {"/sys/kernel/iommu_groups": ["0"]}}))
    assert (system.distribution, system.version, system.name, system.kernel) == ("fedora", "43", "Fedora Linux 43", (6, 17))
    assert (system.groups, system.secure_boot, system.iommu, system.wsl) == ({105: "render"}, False, True, False)


def test_limits() -> None:
    files = {
        "proc/meminfo": "MemTotal: 1024 kB\nMemAvailable: 512 kB\nHugepagesize: 2048 kB\nHugePages_Total: 3\nodd\n",
        "proc/self/limits": "Limit  Soft Limit  Hard Limit\nMax locked memory         unlimited            unlimited    bytes\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
    }
    limits = read_limits(RecordedMachine({"files": files, "spaces": {"/dev/shm": [64, 60]}}))
    assert (limits.memory_bytes, limits.available_bytes, limits.huge_page_bytes, limits.huge_pages) == (2**20, 2**19, 2**21, 3)
    assert (limits.locked_bytes, limits.transparent_huge_pages) == (float("inf"), "never")
    assert limits.shared is not None
    assert limits.shared.total_bytes == 64


@pytest.mark.parametrize(
    ("text", "build", "cuda_version"),
    [
        ("__version__ = '2.13.0+cpu'\n", "cpu", None),
        ("__version__ = '2.11.0'\ncuda: Optional[str] = '13.0'\n", "cuda", (13, 0)),
        ("__version__ = '2.8.0+cu128'\n", "cuda", (12, 8)),
        ("__version__ = '2.13.0'\nhip: Optional[str] = None\nrocm: Optional[str] = '7.2'\n", "rocm", None),
        ("__version__ = '2.13.0+xpu'\nxpu: Optional[str] = '20250302'\n", "xpu", None),
    ],
)
def test_builds_of_torch(text: str, build: str, cuda_version: tuple[int, int] | None) -> None:
    record = {"site_folders": ["/empty", "/site"], "files": {"site/torch/version.py": text}}
    torch = read_software(RecordedMachine(record)).torch
    assert torch is not None
    assert (torch.build, torch.cuda_version) == (build, cuda_version)


def test_the_torch_of_this_python() -> None:
    torch = read_software(LiveMachine()).torch
    assert isinstance(torch, TorchFacts)
    assert torch.version[0].isdigit()


def test_the_mount_of_a_folder() -> None:
    mounts = (
        "27 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 27 0:40 / /models rw - nfs4 server:/models rw\n"
        "31 30 8:2 / /models/near\\040by rw - xfs /dev/sdb1 rw\n"
        "broken\n"
    )
    record = {"files": {"proc/self/mountinfo": mounts, "models/a/config.json": "{}", "models/near by/b": "1", "modelsx/c": "1"}}
    kinds = {
        path: read_folder(RecordedMachine(record), path).file_system for path in ("/models/a", "/models/near by", "/modelsx", "/")
    }
    assert kinds == {"/models/a": "nfs4", "/models/near by": "xfs", "/modelsx": "ext4", "/": "ext4"}


def test_a_folder_that_is_not_there_yet_has_the_room_of_the_one_above(tmp_path: Path) -> None:
    folder = read_folder(LiveMachine(), str(tmp_path / "not/yet"))
    assert (folder.exists, folder.content_bytes, folder.read_bytes_s) == (False, None, None)
    assert folder.space is not None
    assert folder.space.free_bytes > 0


def test_ports() -> None:
    table = (
        "  sl  local_address rem_address   st\n"
        "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000\n"
        "   1: 0100007F:1F41 00000000:0000 01 00000000:00000000\n"
        "   2: 00000000000000000000000000000000:0050 0:0 0A\n"
        "   3: odd:XYZ 0:0 0A\n"
    )
    assert listening_ports(RecordedMachine({"files": {"proc/net/tcp": table}})) == {8000, 80}
    assert listening_ports(RecordedMachine({})) is None
