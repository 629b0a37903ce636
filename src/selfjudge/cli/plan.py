"""`selfjudge plan`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from selfjudge.cli.common import print_table, quiet
from selfjudge.cli.train import RecipeOption, SetOption
from selfjudge.errors import RunError

if TYPE_CHECKING:
    from selfjudge.recipes.schema import Recipe
    from selfjudge.training.plan.hardware import Hardware
    from selfjudge.training.plan.stages import Facts, StageName, StagePlan

GpuMemoryOption = Annotated[
    float | None, typer.Option("--gpu-memory", help="GiB that the plan has to fit. Default: the device's.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="h100, a100, 4090 or cpu. Default: what is here; see the docs.")
]
TokensOption = Annotated[
    int | None, typer.Option(min=1, help="Mean tokens of a row, for sources that are not read. Default: 512.")
]
RecordsOption = Annotated[
    int | None, typer.Option(min=1, help="Pairs of each source without a limit, for sources that are not read.")
]
ProcessesOption = Annotated[int, typer.Option(min=1, help="Training processes, over all nodes, with a device each.")]
LayoutOption = Annotated[str, typer.Option(help="What each process holds: ddp, fsdp2, zero2 or zero3.")]
_GIB = 2**30
_ASSUMED = "memory for batches of the longest rows, answers as long as rollout.max_new_tokens"


def plan(
    recipe: RecipeOption,
    set_: SetOption = None,
    gpu_memory: GpuMemoryOption = None,
    device: DeviceOption = None,
    tokens: TokensOption = None,
    records: RecordsOption = None,
    processes: ProcessesOption = 1,
    layout: LayoutOption = "ddp",
) -> None:
    """Estimate memory and time of a recipe before it runs, and name the settings that would make it fit.

    Reads the model's config only: no weights are downloaded. Estimates, not measurements: see the docs.
    """
    if gpu_memory is not None and not 0 < gpu_memory < math.inf:
        raise RunError(f"--gpu-memory {gpu_memory:g} is not a size: give GiB above 0.")
    from selfjudge.recipes.load import load_recipe
    from selfjudge.training.plan.hardware import COMPUTE_EFFICIENCY, find_hardware
    from selfjudge.training.plan.layout import LAYOUTS, Layout
    from selfjudge.training.plan.stages import plan_stage, read_facts

    if layout not in LAYOUTS:
        raise RunError(f"--layout {layout!r} is not known: use one of {', '.join(LAYOUTS)}.")
    quiet()
    loaded = load_recipe(recipe, set_ or ())
    hardware, why = find_hardware(device, gpu_memory)
    facts = replace(read_facts(loaded, hardware, tokens, records), layout=Layout(layout, processes))
    available = round(gpu_memory * _GIB) if gpu_memory else hardware.memory
    stages: tuple[StageName, ...] = ("jsft", "self_training")
    plans = [plan_stage(loaded, stage, facts) for stage in stages]
    rows: list[tuple[str, object]] = [
        ("Model", f"{loaded.model.path}, {facts.model.parameters / 1e6:,.1f} M parameters"),
        ("Device", f"{hardware.name} ({why}); {available / _GIB:.1f} GiB"),
        ("Data", " ".join(facts.data.notes)),
        ("Assumed", f"{COMPUTE_EFFICIENCY:.0%} of the device's peak FLOP/s, {_ASSUMED}"),
    ]
    if processes > 1:
        rows.insert(2, ("Processes", f"{processes}, {layout}; memory is that of each of them"))
    print_table(rows, title=f"Estimate for {loaded.name}")
    for stage in plans:
        _show(stage, hardware, available)
        _advise(loaded, stage, facts, available - hardware.reserved)


def _show(plan: StagePlan, hardware: Hardware, available: int) -> None:
    peak = plan.peak
    rows: list[tuple[str, object]] = [(name, _size(part)) for name, part in peak.parts.items() if part]
    rows.append(("Peak", f"{_size(peak.total)}, in the phase: {peak.phase}"))
    rows.append(("Phases", ", ".join(f"{phase.phase} {_size(phase.total)}" for phase in plan.memory)))
    fits = peak.total + hardware.reserved <= available
    reserved = f"with {_size(hardware.reserved)} for libraries and fragmentation"
    rows.append((f"Fits {available / _GIB:.1f} GiB", f"{'yes' if fits else 'no'} ({reserved})"))
    time = plan.time
    each = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in time.phases.items())
    rows.append(("A step takes", f"{_duration(time.per_step)}: {each}" if len(time.phases) > 1 else each))
    if time.total is None:
        rows.append(("In total", "not known: the number of pairs is not (--records)"))
    else:
        rows.append(("In total", f"{_duration(time.total)} for {time.steps} steps"))
    print()
    print_table(rows, title=f"{'JSFT' if plan.stage == 'jsft' else 'Self-training'} (estimate)")


def _advise(recipe: Recipe, plan: StagePlan, facts: Facts, limit: int) -> None:
    """Prints what to change, if the stage does not fit ``limit`` bytes."""
    from selfjudge.training.plan.advice import advise

    if plan.peak.total <= limit:
        return
    changes, together = advise(recipe, plan, facts, limit)
    rows = [(_size(advice.peak), f"{advice}{' (fits)' if advice.peak <= limit else ''}") for advice in changes]
    print()
    print_table(rows, title="Peak after one change, most gained first")
    if together is None:
        print("These settings together do not make it fit: take a smaller model or a larger device.")
    elif len(together.change) > 1:
        print_table([(_size(together.peak), str(together))], title="Together, to fit")


def _size(size: float) -> str:
    """Bytes in GiB, or in MiB below one."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    """Seconds in a unit that reads well, two figures."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 1.5 * length:
            value = seconds / length
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
