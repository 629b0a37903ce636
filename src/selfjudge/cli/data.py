"""`selfjudge data inspect` and `selfjudge data prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfjudge.cli.common import ChatTemplateOption, OverwriteOption, check_outputs, print_table
from selfjudge.recipes.schema import BUILTIN_WORLD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from selfjudge.data.inspect import InspectReport
    from selfjudge.data.rows import Row
    from selfjudge.data.sources import Loaded
    from selfjudge.records import PreferenceRecord
    from selfjudge.templates.chat import ChatEncoder

app = typer.Typer(no_args_is_help=True, help="Look at preference data and turn it into canonical records.")

Source = Annotated[
    str, typer.Argument(help="Hub id, file (.jsonl, .jsonl.gz, .json, .csv, .parquet) or builtin:world.")
]
Format = Annotated[str, typer.Option(help="auto, or force: hh, ultrafeedback, preference, judge, records.")]
Subset = Annotated[str | None, typer.Option(help="Configuration or folder within a Hub dataset.")]
Split = Annotated[str, typer.Option(help="Split of a Hub dataset.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only the first rows.")]
TieRule = Annotated[str, typer.Option(help="Equal ratings: drop, or longer (as published; prefers the longer answer).")]
Pairs = Annotated[str, typer.Option(help="Rated answers: overall (mean rating), or per_principle as well.")]
Seed = Annotated[int, typer.Option(help="Draws the worse answer of rated sources.")]


@app.command("inspect")
def inspect_(
    source: Source,
    format: Format = "auto",
    subset: Subset = None,
    split: Split = "train",
    limit: Limit = None,
    tie_rule: TieRule = "drop",
    pairs: Pairs = "overall",
    seed: Seed = 0,
    model: Annotated[str | None, typer.Option(help="Count tokens and render rows with this model's tokenizer.")] = None,
    template: Annotated[str, typer.Option(help="Template set of the rendered judgment row.")] = "general",
    max_length: Annotated[int | None, typer.Option(min=16, help="Also count the rows longer than this.")] = None,
    chat_template: ChatTemplateOption = None,
) -> None:
    """Show what a source is: format, counts, lengths, what is dropped and why, length bias, one row as trained on."""
    loaded = _load(source, format, subset, split, limit, tie_rule, pairs, seed)

    from selfjudge.data.inspect import inspect
    from selfjudge.engines.load import load_tokenizer

    chat = load_tokenizer(model or BUILTIN_WORLD, chat_template)
    report = inspect(loaded, (lambda text: len(chat.text_ids(text))) if model else None)
    print_table(_facts(source, report), title=source)
    _print_lengths(report)
    _render(report.example, chat, template, model)
    if max_length:
        _print_too_long(loaded.records, chat, template, max_length)


@app.command()
def prepare(
    source: Source,
    output: Annotated[Path, typer.Option(help="Canonical records, .jsonl or .jsonl.gz.")],
    format: Format = "auto",
    subset: Subset = None,
    split: Split = "train",
    limit: Limit = None,
    tie_rule: TieRule = "drop",
    pairs: Pairs = "overall",
    seed: Seed = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a source as canonical preference records, which any recipe takes as a source."""
    from selfjudge.data.sources import write_records

    check_outputs(output, overwrite=overwrite)
    loaded = _load(source, format, subset, split, limit, tie_rule, pairs, seed)
    written = write_records(loaded.records, output, overwrite)
    rows: list[tuple[str, object]] = [("Format", loaded.format), ("Rows read", loaded.rows), ("Records", written)]
    rows += [(f"Dropped: {reason}", n) for reason, n in loaded.reasons().items()]
    print_table([*rows, ("Fingerprint", loaded.fingerprint), ("Written to", output)])


def _load(
    path: str,
    format: str,
    subset: str | None,
    split: str,
    limit: int | None,
    tie_rule: str,
    pairs: str,
    seed: int,
) -> Loaded:
    from pydantic import ValidationError

    from selfjudge.data.load import load_source
    from selfjudge.errors import DataError
    from selfjudge.recipes.schema import DataSection

    source = {"path": path, "format": format, "subset": subset, "split": split, "limit": limit}
    try:
        section = DataSection.model_validate({"sources": [source], "tie_rule": tie_rule, "pairs": pairs})
    except ValidationError as e:
        error = e.errors()[0]
        raise DataError(f"--{str(error['loc'][-1]).replace('_', '-')}: {error['msg']}.") from e
    return load_source(section.sources[0], section, seed)


def _facts(source: str, report: InspectReport) -> Iterable[tuple[str, object]]:
    yield "Format", report.format
    yield "Rows read", report.rows
    yield "Records", report.records
    if len(report.principles) > 1:
        yield "Principles", ", ".join(f"{name} {n}" for name, n in report.principles.items())
    for reason, n in report.dropped.items():
        yield f"Dropped: {reason}", n
    yield "User turns", ", ".join(f"{turns}: {n}" for turns, n in report.turns.items())
    yield "Longer is chosen", f"{report.longer_chosen} ({report.equal_lengths} of equal length count half)"


def _print_lengths(report: InspectReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Lengths in {report.unit}", box=None, title_justify="left", pad_edge=False)
    table.add_column("percentile", style="bold")
    columns = list(report.lengths)
    for name in columns:
        table.add_column(name, justify="right")
    for percentile in report.lengths[columns[0]]:
        table.add_row(f"{percentile} %", *(str(report.lengths[name][percentile]) for name in columns))
    Console().print(table)


def _render(record: PreferenceRecord, chat: ChatEncoder, template: str, model: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    from selfjudge.data.rows import judgment_rows, policy_row
    from selfjudge.templates.encode import JudgmentEncoder
    from selfjudge.templates.template import load_templates

    encoder = JudgmentEncoder(load_templates(template), chat)
    rows = [("Policy row", policy_row(record, chat))]
    if record.principle in encoder.principles:
        rows += [("Judgment row, chosen first", judgment_rows(record, encoder)[0])]
    console = Console()
    tokenizer = model or "the built-in ChatML tokenizer (--model names yours)"
    console.print(f"\nRecord {record.id}, rendered with {tokenizer}; the target stands between » and «.", style="dim")
    for title, row in rows:
        console.print(f"\n{title} ({len(row.ids)} tokens)", style="bold")
        console.print(Text(_marked(row, chat)))


def _marked(row: Row, chat: ChatEncoder) -> str:
    """Returns the row's text with its target tokens between » and «."""
    from itertools import groupby

    text = ""
    for is_target, group in groupby(zip(row.ids, row.is_target, strict=True), key=lambda pair: pair[1]):
        piece = chat.tokenizer.decode([token for token, _ in group])
        text += f"»{piece}«" if is_target else piece
    return text


def _print_too_long(records: Iterable[PreferenceRecord], chat: ChatEncoder, template: str, max_length: int) -> None:
    from selfjudge.data.rows import build_judgment_rows, build_policy_rows
    from selfjudge.templates.encode import JudgmentEncoder
    from selfjudge.templates.template import load_templates

    records = list(records)
    encoder = JudgmentEncoder(load_templates(template), chat)
    built = {
        "Policy rows": build_policy_rows(records, chat, max_length),
        "Judgment rows": build_judgment_rows(records, encoder, max_length),
    }
    print_table(
        [(kind, f"{len(rows.rows)} fit, {len(rows.dropped)} would be dropped") for kind, rows in built.items()],
        title=f"\nWithin {max_length} tokens",
    )
