"""Checks of what drives a card: kernel, driver, firmware, device files. Pure: facts in, findings out.

Sources: the kernel's Documentation/gpu, NVIDIA's driver guide (open module, device files), intel/compute-runtime issues 853 and
905 (Alchemist under xe is not seen), the manuals of docker-run(1) and podman-run(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tokenwell.doctor import packages
from tokenwell.doctor.finding import Finding
from tokenwell.host.gpus import CardFacts
from tokenwell.host.machine import Node
from tokenwell.host.survey import Survey

_FOR_MACHINES = ("vfio-pci", "xe-vfio-pci", "pci-stub", "pciback", "nvgrace-gpu-vfio-pci", "nvidia-vgpu-vfio")
_PLUGINS = {"intel": "gpu.intel.com/xe", "nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
_DRI = "--device /dev/dri --group-add \"$(stat -c '%g' /dev/dri/renderD128)\""
_DEVICES = {"intel": _DRI, "nvidia": "--gpus all", "amd": f"--device /dev/kfd {_DRI}"}
_PODMAN = {"nvidia": "--device nvidia.com/gpu=all"}


def check_kernel(survey: Survey) -> Iterator[Finding]:
    """The kernel against what each card needs."""
    system = survey.system
    for card in survey.working_cards:
        if card.family is None or card.family.kernel is None:
            continue  # its driver comes from outside the kernel, or nothing is known of it
        needed = card.family.kernel if card.driven or not card.product else card.product.kernel or card.family.kernel
        release = ".".join(map(str, needed))
        if system.kernel is None:
            yield Finding(
                "kernel",
                "unknown",
                f"{card.name} needs Linux {release}; this kernel's release cannot be read.",
                None,
                card.address,
            )
        elif system.kernel >= needed or (card.driven and _is_backported(survey, card)):
            yield Finding(
                "kernel", "ok", f"Linux {system.kernel_release} drives {card.name} (needs {release}).", None, card.address
            )
        elif card.driven:
            sentence = f"Linux {system.kernel_release} drives {card.name} by force_probe or a backport; {release} does by itself."
            yield Finding("kernel", "warn", sentence, packages.newer_kernel(system, needed), card.address)
        else:
            sentence = f"Linux {system.kernel_release} is too old for {card.name}: {release} is the first whose driver takes it."
            yield Finding("kernel", "fail", sentence, packages.newer_kernel(system, needed), card.address)


def _is_backported(survey: Survey, card: CardFacts) -> bool:
    """Whether the driver is newer than the kernel's release says: a module of its own, or a Red Hat kernel."""
    return card.driver_version is not None or "rhel" in survey.system.family


def check_driver(survey: Survey) -> Iterator[Finding]:
    """The driver that has each card, and its version."""
    for card in survey.working_cards:
        yield _driver_finding(survey, card)


def _driver_finding(survey: Survey, card: CardFacts) -> Finding:
    drivers = card.drivers
    if card.driver is None:
        return Finding("driver", "unknown", f"Which driver has {card.name} cannot be seen.", None, card.address)
    if card.driver == "":
        return _undriven(survey, card, drivers)
    if card.driver in _FOR_MACHINES:
        sentence = f"{card.name} is kept for virtual machines: {card.driver} has it, not {drivers[0]}."
        return Finding("driver", "fail", sentence, _rebind(card, drivers[0]), card.address)
    if card.driver not in drivers:
        nvidia = card.vendor == "nvidia"
        fix = packages.nvidia_driver(survey.system) if nvidia else _rebind(card, drivers[0])
        sentence = f"{card.driver} has {card.name}, but only {' or '.join(drivers)} can compute on it."
        return Finding("driver", "fail", sentence, fix, card.address)
    return _nvidia_finding(survey, card) if card.vendor == "nvidia" else _kernel_driver_finding(survey, card)


def _kernel_driver_finding(survey: Survey, card: CardFacts) -> Finding:
    if card.family and card.driver != card.family.drivers[0]:
        best = card.family.drivers[0]
        sentence = f"{card.driver} has {card.name}, and programs may not see it; {best} is the proven driver of its family."
        return Finding("driver", "warn", sentence, _rebind(card, best), card.address)
    version = f"version {card.driver_version}" if card.driver_version else f"of Linux {survey.system.kernel_release or 'unknown'}"
    return Finding("driver", "ok", f"{card.driver} ({version}) has {card.name}.", None, card.address)


def _nvidia_finding(survey: Survey, card: CardFacts) -> Finding:
    nvidia, version = survey.nvidia, card.driver_version or "of unknown version"
    branch, first = driver_branch(card), card.family.driver_branch if card.family else None
    if nvidia.mismatch:
        sentence = f"NVIDIA's libraries and its loaded kernel module ({version}) are of different versions since an upgrade."
        return Finding("driver", "fail", sentence, "sudo reboot", card.address)
    if branch is not None and first is not None and branch < first:
        sentence = f"NVIDIA's driver {version} is too old for {card.name}: {first} is the first that knows its family."
        return Finding("driver", "fail", sentence, packages.nvidia_driver(survey.system), card.address)
    if nvidia.open_module is False and card.family and card.family.name == "Blackwell":
        sentence = f"{card.name} needs NVIDIA's open kernel module, and the proprietary one ({version}) is loaded."
        return Finding("driver", "fail", sentence, packages.nvidia_driver(survey.system), card.address)
    if nvidia.cards is not None and card.index is None and not survey.system.container:
        sentence = f"The driver ({version}) has {card.name}, but nvidia-smi does not list it: it has failed or lacks power."
        return Finding("driver", "fail", sentence, "sudo dmesg | grep -iE 'nvrm|xid'", card.address)
    if nvidia.cards is None:
        sentence = (
            f"NVIDIA's driver {version} has {card.name}; nvidia-smi is missing or gives no answer, so its state is unknown."
        )
        return Finding("driver", "unknown", sentence, None, card.address)
    place = " of Windows" if survey.system.wsl else ""
    return Finding("driver", "ok", f"NVIDIA's driver {version}{place} has {card.name}.", None, card.address)


def driver_branch(card: CardFacts) -> int | None:
    """The first number of NVIDIA's driver version: 580 of 580.95.05."""
    found = re.match(r"(\d{3})\.", card.driver_version or "")
    return int(found[1]) if found else None


def _undriven(survey: Survey, card: CardFacts, drivers: tuple[str, ...]) -> Finding:
    """Why no driver has the card, as far as it can be told; the first cause that is found counts."""
    system, best = survey.system, drivers[0]
    command_line = system.command_line or ""
    needed = (card.product.kernel if card.product else None) or (card.family.kernel if card.family else None)
    blacklist = re.search(rf"\bmodprobe\.blacklist=\S*\b({'|'.join(drivers)})\b", command_line)
    sentence, fix = f"No driver has {card.name}: {best} is not loaded.", f"sudo modprobe {best}"
    if needed and system.kernel and system.kernel < needed:
        sentence = f"No driver has {card.name}: that of Linux {system.kernel_release} does not know it."
        return Finding("driver", "fail", sentence, packages.newer_kernel(system, needed), card.address)
    if re.search(r"\bnomodeset\b", command_line) or blacklist:
        word = blacklist[0] if blacklist else "nomodeset"
        sentence = f"No driver has {card.name}: the kernel was started with {word}."
        return Finding("driver", "fail", sentence, packages.without_kernel_word(system, word), card.address)
    listed = next((driver for driver in drivers if driver in system.blacklists), None)
    if listed:
        file = system.blacklists[listed]
        sentence = f"No driver has {card.name}: {file} keeps {listed} from being loaded."
        fix = f"sudo sed -i '/^\\s*blacklist\\s\\+{listed}\\s*$/d' {file} && sudo reboot"
    elif card.vendor == "nvidia":
        if survey.nvidia.driver_version is None:
            signed = "; Secure Boot takes only a signed one" if system.secure_boot else ""
            sentence = f"No driver has {card.name}: NVIDIA's driver is not loaded{signed}."
            return Finding("driver", "fail", sentence, packages.nvidia_driver(system), card.address)
    elif _lacks_firmware(survey, card):
        name = card.family.firmware if card.family else ""
        sentence = f"No driver has {card.name}: its firmware /lib/firmware/{name} is missing."
        return Finding("driver", "fail", sentence, packages.firmware(system), card.address)
    return Finding("driver", "fail", sentence, fix, card.address)


def _lacks_firmware(survey: Survey, card: CardFacts) -> bool:
    name = card.family.firmware if card.family else None
    # A container has its own /lib, and the host's firmware counts.
    return bool(name) and survey.system.firmware_folder and not survey.system.container and name not in survey.software.firmware


def _rebind(card: CardFacts, driver: str) -> str:
    folder, address = f"/sys/bus/pci/devices/{card.address}", card.address
    return (
        f"sudo modprobe {driver}; echo {driver} | sudo tee {folder}/driver_override; "
        f"echo {address} | sudo tee {folder}/driver/unbind; echo {address} | sudo tee /sys/bus/pci/drivers_probe"
    )


# ---------------------------------------------------------------- device files


def check_device_files(survey: Survey) -> Iterator[Finding]:
    """Whether the files that computing goes through are there and may be used."""
    for card in survey.working_cards:
        if not card.driven:
            continue  # it cannot have any; the driver's finding says so
        missing = [path for path, node in card.nodes.items() if node is None]
        barred = {path: node for path, node in card.nodes.items() if node is not None and not node.usable}
        if not any(path.startswith("/dev/dri/render") for path in card.nodes) and card.vendor != "nvidia":
            yield _without_render_node(survey, card)
        elif missing:
            yield _missing_finding(survey, card, missing)
        elif barred:
            yield _barred_finding(survey, card, barred)
        elif card.nodes:
            yield Finding("device_files", "ok", f"{', '.join(card.nodes)} may be used.", None, card.address)


def _without_render_node(survey: Survey, card: CardFacts) -> Finding:
    if survey.system.container:  # /sys may be a part of the host's only
        return _missing_finding(survey, card, ["/dev/dri/renderD*"])
    sentence = f"{card.driver} has {card.name}, but made no render node for it."
    return Finding(
        "device_files", "fail", sentence, f"sudo modprobe -r {card.driver} && sudo modprobe {card.driver}", card.address
    )


def _missing_finding(survey: Survey, card: CardFacts, missing: list[str]) -> Finding:
    container, files = survey.system.container, " and ".join(missing)
    if container is None:
        fix = (
            "sudo nvidia-modprobe -c 0 -u"
            if card.vendor == "nvidia"
            else "sudo udevadm trigger --action=add --subsystem-match=drm"
        )
        return Finding("device_files", "fail", f"{files} of {card.name} is missing.", fix, card.address)
    sentence = f"The container was started without {card.name}: {files} is missing in it."
    return Finding("device_files", "fail", sentence, _passing(container, card.vendor), card.address)


def _passing(container: str, vendor: str) -> str:
    """How a card is given to a container of this kind."""
    if container == "kubernetes":
        limits = f'{{"limits":{{"{_PLUGINS[vendor]}":"1"}}}}'
        patch = f'{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"tokenwell","resources":{limits}}}]}}}}}}}}'
        return f"kubectl patch deployment tokenwell -p '{patch}'"
    if container == "podman":
        return f"podman run {_PODMAN.get(vendor, '--device /dev/dri --group-add keep-groups')} …"
    return f"docker run {_DEVICES[vendor]} …"


def _barred_finding(survey: Survey, card: CardFacts, barred: dict[str, Node]) -> Finding:
    path, node = next(iter(barred.items()))
    group = survey.system.groups.get(node.group)
    by_group = node.mode & 0o060 == 0o060 and node.group != 0
    if by_group and node.group in survey.user.groups:  # the mode allows it: the container's rules for devices do not
        sentence = f"{path} of {card.name} may not be used, though this user is in its group."
        return Finding("device_files", "fail", sentence, _passing(survey.system.container or "docker", card.vendor), card.address)
    if by_group and survey.system.container:
        fix = f"{survey.system.container} run --group-add {node.group} …"
        return Finding(
            "device_files",
            "fail",
            f"{path} of {card.name} is for group {group or node.group}, and this user is not in it.",
            fix,
            card.address,
        )
    if by_group and group:
        sentence = f"{path} of {card.name} is for group {group}, and this user is not in it (log in anew afterwards)."
        return Finding("device_files", "fail", sentence, f'sudo usermod -aG {group} "$USER"', card.address)
    sentence = f"{path} of {card.name} may not be read and written by this user (mode {node.mode:04o})."
    return Finding("device_files", "fail", sentence, f'sudo setfacl -m "u:$USER:rw" {path}', card.address)
