"""Checks of what sets the pace: power limits and clocks of cards, clocks of the processor. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwell.doctor.finding import Finding
from tokenwell.host.gpus import CardFacts
from tokenwell.host.survey import Survey

_NEARLY = 0.9  # below this share of what is possible it is felt
_OWN_CLOCKS = ("intel_pstate", "amd-pstate", "amd-pstate-epp")  # "powersave" is their normal governor
_GOVERNORS = "/sys/devices/system/cpu/cpufreq/policy*"


def check_card_pace(survey: Survey) -> Iterator[Finding]:
    """Power limit, clocks and modes of each card."""
    for card in survey.working_cards:
        if card.driven:
            yield _mode_finding(card) or _clock_finding(card) or _free_finding(card)


def _mode_finding(card: CardFacts) -> Finding | None:
    """NVIDIA's modes that keep a card from us."""
    state = card.state
    if state.compute_mode == "Prohibited":
        sentence = f"{card.name} is set to compute for nobody (compute mode Prohibited)."
        return Finding("card_pace", "fail", sentence, f"sudo nvidia-smi -i {card.index} -c DEFAULT", card.address)
    if state.mig:
        sentence = f"{card.name} is cut into instances (MIG): one process gets only one of them."
        return Finding("card_pace", "warn", sentence, f"sudo nvidia-smi -i {card.index} -mig 0", card.address)
    return None


def _clock_finding(card: CardFacts) -> Finding | None:
    """What holds a card's clock down."""
    state = card.state
    if state.slowed:
        sentence = f"{card.name} is slowed down by heat or by its power supply right now."
        return Finding("card_pace", "warn", sentence, "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER", card.address)
    limit, default = state.power_limit_w, state.default_power_limit_w
    if limit and default and limit < _NEARLY * default:
        fix = f"sudo nvidia-smi -i {card.index} -pl {default:g}"
        if card.vendor != "nvidia":
            fix = f"echo {default * 1e6:.0f} | sudo tee {state.power_file}"
        sentence = f"{card.name} may draw {limit:g} W of its {default:g} W: less speed for long prompts."
        return Finding("card_pace", "warn", sentence, fix, card.address)
    clock, rated = state.clock_limit_mhz, state.rated_clock_mhz
    if clock and rated and clock < _NEARLY * rated:
        sentence = f"{card.name} is held at {clock} of {rated} MHz."
        return Finding("card_pace", "warn", sentence, f"echo {rated} | sudo tee {state.clock_file}", card.address)
    if state.performance_level == "low":
        fix = f"echo auto | sudo tee /sys/bus/pci/devices/{card.address}/power_dpm_force_performance_level"
        return Finding("card_pace", "warn", f"{card.name} is held at its lowest clocks.", fix, card.address)
    return None


def _free_finding(card: CardFacts) -> Finding:
    state = card.state
    known = []
    if state.power_limit_w:
        known.append(f"may draw {state.power_limit_w:g} W")
    if state.clock_limit_mhz:
        known.append(f"may run at {state.clock_limit_mhz} MHz")
    if not known and state.performance_level is None and state.slowed is None:
        return Finding("card_pace", "unknown", f"Power limit and clocks of {card.name} cannot be seen.", None, card.address)
    return Finding("card_pace", "ok", f"{card.name} {' and '.join(known) or 'is not held back'}.", None, card.address)


def check_processor_pace(survey: Survey) -> Iterator[Finding]:
    """Governor, preference and highest allowed clock of the processor."""
    clocks = survey.limits.clocks
    quota = survey.limits.cpu_quota_cores
    if quota is not None and quota < 2:
        sentence = f"A control group grants {quota:g} processor cores; the gateway and the engine want two or more."
        yield Finding("cpu_quota", "warn", sentence, _quota_fix(survey))
    if not clocks.governors:
        yield Finding("cpu_clock", "unknown", "How the processor's clock is chosen cannot be seen (usual in virtual machines).")
    elif "powersave" in clocks.governors and not clocks.drivers <= set(_OWN_CLOCKS):
        sentence = "The processor is held at its lowest clock (governor powersave): every step waits for it."
        yield Finding("cpu_clock", "warn", sentence, f"echo performance | sudo tee {_GOVERNORS}/scaling_governor")
    elif clocks.preferences == {"power"}:
        sentence = "The processor prefers saving power (energy_performance_preference power): every step waits for it."
        fix = f"echo balance_performance | sudo tee {_GOVERNORS}/energy_performance_preference"
        yield Finding("cpu_clock", "warn", sentence, fix)
    elif clocks.capped is not None and clocks.capped < _NEARLY:
        sentence = f"The processor may only reach {clocks.capped:.0%} of its highest clock."
        fix = f'for p in {_GOVERNORS}; do cat "$p/cpuinfo_max_freq" | sudo tee "$p/scaling_max_freq"; done'
        yield Finding("cpu_clock", "warn", sentence, fix)
    else:
        yield Finding("cpu_clock", "ok", f"The processor's clock is free (governor {', '.join(sorted(clocks.governors))}).")


def _quota_fix(survey: Survey) -> str | None:
    container = survey.system.container
    return f"{container} run --cpus 4 …" if container in ("docker", "podman") else None
