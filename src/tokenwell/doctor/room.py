"""Checks of room: main memory, shared and locked memory, huge pages, the model's folder. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwell.doctor.finding import Finding, gib
from tokenwell.host.survey import Survey

_GIB, _MIB = 2**30, 2**20
_LITTLE_MEMORY_BYTES = 8 * _GIB  # gateway, engine, torch and the tables that stay in host memory
_LITTLE_SHARED_BYTES = 256 * _MIB  # NCCL, oneCCL and gloo exchange buffers through it; containers get 64 MiB
_LITTLE_LOCKED_BYTES = 64 * _MIB
_LITTLE_DISK_BYTES = 20 * _GIB  # about an 8B model in bf16
_SLOW_BYTES_S = 200e6
_FAR = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse.sshfs", "ceph", "fuse.rclone", "drvfs")
_HUGE_PAGE_SHARE = 0.1


def check_memory(survey: Survey) -> Iterator[Finding]:
    """Main memory and the control groups around this process."""
    limits, container = survey.limits, survey.system.container
    machine, limit = limits.memory_bytes, limits.memory_limit_bytes
    known = [size for size in (machine, limit) if size is not None]
    if not known:
        yield Finding("memory", "unknown", "How much main memory there is cannot be seen.")
        return
    wanted = max(_LITTLE_MEMORY_BYTES, survey.folder.content_bytes or 0 if not survey.working_cards else 0)
    if limit is not None and limit < wanted and (machine is None or limit < machine):
        of = f" of {gib(machine)}" if machine else ""
        sentence = f"A control group grants {gib(limit)}{of} of main memory; {gib(wanted)} or more is wanted."
        fix = f"{container} run --memory {-(-wanted // _GIB)}g …" if container in ("docker", "podman") else None
        yield Finding("memory", "warn", sentence, fix)
    elif min(known) < wanted:
        yield Finding("memory", "warn", f"There is {gib(min(known))} of main memory; {gib(wanted)} or more is wanted.")
    else:
        held = " (a control group's limit)" if limit is not None and min(known) == limit != machine else ""
        yield Finding("memory", "ok", f"There is {gib(min(known))} of main memory{held}.")


def check_shared_memory(survey: Survey) -> Iterator[Finding]:
    """/dev/shm, through which processes of several cards talk."""
    shared, container = survey.limits.shared, survey.system.container
    if shared is None:
        yield Finding("shared_memory", "unknown", "/dev/shm cannot be seen.")
    elif shared.total_bytes < _LITTLE_SHARED_BYTES:
        fix = "sudo mount -o remount,size=4G /dev/shm"
        if container in ("docker", "podman"):
            fix = f"{container} run --shm-size=4g …"
        sentence = f"/dev/shm has {gib(shared.total_bytes)}: cards that compute together exchange more through it."
        yield Finding("shared_memory", "warn", sentence, fix)
    else:
        yield Finding("shared_memory", "ok", f"/dev/shm has {gib(shared.total_bytes)}.")


def check_locked_memory(survey: Survey) -> Iterator[Finding]:
    """How much memory may be pinned."""
    locked, container = survey.limits.locked_bytes, survey.system.container
    if locked is None:
        yield Finding("locked_memory", "unknown", "The limit of locked memory cannot be seen.")
    elif locked == float("inf"):
        yield Finding("locked_memory", "ok", "Any amount of memory may be locked.")
    elif locked < _LITTLE_LOCKED_BYTES and len(survey.working_cards) > 1:
        fix = "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/tokenwell.conf # and log in anew"
        if container in ("docker", "podman"):
            fix = f"{container} run --ulimit memlock=-1 …"
        sentence = f"Only {gib(locked)} may be locked: several cards pin buffers to exchange data."
        yield Finding("locked_memory", "warn", sentence, fix)
    else:
        yield Finding("locked_memory", "ok", f"{gib(locked)} may be locked.")


def check_huge_pages(survey: Survey) -> Iterator[Finding]:
    """Huge pages: wanted on demand, harmful when reserved for nobody."""
    limits = survey.limits
    reserved = (limits.free_huge_pages or 0) * (limits.huge_page_bytes or 0)
    if limits.memory_bytes and reserved > _HUGE_PAGE_SHARE * limits.memory_bytes:
        sentence = f"{gib(reserved)} of main memory is reserved as huge pages that nobody uses."
        yield Finding("huge_pages", "warn", sentence, "sudo sysctl vm.nr_hugepages=0")
    elif limits.transparent_huge_pages is None:
        yield Finding("huge_pages", "unknown", "Whether memory comes in huge pages on demand cannot be seen.")
    elif limits.transparent_huge_pages == "never" and not survey.working_cards:
        sentence = "Huge pages on demand are off: models on the processor run slower."
        yield Finding("huge_pages", "warn", sentence, "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")
    else:
        yield Finding("huge_pages", "ok", f"Huge pages on demand: {limits.transparent_huge_pages}.")


def check_disk(survey: Survey) -> Iterator[Finding]:
    """Room and speed where the model is or will be."""
    folder = survey.folder
    size = folder.content_bytes or 0
    if folder.space is None:
        yield Finding("disk_space", "unknown", f"The room in {folder.path} cannot be seen.")
    elif folder.space.free_bytes < _LITTLE_DISK_BYTES and size < _GIB:
        sentence = f"{folder.path} has {gib(folder.space.free_bytes)} left; models take {gib(_LITTLE_DISK_BYTES)} and more."
        yield Finding("disk_space", "warn", sentence, f"du -xh --max-depth=2 {folder.path} | sort -h | tail")
    else:
        yield Finding("disk_space", "ok", f"{folder.path} has {gib(folder.space.free_bytes)} left.")
    yield _speed_finding(survey, size)


def _speed_finding(survey: Survey, size: int) -> Finding:
    folder = survey.folder
    rate = folder.read_bytes_s
    near = f"cp -r {folder.path} ~/models/"
    if rate is not None and rate < _SLOW_BYTES_S:
        sentence = f"{folder.path} gives {rate / 1e6:.0f} MB/s: loading its {gib(size)} takes about {size / rate:.0f} s."
        return Finding("disk_speed", "warn", sentence, near)
    if folder.file_system in _FAR:
        sentence = f"{folder.path} is not on a disk of this machine ({folder.file_system}): loading is slow and may stop."
        return Finding("disk_speed", "warn", sentence, near)
    if rate is None:
        return Finding("disk_speed", "unknown", f"Nothing in {folder.path} is large enough to measure how fast it is read.")
    return Finding("disk_speed", "ok", f"{folder.path} gives {rate / 1e6:.0f} MB/s.")
