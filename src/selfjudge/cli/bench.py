"""`selfjudge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfjudge.cli.common import (
    DeviceOption,
    DtypeOption,
    TemplatesOption,
    check_outputs,
    dtype_name,
    files_of,
    print_table,
)

if TYPE_CHECKING:
    from selfjudge.benchmarks.task import Settings
    from selfjudge.engines.load import LoadedModel

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="judge, tournament, scaling, sample, step or jsft.")]
InputOption = Annotated[Path | None, typer.Option(help="Pairs to judge in place of generated texts (judge).")]
SizeOption = Annotated[
    int | None,
    typer.Option(min=1, help="Pairs (judge), records (jsft) or prompts. Default: 32, and 8 for a step."),
]
CandidatesOption = Annotated[
    int | None, typer.Option(min=2, help="Candidates of a tournament (tournament, scaling). Default: 16.")
]
NewTokensOption = Annotated[int | None, typer.Option(min=1, help="Tokens of a sample (sample, step). Default: 128.")]
TrainBatchOption = Annotated[
    int | None,
    typer.Option(min=1, help="Prompts (step) or examples (jsft) that are trained on at once. Default: 8."),
]
CheckpointingOption = Annotated[
    bool, typer.Option("--checkpointing", help="Checkpoint activations, on our side (step).")
]

_TASKS_OF = {
    "--input": {"judge"},
    "--candidates": {"tournament", "scaling"},
    "--new-tokens": {"sample", "step"},
    "--train-batch": {"step", "jsft"},
    "--checkpointing": {"step"},
    "--against": {"judge", "tournament", "sample", "step", "jsft"},
}


def bench(
    task: TaskArgument,
    shape: Annotated[str, typer.Option(help="Random weights of a known shape: tiny, 135m, 1b, 7b.")] = "135m",
    model: Annotated[str | None, typer.Option(help="A real model in place of a shape.")] = None,
    input: InputOption = None,
    size: SizeOption = None,
    candidates: CandidatesOption = None,
    new_tokens: NewTokensOption = None,
    train_batch: TrainBatchOption = None,
    checkpointing: CheckpointingOption = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns, after one that does not count.")] = 3,
    against: Annotated[str | None, typer.Option(help="'published': time the published algorithm in turn.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    template: TemplatesOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing --json file.")] = False,
) -> None:
    """Measure the speed of judging, tournaments, sampling, an on-policy step and JSFT on this machine.

    The ceiling is measured in the same run: a dense forward over rows of equal length and, for sampling, how often a
    large copy could read the weights. With --against published both sides take turns and the ratio is the median. The
    task scaling plays tournaments with four times the candidates in turn: 63 matches to 15 by default, a ratio of 4.2.
    """
    check_outputs(json_, overwrite=overwrite, inputs=files_of(model, input))
    if against not in (None, "published"):
        raise typer.BadParameter(f"{against!r} is not 'published'.", param_hint="--against")
    amounts = {"candidates": candidates, "new_tokens": new_tokens, "train_batch": train_batch}
    _check(task, {"input": input, **amounts, "checkpointing": checkpointing or None, "against": against})

    from tempfile import TemporaryDirectory

    from selfjudge.benchmarks.task import Settings
    from selfjudge.data.prompts import load_comparisons

    pairs = load_comparisons(input) if input else None
    given = {name: amount for name, amount in amounts.items() if amount is not None}
    loaded = _load(shape, model, dtype, device)
    templates = template or (loaded.templates if model else "world")
    size = size or (8 if task == "step" else 32)
    with TemporaryDirectory() as folder:
        settings = Settings(size, templates, Path(folder), pairs, checkpointing=checkpointing, **given)
        found = _measured(task, loaded, settings, repeats, published=against is not None)
    found = {"task": task, "model": model or shape, **_where(loaded), **found}
    if json_:
        _write(json_, found)
    print_table([(name.replace("_", " ").capitalize(), _shown(value)) for name, value in found.items()])


def _check(task: str, given: dict[str, Any]) -> None:
    """Refuses an option that the task does not have."""
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is not None and task not in (tasks := _TASKS_OF[option]):
            raise typer.BadParameter(f"only with the task {' or '.join(sorted(tasks))}.", param_hint=option)


def _load(shape: str, model: str | None, dtype: str, device: str | None) -> LoadedModel:
    from selfjudge.cli.common import load, quiet

    if model is not None:
        return load(model, None, dtype, None, device)

    import torch

    from selfjudge.benchmarks.inputs import random_model
    from selfjudge.engines.load import default_device, torch_dtype

    quiet()
    where = device or default_device()
    return random_model(shape, where, torch_dtype(dtype_name(dtype), torch.device(where)))


def _measured(task: str, loaded: LoadedModel, settings: Settings, repeats: int, *, published: bool) -> dict[str, Any]:
    from selfjudge.benchmarks.figures import figures
    from selfjudge.benchmarks.measure import alternate
    from selfjudge.benchmarks.tasks import make_task

    work = make_task(task, loaded, settings)
    sides = {"ours": work.ours}
    if published or work.other_name != "published":
        sides[work.other_name] = work.other
    return figures(work, alternate(sides, repeats))


def _where(loaded: LoadedModel) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name() if loaded.model.device.type == "cuda" else "CPU"
    return {"device": name, "dtype": str(loaded.model.dtype).removeprefix("torch."), "torch": torch.__version__}


def _write(file: Path, found: dict[str, Any]) -> None:
    import json

    from selfjudge.data.io import atomic_writer

    with atomic_writer(file, overwrite=True) as handle:
        json.dump(found, handle, indent=2)
        handle.write("\n")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
