"""What the commands share: option types, progress bars, tables."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selfjudge.errors import RunError

if TYPE_CHECKING:
    from datetime import date

    from pydantic import BaseModel

    from selfjudge.engines.load import DtypeName, LoadedModel
    from selfjudge.templates.thinking import Thinking

ModelOption = Annotated[str, typer.Option("--model", help="Hub id, model folder, run folder or .gguf file.")]
AdapterOption = Annotated[Path | None, typer.Option(help="LoRA adapter (or its run folder) to put on the model.")]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        help="Which column of the file holds what, as OURS=THEIRS, such as prompt=question,chosen=better_answer.",
    ),
]
TemplatesOption = Annotated[
    str | None,
    typer.Option("--template", help="Template set: a shipped name or folder. Default: the model's own, else general."),
]
ChatTemplateOption = Annotated[
    str | None, typer.Option(help="Replace the tokenizer's chat template: 'plain' or a Jinja file.")
]
ThinkingOption = Annotated[
    Literal["off", "on"],
    typer.Option(
        help="on: the model thinks before it answers, and its answer is what follows the thought. Judgments are made "
        "without thoughts."
    ),
]
DtypeOption = Annotated[
    str, typer.Option(help="dtype of the weights: auto (bfloat16 on a GPU, else float32), float32, bfloat16, float16.")
]
DeviceOption = Annotated[str | None, typer.Option(help="Device, such as cuda:0. Default: a GPU where there is one.")]
TokenBudgetOption = Annotated[
    int | None,
    typer.Option(min=1, help="Padded tokens of a batch. Default: 8192 on a CPU, on a GPU what its memory allows."),
]
BatchSizeOption = Annotated[int | None, typer.Option(min=1, help="Rows of a batch at most.")]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="URL of an OpenAI-compatible server, such as http://localhost:8000/v1; --model then names the tokenizer.",
    ),
]
ServedModelOption = Annotated[
    str | None, typer.Option("--served-model", help="The model's name on the server. Default: the first it lists.")
]
EngineOption = Annotated[
    str, typer.Option(help="What runs the model in this process: transformers, or vllm (extra vllm).")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
ReportOption = Annotated[Path | None, typer.Option(help="Write one self-contained HTML page to this file.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")]


UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What no other attempt to write would help against."""


def check_outputs(*paths: Path | None, overwrite: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """Raises RunError if an output file is there already, or as :func:`refuse_inputs`; called before any long work."""
    outputs = [path for path in paths if path is not None]
    refuse_inputs(outputs, inputs)
    for path in outputs:
        if path.exists() and not overwrite:
            raise RunError(f"{path} is already there: choose another name, or add --overwrite.")


def refuse_inputs(outputs: Sequence[Path], inputs: Iterable[str | Path | None]) -> None:
    """Raises RunError if an output is one of the inputs, another output, or a folder.

    Two names of one file, as a link and its target, count as one. ``inputs`` may name models and
    datasets of the Hub. Where an input is a folder, every file in it is an input.
    """
    sources = [Path(source) for source in inputs if source is not None]
    for i, output in enumerate(outputs):
        if output.is_dir():
            raise RunError(f"{output} is a folder: name a file to write.")
        if any(_is_input(output, source) for source in sources):
            raise RunError(f"{output} is one of the inputs: choose another name for the output.")
        if any(_same_file(output, other) for other in outputs[:i]):
            raise RunError(f"{output} would be written twice: give each output a name of its own.")


def files_of(*names: str | Path | None) -> list[str | Path]:
    """Returns those of some names, of models and the like, that are files."""
    return [name for name in names if name is not None and Path(name).is_file()]


def _is_input(output: Path, source: Path) -> bool:
    within = source.is_dir() and output.exists() and source.resolve() in output.resolve().parents
    return within or _same_file(output, source)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return one.resolve() == other.resolve()


def write_json(path: Path, what: dict[str, Any], figures: BaseModel) -> None:
    """Writes a command's figures, whole or not at all, after what they are of; ``check_outputs`` was asked before.

    A figure that is not defined (NaN) is null.
    """
    import json

    from selfjudge.data.io import atomic_writer

    with atomic_writer(path, overwrite=True) as handle:
        json.dump({**what, **json.loads(figures.model_dump_json())}, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def load(
    model: str,
    adapter: Path | None,
    dtype: str,
    chat_template: str | None,
    device: str | None,
    thinking: Thinking = "off",
    today: date | None = None,
) -> LoadedModel:
    """Loads a model for the command line, quietly."""
    from selfjudge.engines.load import load_model

    quiet()
    return load_model(
        model,
        adapter=adapter,
        dtype=dtype_name(dtype),
        chat_template=chat_template,
        device=device,
        thinking=thinking,
        today=today,
    )


def dtype_name(dtype: str) -> DtypeName:
    """Returns ``dtype`` where it is one of the names of --dtype."""
    names: dict[str, DtypeName] = {"auto": "auto", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
    if dtype not in names:
        raise typer.BadParameter(f"{dtype!r} is not one of {', '.join(names)}", param_hint="--dtype")
    return names[dtype]


def quiet() -> None:
    """Keeps the libraries' bars and notes about their own future out of the way of what matters to the user."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items just finished; ``total`` None: not known before the end."""
    with progress_bars({description: total}) as (advance,):
        yield advance


@contextmanager
def progress_bars(totals: Mapping[str, int | None]) -> Iterator[list[Callable[[int], None]]]:
    """Yields the function of :func:`progress_bar` for each of several bars, description → total."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = [progress.add_task(description, total=total) for description, total in totals.items()]
        yield [partial(progress.advance, task) for task in tasks]


def print_table(rows: Iterable[tuple[str, object]], title: str | None = None) -> None:
    """Prints name and value in two columns; the title stays on one line, so that a path in it can be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if title is not None:
        console.print(Text(title), style="table.title", soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(str(value)))
    console.print(table)
