"""Single checks on variations of recorded machines: causes, arithmetic and edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doctor.machines import B580, Record, changed, config, finding_after, findings_of, only, record, survey_of

from tokenwell.doctor.finding import gib
from tokenwell.host.nvidia import QUERY

GIB = 2**30
GPU = f"/{B580}"
NVIDIA_3090 = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
_SMI = " ".join(QUERY)


def _undriven(record: Record) -> None:
    del record["links"][f"{GPU}/driver"]


# ---------------------------------------------------------------- kernel and driver


@pytest.mark.parametrize(
    ("release", "driven", "level"),
    [
        ("6.14.0", True, "ok"),
        ("6.12.0", True, "ok"),
        ("6.11.0-29-generic", True, "warn"),
        ("6.11.0", False, "fail"),
        ("?", True, "unknown"),
    ],
)
def test_kernel_of_a_battlemage_card(release: str, driven: bool, level: str) -> None:
    def change(record: Record) -> None:
        record["files"]["proc/sys/kernel/osrelease"] = release
        if not driven:
            _undriven(record)

    assert finding_after("b580", "kernel", change).level == level


def test_a_card_whose_id_came_later_than_its_family() -> None:
    def b60(record: Record) -> None:
        record["files"][B580]["device"] = "0xe211\n"

    def b60_undriven(record: Record) -> None:
        b60(record)
        _undriven(record)

    assert finding_after("b580", "kernel", b60).level == "ok"
    assert "6.15" in finding_after("b580", "kernel", b60_undriven).sentence
    assert finding_after("b580", "driver", b60_undriven).fix == "sudo apt install linux-generic-hwe-24.04"


@pytest.mark.parametrize(
    ("os_release", "fix"),
    [
        ("ID=ubuntu\nVERSION_ID=22.04\n", "sudo do-release-upgrade"),
        ("ID=ubuntu\nVERSION_ID=24.04\n", "sudo apt install linux-generic-hwe-24.04"),
        ("ID=debian\nVERSION_CODENAME=bookworm\n", "sudo apt install -t bookworm-backports linux-image-amd64"),
        ("ID=fedora\n", "sudo dnf upgrade --refresh"),
        ('ID=cachyos\nID_LIKE="arch"\n', "sudo pacman -Syu linux"),
        ("ID=gentoo\n", None),
        ("", None),
    ],
)
def test_each_distribution_has_its_own_way_to_a_newer_kernel(os_release: str, fix: str | None) -> None:
    def change(record: Record) -> None:
        record["files"]["etc/os-release"] = os_release

    assert finding_after("b580-old-kernel", "kernel", change).fix == fix


def test_i915_does_not_compute_on_battlemage_and_does_on_alchemist() -> None:
    def change(record: Record) -> None:
        record["links"][f"{GPU}/driver"] = "/sys/bus/pci/drivers/i915"
        record["folders"]["/sys/bus/pci/drivers/i915"] = []

    finding = finding_after("b580", "driver", change)
    assert (finding.level, "i915 has Intel Arc B580" in finding.sentence) == ("fail", True)
    assert {finding.level for finding in findings_of(record("two-a770")) if finding.check == "driver"} == {"ok"}


def test_why_no_driver_has_a_card() -> None:
    def nomodeset(record: Record) -> None:
        _undriven(record)
        record["files"]["proc/cmdline"] = "root=/dev/sda1 nomodeset quiet"

    def blacklisted(record: Record) -> None:
        _undriven(record)
        record["files"]["proc/cmdline"] = "root=/dev/sda1 modprobe.blacklist=nouveau,xe"

    def without_firmware(record: Record) -> None:
        _undriven(record)
        del record["files"]["lib/firmware/xe/bmg_guc_70.bin.zst"]

    def listed(record: Record) -> None:
        _undriven(record)
        record["files"]["etc/modprobe.d"] = {"mine.conf": "# no graphics\nblacklist xe\n", "notes.txt": "blacklist i915\n"}

    finding = finding_after("b580", "driver", listed)
    assert "/etc/modprobe.d/mine.conf keeps xe" in finding.sentence
    assert finding.fix == r"sudo sed -i '/^\s*blacklist\s\+xe\s*$/d' /etc/modprobe.d/mine.conf && sudo reboot"
    finding = finding_after("b580", "driver", nomodeset)
    assert "nomodeset" in finding.sentence
    assert finding.fix == r"sudo sed -i 's/\bnomodeset\b//' /etc/default/grub && sudo update-grub && sudo reboot"
    assert "modprobe.blacklist=nouveau,xe" in finding_after("b580", "driver", blacklisted).sentence
    finding = finding_after("b580", "driver", without_firmware)
    assert ("bmg_guc_70.bin" in finding.sentence, finding.fix) == (True, "sudo apt install linux-firmware")
    assert finding_after("b580", "driver", _undriven).fix == "sudo modprobe xe"
    assert (
        finding_after("rtx-4090-nouveau", "driver", lambda r: r["links"].pop("/" + NVIDIA_3090 + "/driver")).fix
        == "sudo ubuntu-drivers install"
    )


def test_nvidias_driver_that_is_only_half_there() -> None:
    def mismatch(record: Record) -> None:
        record["programs"][_SMI] = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"

    def without_smi(record: Record) -> None:
        del record["programs"][_SMI]

    def one_lost(record: Record) -> None:
        record["programs"][_SMI] = record["programs"][_SMI].splitlines()[0] + "\n"

    drivers = [finding for finding in findings_of(changed("rtx-3060-3090", mismatch)) if finding.check == "driver"]
    assert {(finding.level, finding.fix) for finding in drivers} == {("fail", "sudo reboot")}
    drivers = [finding for finding in findings_of(changed("rtx-3060-3090", without_smi)) if finding.check == "driver"]
    assert {finding.level for finding in drivers} == {"unknown"}
    assert [card.name for card in survey_of(changed("rtx-3060-3090", without_smi)).cards] == [
        "NVIDIA GeForce RTX 3090",
        "NVIDIA GeForce RTX 3060",
    ]
    drivers = [finding for finding in findings_of(changed("rtx-3060-3090", one_lost)) if finding.check == "driver"]
    assert [finding.level for finding in drivers] == ["ok", "fail"]


def test_a_driver_that_is_older_than_the_card() -> None:
    def blackwell(record: Record) -> None:
        record["files"][NVIDIA_3090]["device"] = "0x2b85\n"
        record["files"]["proc/driver/nvidia/version"] = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.120  Fri\n"

    found = [finding for finding in findings_of(changed("rtx-3060-3090", blackwell)) if finding.check == "driver"]
    assert (found[0].level, "570" in found[0].sentence) == ("fail", True)


# ---------------------------------------------------------------- device files


@pytest.mark.parametrize(
    ("mark", "fix"),
    [
        ("run/.containerenv", "podman run --device /dev/dri --group-add keep-groups …"),
        (".dockerenv", "docker run --device /dev/dri --group-add \"$(stat -c '%g' /dev/dri/renderD128)\" …"),
    ],
)
def test_how_a_container_gets_the_card(mark: str, fix: str) -> None:
    def change(record: Record) -> None:
        del record["nodes"]["/dev/dri/renderD128"]
        record["files"][mark] = ""

    finding = finding_after("b580", "device_files", change)
    assert (finding.level, finding.fix) == ("fail", fix)


def test_kubernetes_gets_the_card_from_its_plugin() -> None:
    def change(record: Record) -> None:
        del record["nodes"]["/dev/dri/renderD128"]
        record["environment"]["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"

    fix = finding_after("b580", "device_files", change).fix or ""
    assert '"limits":{"gpu.intel.com/xe":"1"}' in fix
    assert fix.count("{") == fix.count("}")


def test_a_node_that_is_missing_on_the_host() -> None:
    finding = finding_after("b580", "device_files", lambda r: r["nodes"].clear())
    assert finding.fix == "sudo udevadm trigger --action=add --subsystem-match=drm"
    finding = next(
        f for f in findings_of(changed("a100", lambda r: r["nodes"].pop("/dev/nvidia-uvm"))) if f.check == "device_files"
    )
    assert (finding.level, finding.fix) == ("fail", "sudo nvidia-modprobe -c 0 -u")


@pytest.mark.parametrize(
    ("node", "fix"),
    [
        ({"mode": "600", "owner": 0, "group": 0}, 'sudo setfacl -m "u:$USER:rw" /dev/dri/renderD128'),
        ({"mode": "660", "owner": 0, "group": 44}, None),
        ({"mode": "666", "owner": 0, "group": 0}, None),
        ({"mode": "660", "owner": 0, "group": 107}, 'sudo setfacl -m "u:$USER:rw" /dev/dri/renderD128'),  # a group without a name
    ],
)
def test_who_may_use_a_node(node: dict[str, object], fix: str | None) -> None:
    finding = finding_after("b580", "device_files", lambda r: r["nodes"].update({"/dev/dri/renderD128": node}))
    assert (finding.level, finding.fix) == ("ok" if fix is None else "fail", fix)


# ---------------------------------------------------------------- windows and links


@given(window=st.integers(28, 40), place=st.sampled_from([0xA0000000, 0x6000000000]))
def test_a_window_is_measured_against_the_memory(window: int, place: int) -> None:
    def change(record: Record) -> None:
        lines = record["files"][B580]["resource"].splitlines()
        lines[2] = f"0x{place:016x} 0x{place + 2**window - 1:016x} 0x000000000014220c"
        record["files"][B580]["resource"] = "\n".join(lines)

    finding = finding_after("b580", "resizable_bar", change)
    assert finding.level == ("ok" if 2**window >= 12 * GIB else "fail")
    if finding.level == "fail":
        assert ("Above 4G" in finding.sentence) == (place < 2**32)
        assert ("is off" in finding.sentence) == (window == 28)


@given(
    width=st.sampled_from([1, 2, 4, 8]),
    slot=st.sampled_from([1, 4, 8, 16]),
    speed=st.sampled_from(["2.5", "8.0", "16.0", "32.0"]),
)
def test_a_link_is_measured_against_the_card(width: int, slot: int, speed: str) -> None:
    def change(record: Record) -> None:
        root = record["files"][B580.rsplit("/", 3)[0]]
        port = record["files"][B580.rsplit("/", 2)[0]]
        root |= {"current_link_width": f"{width}", "max_link_width": f"{slot}", "max_link_speed": f"{speed} GT/s PCIe"}
        root["current_link_speed"] = port["current_link_speed"] = "2.5 GT/s PCIe"  # idle
        port["current_link_width"] = f"{width}"

    finding = finding_after("b580", "pcie_link", change)
    share = width / 8 * min(16.0, float(speed)) / 16.0
    assert finding.level == ("warn" if share <= 0.5 else "ok")
    if width < 8:
        assert ("wired" in finding.sentence) == (slot <= width) or finding.level == "ok"


def test_a_card_at_work_must_raise_its_rate() -> None:
    def change(record: Record) -> None:
        record["programs"][_SMI] = record["programs"][_SMI].replace(", 0, 400.00", ", 97, 400.00")

    levels = {finding.level for finding in findings_of(changed("a100", change)) if finding.check == "pcie_link"}
    assert levels == {"warn"}


def test_a_virtual_machine_hides_the_switch_of_the_card() -> None:
    def change(record: Record) -> None:
        record["files"]["sys/devices/pci0000:00/0000:00:05.0"] = record["files"].pop(B580)
        record["links"] = {
            "/sys/bus/pci/devices/0000:00:05.0": "/sys/devices/pci0000:00/0000:00:05.0",
            "/sys/devices/pci0000:00/0000:00:05.0/driver": "/sys/bus/pci/drivers/xe",
        }

    given = changed("b580", change)
    assert only(findings_of(given), "pcie_link").level == "unknown"
    assert [card.integrated for card in survey_of(given).cards] == [False]


@pytest.mark.parametrize(("control", "level"), [(0x0000, "unknown"), (0x0001, "unknown"), (0x001D, "warn"), (0x0004, "warn")])
def test_acs_between_the_cards(control: int, level: str) -> None:
    def change(record: Record) -> None:
        for port in ("0000:00:01.0", "0000:00:01.1"):
            record["files"][f"sys/devices/pci0000:00/{port}"]["config"] = {"hex": config(control)}

    finding = finding_after("two-a770", "peer_access", change)
    assert finding.level == level
    expected = "sudo setpci -s 0000:00:01.0 ECAP_ACS+0x6.w=0000 && sudo setpci -s 0000:00:01.1 ECAP_ACS+0x6.w=0000"
    assert finding.fix == (expected if level == "warn" else None)


# ---------------------------------------------------------------- pace


@pytest.mark.parametrize(
    ("old", "new", "level", "fix"),
    [
        ("Default, Disabled", "Prohibited, Disabled", "fail", "sudo nvidia-smi -i 0 -c DEFAULT"),
        ("Default, Disabled", "Default, Enabled", "warn", "sudo nvidia-smi -i 0 -mig 0"),
        ("Not Active", "Active", "warn", "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER"),
        ("400.00, 400.00", "250.00, 400.00", "warn", "sudo nvidia-smi -i 0 -pl 400"),
        ("400.00, 400.00", "[N/A], [N/A]", "ok", None),
        ("400.00, 400.00", "380.00, 400.00", "ok", None),
    ],
)
def test_what_holds_an_nvidia_card(old: str, new: str, level: str, fix: str | None) -> None:
    def change(record: Record) -> None:
        record["programs"][_SMI] = record["programs"][_SMI].replace(old, new)

    finding = next(finding for finding in findings_of(changed("a100", change)) if finding.check == "card_pace")
    assert (finding.level, finding.fix) == (level, fix)


def test_a_power_limit_of_an_amd_card() -> None:
    folder = "sys/devices/pci0000:00/0000:00:01.1/0000:01:00.0/0000:02:00.0/0000:03:00.0"
    finding = finding_after(
        "rx-7900-xtx", "card_pace", lambda r: r["files"][folder]["hwmon"]["hwmon4"].update(power1_cap="200000000")
    )
    assert (finding.level, finding.fix) == ("warn", f"echo 339000000 | sudo tee /{folder}/hwmon/hwmon4/power1_cap")


@pytest.mark.parametrize(
    ("policy", "level"),
    [
        ({"scaling_driver": "intel_pstate", "scaling_governor": "powersave", "energy_performance_preference": "power"}, "warn"),
        ({"scaling_driver": "acpi-cpufreq", "scaling_governor": "powersave"}, "warn"),
        ({"scaling_driver": "acpi-cpufreq", "scaling_governor": "schedutil"}, "ok"),
        ({"scaling_driver": "amd-pstate-epp", "scaling_governor": "powersave"}, "ok"),
        ({"scaling_driver": "x", "scaling_governor": "performance", "scaling_max_freq": "2", "cpuinfo_max_freq": "4"}, "warn"),
        ({}, "unknown"),
    ],
)
def test_the_processors_clock(policy: dict[str, str], level: str) -> None:
    finding = finding_after("b580", "cpu_clock", lambda r: r["files"].update({"sys/devices/system/cpu/cpufreq/policy0": policy}))
    assert finding.level == level


# ---------------------------------------------------------------- torch and variables


@pytest.mark.parametrize(
    ("version", "level", "build"),
    [
        ("__version__ = '2.13.0+cpu'\ncuda = None\n", "fail", "xpu"),
        ("__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n", "fail", "xpu"),
        ("__version__ = '2.13.0+xpu'\n", "ok", None),
        ("", "fail", "xpu"),
        (None, "fail", "xpu"),
    ],
)
def test_torch_for_an_arc_card(version: str | None, level: str, build: str | None) -> None:
    path = "home/user/.venv/lib/python3.12/site-packages/torch/version.py"
    finding = finding_after("b580", "torch", lambda r: r["files"].update({path: version}))
    assert finding.level == level
    assert (finding.fix or "").endswith(f"/whl/{build}") == (build is not None)


@pytest.mark.parametrize(
    ("device", "cuda", "driver", "level", "build"),
    [
        ("0x1b38", "13.0", "580.95.05", "fail", "cu126"),  # Pascal
        ("0x1b38", "12.6", "580.95.05", "ok", None),
        ("0x1e07", "13.0", "580.95.05", "ok", None),  # Turing
        ("0x2b85", "12.6", "575.64.03", "fail", "cu128"),  # Blackwell
        ("0x2b85", "12.8", "575.64.03", "ok", None),
        ("0x2684", "13.0", "575.64.03", "fail", "cu128"),  # Ada
        ("0x2684", "12.8", "535.183.01", "ok", None),
        ("0x2684", "12.8", "470.256.02", "fail", "cu126"),
    ],
)
def test_cuda_against_card_and_driver(device: str, cuda: str, driver: str, level: str, build: str | None) -> None:
    def change(record: Record) -> None:
        record["files"][NVIDIA_3090]["device"] = device
        record["links"]["/" + NVIDIA_3090 + "/driver"] = "/sys/bus/pci/drivers/nvidia"
        record["folders"]["/sys/bus/pci/drivers/nvidia"] = []
        record["files"]["proc/driver/nvidia/version"] = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Fri\n"
        path = "home/user/.venv/lib/python3.12/site-packages/torch/version.py"
        record["files"][path] = f"__version__ = '2.11.0+cu{cuda.replace('.', '')}'\ncuda: Optional[str] = '{cuda}'\n"

    finding = finding_after("rtx-4090-nouveau", "torch", change)
    assert finding.level == level
    assert (finding.fix or "").endswith(f"/{build}") == (build is not None)


def test_cards_of_two_makes() -> None:
    def change(record: Record) -> None:
        folder = "/sys/devices/pci0000:00/0000:00:1d.0/0000:09:00.0"
        record["files"][folder] = {"vendor": "0x10de", "device": "0x2684", "class": "0x030000"}
        record["links"]["/sys/bus/pci/devices/0000:09:00.0"] = folder

    findings = findings_of(changed("b580", change))
    assert only(findings, "torch").level == "warn"
    assert "leaves NVIDIA GeForce RTX 4090 idle" in only(findings, "torch").sentence


@pytest.mark.parametrize(
    ("name", "variable", "value", "level"),
    [
        ("two-a770", "ZE_AFFINITY_MASK", "0,1", "ok"),
        ("two-a770", "ZE_AFFINITY_MASK", "1", "warn"),
        ("two-a770", "ZE_AFFINITY_MASK", "0.0,2.1", "fail"),
        ("two-a770", "ONEAPI_DEVICE_SELECTOR", "opencl:gpu", "fail"),
        ("two-a770", "ONEAPI_DEVICE_SELECTOR", "level_zero:0,1;opencl:cpu", "ok"),
        ("a100", "CUDA_VISIBLE_DEVICES", "", "fail"),
        ("a100", "CUDA_VISIBLE_DEVICES", "-1", "fail"),
        ("a100", "CUDA_VISIBLE_DEVICES", "0,1,2,3", "ok"),
        ("a100", "CUDA_VISIBLE_DEVICES", "2", "warn"),
        ("a100", "CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "warn"),
        ("a100", "NCCL_P2P_DISABLE", "1", "warn"),
        ("rtx-3060-3090", "NCCL_P2P_DISABLE", "1", "ok"),
        ("rx-7900-xtx", "HIP_VISIBLE_DEVICES", "1", "fail"),
        ("b580", "CUDA_VISIBLE_DEVICES", "7", "ok"),
    ],
)
def test_variables(name: str, variable: str, value: str, level: str) -> None:
    def change(record: Record) -> None:
        record["environment"] = {variable: value}

    assert finding_after(name, "variables", change).level == level


# ---------------------------------------------------------------- host


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({}, "ok"),
        ({"http_proxy": ""}, "ok"),
        ({"http_proxy": "http://p"}, "warn"),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "localhost"}, "warn"),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "localhost, 127.0.0.1"}, "ok"),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "localhost,127.0.0.0/8", "no_proxy": "*"}, "ok"),
        ({"HTTPS_PROXY": "http://p", "NO_PROXY": "localhost,127.0.0.1", "no_proxy": "a"}, "warn"),
    ],
)
def test_proxies(environment: dict[str, str], level: str) -> None:
    assert finding_after("b580", "proxy", lambda r: r.update(environment=environment)).level == level


def test_huge_pages_that_nobody_uses() -> None:
    def change(record: Record) -> None:
        text = record["files"]["proc/meminfo"]
        record["files"]["proc/meminfo"] = text.replace("_Total:       0", "_Total:   16384").replace(
            "_Free:        0", "_Free:    16384"
        )

    finding = finding_after("b580", "huge_pages", change)
    assert (finding.level, "32 GiB" in finding.sentence, finding.fix) == ("warn", True, "sudo sysctl vm.nr_hugepages=0")


def test_a_model_that_the_processor_has_no_memory_for() -> None:
    finding = finding_after(
        "cpu-only", "memory", lambda r: r["sizes"].update({"/home/user/models/model/model.safetensors": 70 * GIB})
    )
    assert (finding.level, "70 GiB" in finding.sentence) == ("warn", True)


def test_a_slow_disk_and_a_full_one() -> None:
    def slow(record: Record) -> None:
        record["rates"] = {"/home/user/models/model/model.safetensors": 90e6}

    def full(record: Record) -> None:
        record["sizes"].clear()
        record["spaces"]["/"] = [100 * GIB, 3 * GIB]

    assert "takes about 95 s" in finding_after("b580", "disk_speed", slow).sentence
    assert only(findings_of(changed("b580", full)), "disk_space").level == "warn"
    assert only(findings_of(changed("b580", full)), "disk_speed").level == "unknown"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(2**39, "512 GiB"), (12 * GIB, "12 GiB"), (int(1.5 * GIB), "1.5 GiB"), (2**26, "64 MiB"), (2**16, "64 KiB")],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert gib(size_bytes) == text
