"""Drivers and links that are there and do not work as they should, on variations of recorded machines."""

from __future__ import annotations

import pytest
from tests.doctor.machines import B580, Record, changed, config, finding_after, findings_of, survey_of

from tokenwell.host.nvidia import QUERY

GIB = 2**30
GPU = f"/{B580}"
NVIDIA_3090 = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
_SMI = " ".join(QUERY)


# ---------------------------------------------------------------- drivers that are there and do not work


def test_blackwell_wants_the_open_module() -> None:
    def change(record: Record) -> None:
        record["files"][NVIDIA_3090]["device"] = "0x2b85\n"
        text = record["files"]["proc/driver/nvidia/version"]
        record["files"]["proc/driver/nvidia/version"] = text.replace(
            "NVIDIA UNIX Open Kernel Module for x86_64", "NVIDIA UNIX x86_64 Kernel Module"
        )

    found = [finding for finding in findings_of(changed("rtx-3060-3090", change)) if finding.check == "driver"]
    assert [finding.level for finding in found] == ["fail", "ok"]
    assert "open kernel module" in found[0].sentence


def test_a_driver_that_finds_no_device() -> None:
    def change(record: Record) -> None:
        record["programs"][_SMI] = "No devices were found\n"

    found = [finding for finding in findings_of(changed("rtx-3060-3090", change)) if finding.check == "driver"]
    assert {finding.level for finding in found} == {"fail"}


def test_secure_boot_is_named_where_a_module_is_missing() -> None:
    def change(record: Record) -> None:
        del record["links"]["/" + NVIDIA_3090 + "/driver"]
        record["files"]["sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"] = {"hex": "0600000001"}

    assert "Secure Boot" in finding_after("rtx-4090-nouveau", "driver", change).sentence


def test_a_sandbox_that_hides_the_devices() -> None:
    def change(record: Record) -> None:
        record["links"].clear()
        record["files"] = {
            name: content for name, content in record["files"].items() if not name.startswith(("sys", "proc/driver"))
        }

    survey = survey_of(changed("a100", change))
    assert [(card.name, card.family.name if card.family else None, card.usable) for card in survey.working_cards] == [
        ("NVIDIA A100-SXM4-80GB", "Ampere", True)
    ] * 4
    assert {finding.level for finding in findings_of(changed("a100", change)) if finding.check in ("driver", "torch")} == {"ok"}


def test_a_card_that_offers_no_larger_window() -> None:
    finding = finding_after(
        "b580-small-window", "resizable_bar", lambda r: r["files"][B580].update(resource2_resize="0000000000000100")
    )
    assert (finding.level, finding.fix) == ("fail", None)
    finding = finding_after(
        "b580-small-window", "resizable_bar", lambda r: r["files"][B580].update(resource2_resize="0000000000007f00")
    )
    assert finding.fix == "sudo systemctl reboot --firmware-setup"


def test_a_window_that_the_firmware_had_no_room_for() -> None:
    def change(record: Record) -> None:
        lines = record["files"][B580]["resource"].splitlines()
        lines[2] = f"0x{0:016x} 0x{2**34 - 1:016x} 0x000000002014220c"
        record["files"][B580]["resource"] = "\n".join(lines)

    finding = finding_after("b580", "resizable_bar", change)
    assert (finding.level, finding.fix) == ("fail", "sudo systemctl reboot --firmware-setup")


def test_turing_cards_have_small_windows() -> None:
    def change(record: Record) -> None:
        record["files"]["sys/devices/pci0000:00/0000:00:1b.4/0000:05:00.0"]["device"] = "0x1e07"

    levels = {finding.level for finding in findings_of(changed("rtx-3060-3090", change)) if finding.check == "resizable_bar"}
    assert levels == {"ok"}


def test_a_driver_of_its_own_is_newer_than_the_kernel() -> None:
    def change(record: Record) -> None:
        record["files"]["proc/sys/kernel/osrelease"] = "5.15.0-130-generic"

    def with_module(record: Record) -> None:
        change(record)
        record["files"]["sys/module/amdgpu/version"] = "6.10.5"

    def red_hat(record: Record) -> None:
        change(record)
        record["files"]["etc/os-release"] = 'ID="rocky"\nID_LIKE="rhel centos fedora"\n'

    assert [finding_after("rx-7900-xtx", "kernel", each).level for each in (change, with_module, red_hat)] == ["warn", "ok", "ok"]


def test_a_small_window_under_i915_is_slow_only() -> None:
    def change(record: Record) -> None:
        for folder, files in record["files"].items():
            if isinstance(files, dict) and files.get("device") == "0x56a0\n":
                lines = files["resource"].splitlines()
                lines[2] = f"0x{0xA0000000:016x} 0x{0xAFFFFFFF:016x} 0x000000000014220c"
                record["files"][folder]["resource"] = "\n".join(lines)

    assert {finding.level for finding in findings_of(changed("two-a770", change)) if finding.check == "resizable_bar"} == {"warn"}


def test_alchemist_under_xe_is_hardly_seen() -> None:
    def change(record: Record) -> None:
        record["files"][B580]["device"] = "0x56a0"

    finding = finding_after("b580", "driver", change)
    assert (finding.level, (finding.fix or "").startswith("sudo modprobe i915; ")) == ("warn", True)


@pytest.mark.parametrize(("build", "level"), [("1.3.27642", "fail"), ("1.14.37020", "ok"), ("1", "ok")])
def test_a_compute_runtime_that_is_older_than_the_card(build: str, level: str) -> None:
    def change(record: Record) -> None:
        library = "/usr/lib/x86_64-linux-gnu/libze_intel_gpu.so"
        record["files"][f"{library}.{build}"] = ""
        record["links"][f"{library}.1"] = f"{library}.{build}"
        if build == "1":
            del record["links"][f"{library}.1"]

    finding = finding_after("b580", "compute_runtime", change)
    assert finding.level == level
    assert (finding.fix or "").startswith("sudo add-apt-repository -y ppa:kobuk-team/intel-graphics && ") == (level == "fail")


def test_no_compute_runtime_at_all() -> None:
    def change(record: Record) -> None:
        record["files"] = {name: content for name, content in record["files"].items() if "libze" not in name}
        record["files"]["etc/os-release"] = "ID=debian\n"

    finding = finding_after("b580", "compute_runtime", change)
    assert (finding.level, finding.fix) == ("fail", "sudo apt install libze-intel-gpu1 libze1 intel-opencl-icd")


@pytest.mark.parametrize(
    ("peers", "nvlink", "level", "word"),
    [
        ("OK", True, "ok", "NVLink"),
        ("OK", False, "ok", "directly"),
        ("CNS", False, "warn", "no card"),
        ("U", False, "unknown", "root"),
    ],
)
def test_ways_between_nvidia_cards(peers: str, nvlink: bool, level: str, word: str) -> None:
    def change(record: Record) -> None:
        programs = record["programs"]
        programs["nvidia-smi topo -p2p r"] = programs["nvidia-smi topo -p2p r"].replace("OK", peers)
        if not nvlink:
            programs["nvidia-smi topo -m"] = programs["nvidia-smi topo -m"].replace("NV12", "PIX")

    finding = finding_after("a100", "peer_access", change)
    assert (finding.level, word in finding.sentence) == (level, True)


def test_acs_does_not_matter_to_nvlink() -> None:
    def with_acs(record: Record) -> None:
        for folder in [folder for folder in record["files"] if folder.startswith("sys/devices/pci")]:
            record["files"][folder]["config"] = {"hex": config(0x1D)}

    def without_nvlink(record: Record) -> None:
        with_acs(record)
        record["programs"]["nvidia-smi topo -m"] = record["programs"]["nvidia-smi topo -m"].replace("NV12", "PIX")

    assert [finding_after("a100", "peer_access", change).level for change in (with_acs, without_nvlink)] == ["ok", "warn"]
