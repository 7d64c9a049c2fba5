"""What `serve` does with the plan: its layout and precision become settings, its figures the promise that the service keeps."""

from __future__ import annotations

import sys
from dataclasses import asdict

import msgspec

from tokenwell.cli.plan import this_machine, wishes_of
from tokenwell.config.load import DEFAULT, Loaded, preset_environment
from tokenwell.config.settings import EngineSettings, Settings
from tokenwell.plan.card import read_card
from tokenwell.plan.machine import MachineCards
from tokenwell.plan.plan import Plan, make_plan
from tokenwell.service.promise import Planned, Promise
from tokenwell.wire.errors import CapacityError, TokenwellError


def planned(loaded: Loaded, settings: Settings) -> tuple[Settings, Promise | None]:
    """Settings with what the plan chose, and its promise.

    A model that cannot be planned for is left to the engine, which fits it to the memory that it finds. With
    `engine.strict`, raises CapacityError for everything that would be cut.
    """
    assert settings.model.path is not None
    wishes = wishes_of(loaded)
    try:
        card = read_card(settings.model.path)
        machine = this_machine(loaded, wishes, card)
        plan, forecast = make_plan(settings.model.path, card, machine, wishes)
    except TokenwellError as error:
        if settings.engine.strict:
            raise
        print(f"tokenwell: there is no plan, the engine fits the model by itself: {error}", file=sys.stderr)
        return settings, None
    if plan.cuts and settings.engine.strict:
        told = "; ".join(plan.cuts)
        raise CapacityError(
            f"with --strict nothing is cut, and this would be: {told}. Without it, this works: {plan.layout.words}"
        )
    for cut in plan.cuts:
        print(f"tokenwell: cut: {cut}", file=sys.stderr)
    preset_environment("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # so that cards have the engine's numbers here and there
    engine = _obeying(loaded, settings.engine, plan, machine)
    promise = Promise(
        Planned(
            plan.weights_bytes, plan.kv.planned_bytes, plan.max_model_len, plan.speed.ttft_ms,
            plan.speed.tpot_ms, _words(plan), asdict(plan),
        ),
        forecast,
    )  # fmt: skip
    return msgspec.structs.replace(settings, engine=engine), promise


def _words(plan: Plan) -> str:
    """The layout, and what the plan changed that nobody asked for."""
    changed = [reason for reason in plan.reasons if reason.startswith(("Weights become", "The per-layer", "The window is cut"))]
    return " ".join([f"{plan.layout.words}; for {plan.goal}.", *changed])


def _obeying(loaded: Loaded, engine: EngineSettings, plan: Plan, machine: MachineCards) -> EngineSettings:
    """The engine's settings with the plan's choices; what was asked for and can be had is among them."""
    device = engine.device
    if plan.layout.kind == "single" and loaded.origin("engine.device") == DEFAULT and len(machine.gpus) > 1:
        place = next(i for i, gpu in enumerate(machine.gpus) if gpu.name == plan.layout.gpus[0])
        device = f"{'xpu' if machine.gpus[place].vendor == 'intel' else 'cuda'}:{machine.places[place]}"
    return msgspec.structs.replace(
        engine,
        device=device,
        tp=plan.layout.tp,
        replicas=plan.layout.replicas,
        quantization=plan.quantization,
        kv_cache_dtype=plan.kv_cache_dtype,
        max_num_seqs=plan.max_num_seqs,
        ple_offload="on" if plan.layout.offload == "lookup" else "off" if machine.gpus[0].vendor != "cpu" else engine.ple_offload,
    )
