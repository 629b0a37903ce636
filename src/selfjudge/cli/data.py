"""`selfjudge data inspect`, `selfjudge data prepare` and `selfjudge data anonymize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfjudge.cli.common import (
    ChatTemplateOption,
    ColumnsOption,
    JsonOption,
    OverwriteOption,
    check_outputs,
    print_table,
    progress_bar,
    write_json,
)
from selfjudge.cli.data_tables import print_label_bias, print_lengths, print_personal, print_repeats, print_unused
from selfjudge.recipes.section import BUILTIN_WORLD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from selfjudge.core.statistics import Rate
    from selfjudge.data.anonymize import AnonymizeReport
    from selfjudge.data.inspect import InspectReport
    from selfjudge.data.sources import Loaded
    from selfjudge.records import PreferenceRecord
    from selfjudge.templates.chat import ChatEncoder

app = typer.Typer(no_args_is_help=True, help="Look at preference data and turn it into canonical records.")

Source = Annotated[
    str,
    typer.Argument(help="Hub id, file (.jsonl, .ndjson, .json, .csv, .tsv, each also .gz; .parquet) or builtin:world."),
]
Format = Annotated[
    str,
    typer.Option(
        help="auto, or force: hh, ultrafeedback, arena, helpsteer, safe_rlhf, alpaca_farm, pandalm, shp, "
        "two_scores, judge, preference, ranked, records; or module:function of your own."
    ),
]
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
    columns: ColumnsOption = None,
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
    """Show what a source is: format, counts, lengths, what is dropped and why, one row as trained on.

    Also what the labels go with besides quality, and whether there is personal data in it.
    """
    loaded = _load(source, format, columns, subset, split, limit, tie_rule, pairs, seed)

    from selfjudge.data.inspect import inspect
    from selfjudge.engines.load import load_tokenizer

    chat = load_tokenizer(model or BUILTIN_WORLD, chat_template)
    report = inspect(loaded, (lambda text: len(chat.text_ids(text))) if model else None)
    print_table(_facts(source, report), title=source)
    print_unused(loaded)
    print_lengths(report)
    print_repeats(report)
    print_label_bias(report, _first_position(source, report.format, subset, split, limit))
    print_personal(source, loaded.records)
    _render(report.example, chat, template, model)
    if max_length:
        _print_too_long(loaded.records, chat, template, max_length)


@app.command()
def prepare(
    source: Source,
    output: Annotated[Path, typer.Option(help="Canonical records, .jsonl or .jsonl.gz.")],
    format: Format = "auto",
    columns: ColumnsOption = None,
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

    check_outputs(output, overwrite=overwrite, inputs=[source])
    loaded = _load(source, format, columns, subset, split, limit, tie_rule, pairs, seed)
    written = write_records(loaded.records, output, overwrite)
    rows: list[tuple[str, object]] = [("Format", loaded.format), ("Rows read", loaded.rows), ("Records", written)]
    rows += [(f"Dropped: {reason}", n) for reason, n in loaded.reasons().items()]
    print_table([*rows, ("Fingerprint", loaded.fingerprint), ("Written to", output)])
    print_unused(loaded)


@app.command()
def anonymize(
    source: Source,
    output: Annotated[Path, typer.Option(help="The same rows with placeholders, .jsonl or .jsonl.gz.")],
    names: Annotated[
        str | None,
        typer.Option(
            help="spaCy pipeline (name or folder) to find names with, or none. Default: one that is installed."
        ),
    ] = None,
    subset: Subset = None,
    split: Split = "train",
    limit: Limit = None,
    json_: JsonOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Replace personal data in every text of a source by placeholders such as <EMAIL_1> (extra privacy).

    Any format is taken; the columns stay as they are. Within a row the same value has the same placeholder.
    """
    from selfjudge.data.anonymize import anonymize_file
    from selfjudge.data.personal import Finder, installed_names

    check_outputs(output, json_, overwrite=overwrite, inputs=[source])
    finder = Finder(installed_names() if names is None else None if names == "none" else names)
    with progress_bar("Anonymizing", None) as advance:
        report = anonymize_file(
            source, output, finder, subset=subset, split=split, limit=limit, overwrite=overwrite, advance=advance
        )
    if json_:
        write_json(json_, {"source": source}, report)
    print_table(_replaced(report, output))


def _replaced(report: AnonymizeReport, output: Path) -> Iterable[tuple[str, object]]:
    yield "Rows", f"{report.rows}, changed: {report.rows_changed}"
    for kind, count in report.kinds.items():
        yield kind, f"{count.values} values at {count.places} places in {count.rows} rows"
    if report.names is None:
        yield "NAME", "not looked for: install a spaCy pipeline that knows persons, or name one by --names"
    yield "Written to", output


def _load(
    path: str,
    format: str,
    columns: str | None,
    subset: str | None,
    split: str,
    limit: int | None,
    tie_rule: str,
    pairs: str,
    seed: int,
) -> Loaded:
    from pydantic import ValidationError

    from selfjudge.data.columns import parse_columns
    from selfjudge.data.load import load_source
    from selfjudge.errors import DataError
    from selfjudge.recipes.schema import DataSection

    names = parse_columns(columns)
    source = {"path": path, "format": format, "columns": names, "subset": subset, "split": split, "limit": limit}
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


def _first_position(source: str, format: str, subset: str | None, split: str, limit: int | None) -> Rate | None:
    """Returns how often A is the better one, where the rows say which response was shown first."""
    from selfjudge.data.label_bias import first_position
    from selfjudge.data.raw import read_rows

    if format != "judge":
        return None
    return first_position(row for _, row in read_rows(source, subset, split, limit))


def _render(record: PreferenceRecord, chat: ChatEncoder, template: str, model: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    from selfjudge.cli.marked import marked, policy_rows_shown
    from selfjudge.data.rows import judgment_rows
    from selfjudge.templates.encode import JudgmentEncoder
    from selfjudge.templates.template import load_templates

    encoder = JudgmentEncoder(load_templates(template), chat)
    rows = policy_rows_shown(record, chat)
    if record.principle in encoder.principles:
        rows += [("Judgment row, chosen first", judgment_rows(record, encoder)[0])]
    console = Console()
    tokenizer = model or "the built-in ChatML tokenizer (--model names yours)"
    shown = f"\nRecord {record.id}, rendered with {tokenizer}; the target stands between » and «."
    console.print(shown, style="dim", markup=False, soft_wrap=True)
    for title, row in rows:
        console.print(f"\n{title} ({len(row.ids)} tokens)", style="bold")
        console.print(Text(marked(row, chat)), soft_wrap=True)


def _print_too_long(records: Iterable[PreferenceRecord], chat: ChatEncoder, template: str, max_length: int) -> None:
    from selfjudge.data.inspect import count_rows
    from selfjudge.templates.encode import JudgmentEncoder
    from selfjudge.templates.template import load_templates

    policy, judgment = count_rows(records, chat, JudgmentEncoder(load_templates(template), chat), max_length)
    print_table(
        [
            (kind, f"{fit} fit, {dropped} would be dropped")
            for kind, (fit, dropped) in (("Policy rows", policy), ("Judgment rows", judgment))
        ],
        title=f"\nWithin {max_length} tokens",
    )
