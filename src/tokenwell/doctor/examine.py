"""All checks of a machine, in the order in which they are told. Reads nothing: facts come in a survey."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tokenwell.doctor.builds import check_compute_runtime, check_containers, check_oneccl, check_torch, check_variables
from tokenwell.doctor.drivers import check_device_files, check_driver, check_kernel
from tokenwell.doctor.finding import LEVELS, Finding, Level
from tokenwell.doctor.network import check_port, check_proxy
from tokenwell.doctor.pace import check_card_pace, check_processor_pace
from tokenwell.doctor.room import check_disk, check_huge_pages, check_locked_memory, check_memory, check_shared_memory
from tokenwell.doctor.slots import check_cards, check_link, check_memory_window, check_peers
from tokenwell.host.survey import Survey

Check = Callable[[Survey], Iterator[Finding]]

_HOST_CHECKS = {"kernel", "driver", "resizable_bar", "card_pace", "cpu_clock", "huge_pages", "peer_access"}


def check_system(survey: Survey) -> Iterator[Finding]:
    """The operating system, by name."""
    system = survey.system
    if system.name is None and system.kernel_release is None:
        yield Finding("system", "unknown", "Neither the distribution nor the kernel can be seen.")
    else:
        place = " in WSL" if system.wsl else ""
        release = system.kernel_release or "of unknown release"
        yield Finding("system", "ok", f"{system.name or 'An unknown distribution'}, Linux {release}{place}.")


CHECKS: tuple[Check, ...] = (
    check_system,
    check_cards,
    check_kernel,
    check_driver,
    check_device_files,
    check_memory_window,
    check_link,
    check_peers,
    check_card_pace,
    check_torch,
    check_compute_runtime,
    check_variables,
    check_oneccl,
    check_containers,
    check_processor_pace,
    check_memory,
    check_shared_memory,
    check_locked_memory,
    check_huge_pages,
    check_disk,
    check_proxy,
    check_port,
)


def examine(survey: Survey) -> tuple[Finding, ...]:
    """What every check says of a machine."""
    findings = (finding for check in CHECKS for finding in check(survey))
    return tuple(_on_the_host(finding) for finding in findings) if survey.system.container else tuple(findings)


def worst(findings: tuple[Finding, ...]) -> Level:
    """The worst level among findings."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def _on_the_host(finding: Finding) -> Finding:
    """A container cannot mend the machine that it runs on."""
    if finding.check in _HOST_CHECKS and finding.fix and finding.level != "unknown":
        return replace(finding, sentence=f"{finding.sentence} To be mended on the host.")
    return finding
