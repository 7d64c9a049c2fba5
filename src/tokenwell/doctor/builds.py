"""Checks of software against cards: torch's build, compute runtimes, variables that hide cards. Pure: facts in, findings out.

Sources: NVIDIA's CUDA compatibility guide (13.x needs driver 580, 12.x 525, 11.x 450; CUDA 13 has no Volta and older; Blackwell
needs 12.8), the Level Zero specification (ZE_AFFINITY_MASK), the SYCL runtime's manual (ONEAPI_DEVICE_SELECTOR), the CUDA and
HIP programming guides (…_VISIBLE_DEVICES).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokenwell.doctor import packages
from tokenwell.doctor.drivers import driver_branch
from tokenwell.doctor.finding import Finding
from tokenwell.host.gpus import CardFacts
from tokenwell.host.masks import MASKS, SELECTOR, named, selected
from tokenwell.host.software import BUILDS, TorchFacts
from tokenwell.host.survey import Survey

_CUDA_DRIVERS = {11: 450, 12: 525, 13: 580}
_BLACKWELL_CUDA = (12, 8)
_PEERS_OFF = "NCCL_P2P_DISABLE"
_ARCHITECTURE = "HSA_OVERRIDE_GFX_VERSION"


def check_torch(survey: Survey) -> Iterator[Finding]:
    """The installed torch against the cards: each accelerator has its own build."""
    installed, cards = survey.software.torch, survey.working_cards
    if installed is None:
        build = _wheel(cards[0]) if cards else "cpu"
        yield Finding("torch", "fail", "This Python has no torch, which the engine computes with.", packages.torch(build))
        return
    fitting = [card for card in cards if BUILDS[card.vendor] == installed.build]
    if installed.build == "cuda":  # cards of one kind have one finding
        yield from dict.fromkeys(replace(_cuda_finding(installed, card), card=None) for card in fitting)
    others = [card for card in cards if card not in fitting]
    if others and not fitting:
        name = others[0].name
        sentence = f"torch {installed.version} is built for {_called(installed.build)} and cannot use {name}."
        yield Finding("torch", "fail", sentence, packages.torch(_wheel(others[0])), others[0].address)
    elif others:
        names = ", ".join(card.name for card in others)
        sentence = f"torch {installed.version} uses {fitting[0].name} and leaves {names} idle: one process, one make of cards."
        yield Finding("torch", "warn", sentence, None, others[0].address)
    elif installed.build != "cuda" or not cards:
        yield Finding("torch", "ok", f"torch {installed.version} is built for {_called(installed.build)}.")


def _cuda_finding(installed: TorchFacts, card: CardFacts) -> Finding:
    cuda, branch, family = installed.cuda_version, driver_branch(card), card.family.name if card.family else None
    fix = packages.torch(_wheel(card))
    needed = _CUDA_DRIVERS.get(cuda[0]) if cuda else None
    if cuda and cuda[0] >= 13 and family in packages.OLD_FAMILIES:
        sentence = f"torch {installed.version} (CUDA {installed.cuda}) no longer computes on {card.name}."
        return Finding("torch", "fail", sentence, fix)
    if cuda and cuda < _BLACKWELL_CUDA and family == "Blackwell":
        sentence = f"torch {installed.version} (CUDA {installed.cuda}) does not know {card.name} yet."
        return Finding("torch", "fail", sentence, fix)
    if needed and branch is not None and branch < needed:
        sentence = (
            f"torch {installed.version} (CUDA {installed.cuda}) needs driver {needed}, and {card.driver_version} is loaded."
        )
        return Finding("torch", "fail", sentence, fix)
    if cuda is None or (branch is None and card.driver == "nvidia"):
        what = "its CUDA release" if cuda is None else "the driver's version"
        sentence = f"torch {installed.version} is built for {_called('cuda')}; {what} is unknown."
        return Finding("torch", "unknown", sentence)
    return Finding("torch", "ok", f"torch {installed.version} suits {card.name}.")


def _wheel(card: CardFacts) -> str:
    """The build of torch for a card."""
    if card.vendor != "nvidia":
        return BUILDS[card.vendor]
    return packages.torch_for_nvidia(card.family, driver_branch(card))


def _called(build: str) -> str:
    return {"cpu": "the processor", "cuda": "NVIDIA's cards", "rocm": "AMD's cards", "xpu": "Intel's cards"}[build]


def check_compute_runtime(survey: Survey) -> Iterator[Finding]:
    """Intel's Level Zero driver, which torch's xpu build does not bring along."""
    if not any(card.vendor == "intel" for card in survey.working_cards):
        return
    build = survey.software.level_zero_build
    for card in survey.working_cards:
        needed = card.family.runtime_build if card.family else None
        if build is not None and needed is not None and build < needed:
            sentence = f"Intel's compute runtime (build {build}) is older than {card.name}: programs do not see the card."
            yield Finding("compute_runtime", "fail", sentence, packages.level_zero(survey.system), card.address)
            return
    if survey.software.level_zero:
        yield Finding("compute_runtime", "ok", "Intel's compute runtime (libze_intel_gpu) is installed.")
    else:
        sentence = "Intel's compute runtime (libze_intel_gpu) is missing: programs see no Intel card."
        yield Finding("compute_runtime", "fail", sentence, packages.level_zero(survey.system))


def check_containers(survey: Survey) -> Iterator[Finding]:
    """Whether this is a container, and whether this host could give its cards to one."""
    system, software = survey.system, survey.software
    nvidia = any(card.vendor == "nvidia" and card.driver == "nvidia" for card in survey.working_cards)
    if system.container:
        yield Finding("container", "ok", f"This is a container ({system.container}).")
    elif software.docker and nvidia and not software.nvidia_toolkit:
        sentence = "Docker cannot hand NVIDIA's cards to containers: the NVIDIA Container Toolkit is missing."
        yield Finding("container", "warn", sentence, packages.nvidia_toolkit(system))
    else:
        yield Finding("container", "ok", f"This is no container{', and Docker is here' if software.docker else ''}.")


# ---------------------------------------------------------------- variables


def check_variables(survey: Survey) -> Iterator[Finding]:
    """Variables that hide cards, or that make them something else."""
    found = [finding for vendor in MASKS for finding in _mask_findings(survey, vendor)]
    found += [*_selector_finding(survey), *_architecture_finding(survey), *_peer_variable_finding(survey)]
    yield from found or [Finding("variables", "ok", "No variable hides a card or holds it back.")]


def check_oneccl(survey: Survey) -> Iterator[Finding]:
    """What steers oneCCL, which Intel's cards need for tensor parallel and for nothing else."""
    if sum(card.vendor == "intel" for card in survey.working_cards) < 2:
        return
    steering = {name: value for name, value in sorted(survey.environment.items()) if name.startswith("CCL_")}
    if steering.get("CCL_TOPO_P2P_ACCESS") == "1" and survey.redirecting:
        sentence = "CCL_TOPO_P2P_ACCESS=1 tells oneCCL that the cards reach each other directly, and ACS is in the way."
        yield Finding("oneccl", "warn", sentence, "export CCL_TOPO_P2P_ACCESS=0")
    elif steering.get("CCL_ALLREDUCE") == "ring":
        sentence = (
            "CCL_ALLREDUCE=ring keeps oneCCL from hanging on Arc (uxlfoundation/oneCCL issue 215), at about a third of its speed."
        )
        yield Finding("oneccl", "ok", sentence)
    elif steering:
        names = ", ".join(f"{name}={value}" for name, value in steering.items())
        yield Finding("oneccl", "ok", f"oneCCL is steered by {names}; only tensor parallel needs it.")
    else:
        sentence = "Nothing steers oneCCL. Only tensor parallel needs it; if that hangs on Arc, CCL_ALLREDUCE=ring helps."
        yield Finding("oneccl", "ok", sentence)


def _mask_findings(survey: Survey, vendor: str) -> Iterator[Finding]:
    cards = [card for card in survey.working_cards if card.vendor == vendor]
    for name in MASKS[vendor] if cards else ():
        value = survey.environment.get(name)
        words = named(vendor, value)
        if words is None:
            continue
        numbers = [int(word.partition(".")[0]) for word in words if word[0].isdigit()]
        beyond = next((number for number in numbers if number >= len(cards)), None)
        fix = f"unset {name}"
        if not words:
            yield Finding("variables", "fail", f"{name}={value} hides every card.", fix)
        elif beyond is not None:
            sentence = f"{name}={value} names card {beyond}, and there {_count(len(cards))} (counted from 0)."
            yield Finding("variables", "fail", sentence, fix)
        elif len({word.partition(".")[0] for word in words}) < len(cards):
            yield Finding("variables", "warn", f"{name}={value} hides some of the {len(cards)} cards.", fix)


def _count(number: int) -> str:
    return "is 1" if number == 1 else f"are {number}"


def _selector_finding(survey: Survey) -> Iterator[Finding]:
    value = survey.environment.get(SELECTOR)
    if not value or not any(card.vendor == "intel" for card in survey.working_cards):
        return
    if selected(value) == []:
        yield Finding("variables", "fail", f"{SELECTOR}={value} leaves no Level Zero card to torch.", f"unset {SELECTOR}")


def _peer_variable_finding(survey: Survey) -> Iterator[Finding]:
    if survey.environment.get(_PEERS_OFF, "0") not in ("", "0") and {"nvlink", "pcie"} & set(survey.peers.values()):
        sentence = f"{_PEERS_OFF} keeps NCCL from using the direct way between the cards."
        yield Finding("variables", "warn", sentence, f"unset {_PEERS_OFF}")


def _architecture_finding(survey: Survey) -> Iterator[Finding]:
    value = survey.environment.get(_ARCHITECTURE)
    known = [card for card in survey.working_cards if card.vendor == "amd" and card.family is not None]
    if value and known:
        sentence = (
            f"{_ARCHITECTURE}={value} makes torch run code for another card than {known[0].name}, which may be silently wrong."
        )
        yield Finding("variables", "warn", sentence, f"unset {_ARCHITECTURE}")
