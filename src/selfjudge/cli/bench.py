"""`selfjudge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfjudge.cli.common import DeviceOption, DtypeOption, TemplatesOption, check_outputs, dtype_name, print_table

if TYPE_CHECKING:
    from selfjudge.benchmarks.measure import Side
    from selfjudge.benchmarks.tasks import Task
    from selfjudge.engines.load import LoadedModel

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="judge, tournament (16 candidates) or sample.")]


def bench(
    task: TaskArgument,
    shape: Annotated[str, typer.Option(help="Random weights of a known shape: tiny, 135m, 1b, 7b.")] = "135m",
    model: Annotated[str | None, typer.Option(help="A real model in place of a shape.")] = None,
    input: Annotated[Path | None, typer.Option(help="Pairs to judge in place of generated texts (judge only).")] = None,
    size: Annotated[int, typer.Option(min=1, help="Pairs (judge) or prompts (tournament, sample).")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns, after one that does not count.")] = 3,
    against: Annotated[str | None, typer.Option(help="'published': time the published algorithm in turn.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    template: TemplatesOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing --json file.")] = False,
) -> None:
    """Measure the speed of judging, tournaments and sampling on this machine.

    The ceiling is measured in the same run: a dense forward over rows of equal length, or, for sampling, how often a
    large copy could read the weights. With --against published both sides take turns and the ratio is the median.
    """
    check_outputs(json_, overwrite=overwrite)
    if against not in (None, "published"):
        raise typer.BadParameter(f"{against!r} is not 'published'.", param_hint="--against")
    if input is not None and task != "judge":
        raise typer.BadParameter("only with the task judge.", param_hint="--input")

    from selfjudge.benchmarks.measure import alternate
    from selfjudge.benchmarks.tasks import make_task
    from selfjudge.data.io import atomic_writer
    from selfjudge.data.prompts import load_comparisons

    comparisons = load_comparisons(input) if input else None
    loaded = _load(shape, model, dtype, device)
    work = make_task(task, loaded, size, template or (loaded.templates if model else "world"), comparisons)
    sides = {"ours": work.ours, **({"published": work.published} if against else {})}
    figures = _figures(work, loaded, alternate(sides, repeats))
    figures = {"task": task, "model": model or shape, **_where(loaded), **figures}
    if json_:
        import json

        with atomic_writer(json_, overwrite=True) as handle:
            json.dump(figures, handle, indent=2)
            handle.write("\n")
    print_table([(name.replace("_", " ").capitalize(), _shown(value)) for name, value in figures.items()])


def _load(shape: str, model: str | None, dtype: str, device: str | None) -> LoadedModel:
    from selfjudge.cli.common import load

    if model is not None:
        return load(model, None, dtype, None, device)

    import torch

    from selfjudge.benchmarks.inputs import random_model
    from selfjudge.engines.load import default_device, torch_dtype

    where = device or default_device()
    return random_model(shape, where, torch_dtype(dtype_name(dtype), torch.device(where)))


def _where(loaded: LoadedModel) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name() if loaded.model.device.type == "cuda" else "CPU"
    return {"device": name, "dtype": str(loaded.model.dtype).removeprefix("torch."), "torch": torch.__version__}


def _figures(task: Task, loaded: LoadedModel, measured: dict[str, Side]) -> dict[str, Any]:
    from statistics import median

    from selfjudge.benchmarks.measure import ceiling_tokens_per_second, copy_bandwidth, ratio

    ours, model = measured["ours"], loaded.model
    seconds = median(ours.seconds)
    figures: dict[str, Any] = {"unit": f"{task.unit}/s", "ours": task.amount / seconds}
    if task.new_tokens:
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        floor = task.new_tokens * weights / copy_bandwidth(model.device)
        figures["share_of_ceiling"] = floor / seconds
    else:
        figures["share_of_ceiling"] = task.tokens / seconds / ceiling_tokens_per_second(model, task.length)
    published = measured.get("published")
    if published:
        figures |= {"published": task.amount / median(published.seconds), "ratio": ratio(ours, published)}
    if ours.memory:
        figures["peak_memory_gib"] = max(ours.memory) / 2**30
        if published:
            figures["peak_memory_ratio"] = max(ours.memory) / max(published.memory)
    return figures


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
