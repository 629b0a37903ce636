"""`selfjudge report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfjudge.cli.common import OverwriteOption, check_outputs


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of jsft, train, baseline or demo.")],
    output: Annotated[
        Path | None, typer.Option(help="Default: report.html in the run folder; of several runs it must be named.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw a run as one self-contained HTML page: settings, curves, judged pairs; for the demo its results too.

    Of several runs: what their recipes have different, and their curves in the same charts.
    """
    from selfjudge.evaluation.report import write_report
    from selfjudge.evaluation.runs_report import write_runs_report

    # The report inside the run folder is a view of the run, so drawing it again replaces it.
    read = [file for run in runs for file in run.glob("*.json*")]
    check_outputs(output, overwrite=overwrite, inputs=read)
    if len(runs) == 1:
        print(write_report(runs[0], output or runs[0] / "report.html"))
        return
    if output is None:
        raise typer.BadParameter("name the file to write, as there are several runs.", param_hint="--output")
    print(write_runs_report(runs, output, overwrite=overwrite))
