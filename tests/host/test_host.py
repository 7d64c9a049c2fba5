"""What the machine is: read from the real one, and from folders that look like other machines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.host.cgroup import MemoryLimit, cpu_quota, memory_limits
from tokenwell.host.cpu import CpuFacts, read_cpu
from tokenwell.host.facts import read_host
from tokenwell.host.machine import LiveMachine
from tokenwell.host.memory import read_memory

GIB = 2**30
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 25 0:28 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n"
)


def _machine(root: Path, files: Mapping[str, str]) -> LiveMachine:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return LiveMachine(root)


# ---------------------------------------------------------------- this machine


def test_this_machine() -> None:
    host = read_host()
    assert host.cpu.usable_threads == len(os.sched_getaffinity(0))
    assert host.cpu.usable_cores is None or 1 <= host.cpu.usable_cores <= host.cpu.usable_threads
    assert host.cpu.compute_threads[0] >= 1
    assert 0 < host.memory.available_bytes <= host.memory.total_bytes <= psutil.virtual_memory().total


def test_the_affinity_mask_is_respected() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from tokenwell.host.cpu import read_cpu; cpu = read_cpu(); print(cpu.usable_threads, cpu.compute_threads[0])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "1 1\n"


def test_nothing_known_is_none(tmp_path: Path) -> None:
    cpu = read_cpu(LiveMachine(tmp_path))
    assert (cpu.model, cpu.features, cpu.usable_cores, cpu.quota_cores) == (None, None, None, None)
    assert cpu.compute_threads[0] == len(os.sched_getaffinity(0))
    assert memory_limits(LiveMachine(tmp_path)) == []
    assert read_memory(LiveMachine(tmp_path)).total_bytes == psutil.virtual_memory().total
    assert not read_memory(LiveMachine(tmp_path)).limited


# ---------------------------------------------------------------- processor


def test_instruction_sets_are_those_of_every_thread(tmp_path: Path) -> None:
    both = "fma avx2 avx512f avx512bw avx512dq avx512vl"
    text = (
        f"processor : 0\nmodel name : Big\nflags : {both} amx_tile amx_bf16 amx_int8\n\nprocessor : 1\nflags : {both} amx_tile\n"
    )
    cpu = read_cpu(_machine(tmp_path, {"proc/cpuinfo": text}))
    assert cpu.model == "Big"
    assert cpu.features == {"avx2", "avx512"}


def test_a_processor_without_any_of_them_has_none_of_them(tmp_path: Path) -> None:
    cpu = read_cpu(_machine(tmp_path, {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd\n"}))
    assert cpu.features == frozenset()


def test_two_threads_of_one_core_are_one_core(tmp_path: Path) -> None:
    threads = os.sched_getaffinity(0)
    siblings = {f"sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list": "0-999\n" for thread in threads}
    cpu = read_cpu(_machine(tmp_path, siblings))
    assert (cpu.usable_threads, cpu.usable_cores) == (len(threads), 1)


@pytest.mark.parametrize(
    ("cores", "threads", "quota", "chosen"),
    [
        (8, 16, None, 8),
        (8, 16, 2.5, 2),
        (8, 16, 0.5, 1),
        (8, 16, 64.0, 8),
        (None, 4, None, 4),
        (None, 4, 1.0, 1),
        (None, None, None, 1),
    ],
)
def test_compute_threads(cores: int | None, threads: int | None, quota: float | None, chosen: int) -> None:
    count, reason = CpuFacts(None, None, threads, cores, quota, None).compute_threads
    assert count == chosen
    assert reason


def test_a_small_model_gets_one_thread() -> None:
    cpu = CpuFacts(None, None, 16, 8, None, None)
    assert cpu.threads_for(1 << 30) == cpu.compute_threads
    count, reason = cpu.threads_for(40_000_000)
    assert count == 1
    assert "so small" in reason


# ---------------------------------------------------------------- control groups


def _v2(root: Path, group: str, files: Mapping[str, str]) -> LiveMachine:
    proc = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": V2_MOUNT}
    return _machine(root, proc | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})


def test_v2_takes_the_tightest_group_on_the_way_up(tmp_path: Path) -> None:
    files = {
        "cpu.max": "max 100000\n",
        "a/cpu.max": "150000 100000\n",
        "a/b/cpu.max": "400000 100000\n",
        "a/memory.max": f"{4 * GIB}\n",
        "a/memory.high": "max\n",
        "a/memory.current": f"{3 * GIB}\n",
        "a/memory.stat": f"anon {GIB}\nfile {2 * GIB}\ninactive_file {2 * GIB}\n",
        "a/b/memory.max": "max\n",
        "a/b/memory.high": "max\n",
        "a/b/memory.current": "5\n",
    }
    machine = _v2(tmp_path, "/a/b", files)
    assert cpu_quota(machine) == 1.5
    assert memory_limits(machine) == [MemoryLimit(4 * GIB, GIB)]
    memory = read_memory(machine)
    assert memory.total_bytes == min(4 * GIB, psutil.virtual_memory().total)
    assert memory.available_bytes <= 3 * GIB


def test_v2_memory_that_is_slowed_down_counts_as_limited(tmp_path: Path) -> None:
    files = {"memory.max": f"{4 * GIB}", "memory.high": f"{GIB}", "memory.current": f"{2 * GIB}", "memory.stat": ""}
    memory = read_memory(_v2(tmp_path, "/", files))
    assert (memory.total_bytes, memory.available_bytes, memory.limited) == (GIB, 0, True)


def test_a_group_path_that_only_the_host_sees(tmp_path: Path) -> None:
    machine = _v2(tmp_path, "/docker/0123", {"cpu.max": "200000 100000", "memory.max": f"{GIB}", "memory.current": "0"})
    assert cpu_quota(machine) == 2
    assert memory_limits(machine) == [MemoryLimit(GIB, 0)]


def test_a_mount_that_shows_the_lowest_part_of_the_hierarchy(tmp_path: Path) -> None:
    mount = "30 23 0:26 /docker/0123 /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    files = {
        "proc/self/cgroup": "0::/docker/0123/inner\n",
        "proc/self/mountinfo": mount,
        "sys/fs/cgroup/cpu.max": "300000 100000",
        "sys/fs/cgroup/inner/cpu.max": "max 100000",
    }
    assert cpu_quota(_machine(tmp_path, files)) == 3


def test_v1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/box\n0::/\n",
        "proc/self/mountinfo": V1_MOUNTS,
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/box/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}\n",
    }
    machine = _machine(tmp_path, files)
    assert cpu_quota(machine) == 0.5
    assert memory_limits(machine) == [MemoryLimit(2 * GIB, GIB // 2)]


@given(
    texts=st.lists(
        st.sampled_from(["max", "100000", "0", "-1", "x", "", "9" * 30, ":", "/", " ", "\n", "0::/", " - cgroup2 "]), max_size=8
    )
)
def test_odd_files_are_no_limit_or_a_positive_one(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    text = "".join(texts)
    names = ["cpu.max", "memory.max", "memory.high", "memory.current", "memory.stat"]
    root = tmp_path_factory.mktemp("machine")
    machine = _v2(root, "/", dict.fromkeys(names, text))
    quota = cpu_quota(machine)
    assert quota is None or quota > 0
    assert all(limit.used_bytes >= 0 for limit in memory_limits(machine))
    _machine(root, {"proc/self/cgroup": text, "proc/self/mountinfo": text, "proc/cpuinfo": text})
    assert read_cpu(machine).compute_threads[0] >= 1
