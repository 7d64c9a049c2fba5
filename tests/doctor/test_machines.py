"""Machines written down from public facts: findings exactly as expected, and what each fix is."""

from __future__ import annotations

import pytest
from tests.doctor.machines import NAMES, findings_of, record, survey_of

from tokenwell.doctor.examine import worst

A, B = "0000:03:00.0", "0000:07:00.0"  # both cards of two-a770
HWE = "sudo apt install linux-generic-hwe-24.04"
FIRMWARE_SETUP = "sudo systemctl reboot --firmware-setup"
REBIND = (
    "sudo modprobe xe; echo xe | sudo tee /sys/bus/pci/devices/0000:03:00.0/driver_override; "
    "echo 0000:03:00.0 | sudo tee /sys/bus/pci/devices/0000:03:00.0/driver/unbind; "
    "echo 0000:03:00.0 | sudo tee /sys/bus/pci/drivers_probe"
)
PASS_DRI = "docker run --device /dev/dri --group-add \"$(stat -c '%g' /dev/dri/renderD128)\" …"
WHEELS = "python -m pip install --force-reinstall torch --index-url https://download.pytorch.org/whl"
TOOLKIT = (
    "sudo apt install nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker "
    "&& sudo systemctl restart docker"
)
NO_PROXY = 'export NO_PROXY="localhost,127.0.0.1,::1${NO_PROXY:+,$NO_PROXY}"; export no_proxy="$NO_PROXY"'
GOVERNOR = "echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
GT_CLOCK = (
    "echo 2400 | sudo tee /sys/devices/pci0000:00/0000:00:01.1/0000:05:00.0/0000:06:01.0/0000:07:00.0/drm/card1/gt_max_freq_mhz"
)

# Everything that is not ok: (check, card, level, fix).
EXPECTED: dict[str, list[tuple[str, str | None, str, str | None]]] = {
    "b580": [],
    "b580-old-kernel": [("kernel", A, "fail", HWE), ("driver", A, "fail", HWE)],
    "b580-small-window": [("resizable_bar", A, "fail", FIRMWARE_SETUP)],
    "b580-vfio": [("driver", A, "fail", REBIND)],
    "b580-x1": [("pcie_link", A, "warn", None)],
    "b580-container": [("device_files", A, "fail", PASS_DRI)],
    "b580-no-group": [("device_files", A, "fail", 'sudo usermod -aG render "$USER"')],
    "two-a770": [
        ("pcie_link", A, "warn", None),
        ("pcie_link", B, "warn", None),
        ("peer_access", None, "unknown", "sudo tokenwell doctor"),
        ("card_pace", B, "warn", GT_CLOCK),
        ("variables", None, "fail", "unset ZE_AFFINITY_MASK"),
        ("cpu_clock", None, "warn", GOVERNOR),
        (
            "locked_memory",
            None,
            "warn",
            "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/tokenwell.conf # and log in anew",
        ),
        ("proxy", None, "warn", NO_PROXY),
        ("port", None, "warn", "tokenwell serve --port 8001"),
    ],
    "cpu-only": [("cpu_clock", None, "unknown", None)],
    "a100": [],
    "rtx-3060-3090": [
        ("resizable_bar", "0000:05:00.0", "warn", FIRMWARE_SETUP),
        ("pcie_link", "0000:05:00.0", "warn", None),
        ("peer_access", None, "warn", None),
        ("card_pace", "0000:01:00.0", "warn", "sudo nvidia-smi -i 0 -pl 350"),
        ("torch", None, "fail", f"{WHEELS}/cu128"),
        ("container", None, "warn", TOOLKIT),
    ],
    "rtx-4090-nouveau": [
        ("driver", "0000:01:00.0", "fail", "sudo ubuntu-drivers install"),
        ("torch", "0000:01:00.0", "fail", f"{WHEELS}/cu130"),
    ],
    "rx-7900-xtx": [("variables", None, "warn", "unset HSA_OVERRIDE_GFX_VERSION")],
    "wsl2": [("cpu_clock", None, "unknown", None), ("disk_speed", None, "warn", "cp -r /mnt/c/models/model ~/models/")],
    "docker-limits": [
        ("torch", None, "fail", f"{WHEELS}/cu126"),
        ("cpu_quota", None, "warn", "docker run --cpus 4 …"),
        ("memory", None, "warn", "docker run --memory 8g …"),
        ("shared_memory", None, "warn", "docker run --shm-size=4g …"),
        ("locked_memory", None, "warn", "docker run --ulimit memlock=-1 …"),
    ],
}


def test_every_recorded_machine_is_expected() -> None:
    assert sorted(EXPECTED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_as_expected(name: str) -> None:
    findings = findings_of(record(name))
    bad = [(finding.check, finding.card, finding.level, finding.fix) for finding in findings if finding.level != "ok"]
    assert bad == EXPECTED[name]
    assert (worst(findings) == "fail") == any(level == "fail" for _, _, level, _ in bad)


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_is_one_sentence_and_what_is_fine_needs_no_fix(name: str) -> None:
    for finding in findings_of(record(name)):
        assert finding.sentence.endswith((".", ".)"))
        assert "\n" not in finding.sentence
        assert "None" not in finding.sentence
        assert finding.level != "ok" or finding.fix is None


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_machine_says_where_its_facts_come_from(name: str) -> None:
    assert len(record(name)["about"]) > 40


def test_a_healthy_machine_has_all_its_checks() -> None:
    checks = [finding.check for finding in findings_of(record("b580"))]
    cards = ["system", "cards", "kernel", "driver", "device_files", "resizable_bar", "pcie_link", "card_pace"]
    software = ["torch", "compute_runtime", "variables", "container"]
    host = ["cpu_clock", "memory", "shared_memory", "locked_memory", "huge_pages", "disk_space", "disk_speed", "proxy", "port"]
    assert checks == cards + software + host


@pytest.mark.parametrize(
    ("name", "cards"),
    [
        ("b580", [("Intel Arc B580", 12 * 2**30, 4, 8, False)]),
        ("b580-x1", [("Intel Arc B580", 12 * 2**30, 3, 1, True)]),
        ("two-a770", [("Intel Arc A770", 16 * 2**30, 4, 8, False)] * 2),
        ("a100", [("NVIDIA A100-SXM4-80GB", 80 * 2**30, 4, 16, False)] * 4),
        (
            "rtx-3060-3090",
            [("NVIDIA GeForce RTX 3090", 24 * 2**30, 4, 16, False), ("NVIDIA GeForce RTX 3060", 12 * 2**30, 3, 4, True)],
        ),
        ("wsl2", [("NVIDIA GeForce RTX 4070", 12282 * 2**20, 4, 16, None)]),
        ("cpu-only", []),
    ],
)
def test_cards_as_a_plan_sees_them(name: str, cards: list[tuple[str, int, int, int, bool | None]]) -> None:
    found = [
        (card.name, card.memory_bytes, card.link.generation, card.link.width, card.link.through_chipset)
        for card in survey_of(record(name)).working_cards
    ]
    assert found == cards


def test_the_processors_graphics_are_no_card_to_compute_on() -> None:
    survey = survey_of(record("rx-7900-xtx"))
    assert [(card.name, card.integrated) for card in survey.cards] == [
        ("AMD Radeon RX 7900 XTX", False),
        ("AMD card 1002:164e", True),
    ]
    assert survey.working_cards[0].free_bytes == 25753026560 - 612368384
    assert survey.working_cards[0].link.gb_s == pytest.approx(31.5, abs=0.1)


def test_cards_that_a_container_was_not_given_are_left_out() -> None:
    survey = survey_of(record("docker-limits"))
    assert [card.address for card in survey.working_cards] == ["0000:21:00.0", "0000:41:00.0"]
    assert all(card.usable for card in survey.working_cards)
    assert not any(card.usable for card in survey.withheld_cards)
