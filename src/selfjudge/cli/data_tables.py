"""What `selfjudge data inspect` prints of a source."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from selfjudge.recipes.section import BUILTIN_WORLD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfjudge.core.statistics import Rate
    from selfjudge.data.inspect import InspectReport
    from selfjudge.data.sources import Loaded
    from selfjudge.records import PreferenceRecord


def print_unused(loaded: Loaded) -> None:
    """Lists the columns and fields that no record has anything of."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not loaded.unused:
        return
    table = Table(title="\nNot used", box=None, title_justify="left", pad_edge=False)
    table.add_column("column or field", style="bold", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("such as", overflow="fold")
    for item in loaded.unused:
        table.add_row(escape(item.name), str(item.rows), escape(item.example))
    Console().print(table)


def print_lengths(report: InspectReport) -> None:
    """Prints percentiles of the lengths of prompts and responses."""
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


def print_repeats(report: InspectReport) -> None:
    """Prints how often pairs, prompts and system prompts repeat."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="\nRepeats", box=None, title_justify="left", pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, number, meaning in report.repeats.rows(report.records):
        table.add_row(name, str(number), escape(meaning))
    Console().print(table)


def print_label_bias(report: InspectReport, first: Rate | None) -> None:
    """Prints what the labels go with besides quality; ``first``: how often the first response is the better one."""
    from rich.console import Console
    from rich.table import Table

    looked = "" if report.bias_pairs == report.records else f" ({report.bias_pairs:,} of {report.records:,} pairs)"
    table = Table(title=f"\nWhat the labels go with{looked}", box=None, title_justify="left", pad_edge=False)
    table.add_column("the chosen response", style="bold")
    table.add_column("of the pairs that differ", justify="right")
    table.add_column("pairs", justify="right")
    for name, rate in {**report.label_bias, **({"is A": first} if first else {})}.items():
        table.add_row(name, str(rate) if rate.n else "–", str(rate.n))
    Console().print(table)


def print_personal(source: str, records: Sequence[PreferenceRecord]) -> None:
    """Warns of personal data, or says that it could not be looked for."""
    from rich.console import Console

    from selfjudge.data.personal_sample import personal_data
    from selfjudge.errors import MissingExtraError

    if source == BUILTIN_WORLD:
        return
    console = Console()
    try:
        found = personal_data(records)
    except MissingExtraError as error:
        text = f"\nPersonal data was not looked for. {error}"
        console.print(text, style="yellow", markup=False, soft_wrap=True)
        return
    looked = f"{found.sampled} of {len(records)} records looked through, not for names"
    if found.records:
        kinds = ", ".join(f"{kind} {n}" for kind, n in found.kinds.items())
        advice = f"selfjudge data anonymize {quote(source)} --output FILE"
        text = f"\nPersonal data in {found.records} records ({kinds}; {looked}): {advice}"
        console.print(text, style="yellow", markup=False, soft_wrap=True)
    else:
        console.print(f"\nNo personal data found ({looked}).", markup=False, soft_wrap=True)
