"""`selfjudge eval audit`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfjudge.cli.common import (
    ColumnsOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
    ReportOption,
    check_outputs,
    print_table,
    progress_bar,
    write_json,
)
from selfjudge.cli.engines import EngineOptions, with_engine_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfjudge.records import Comparison, Verdict


@with_engine_options
def audit(
    *,
    model: ModelOption,
    input: Annotated[Path, typer.Option(help="Pairs, as for eval judge; labels are not needed.")],
    columns: ColumnsOption = None,
    json_: JsonOption = None,
    report: ReportOption = None,
    overwrite: OverwriteOption = False,
    options: EngineOptions,
) -> None:
    """Find out what a judge falls for: position, length, Markdown, names, hijack attempts, its own style."""
    check_outputs(json_, report, overwrite=overwrite, inputs=[input, *options.files(model)])

    from selfjudge.data.columns import parse_columns
    from selfjudge.data.judge_sets import load_judge_set
    from selfjudge.errors import DataError

    pairs = [pair.comparison for pair in load_judge_set(input, parse_columns(columns))]
    opened = options.open(model)

    from selfjudge.evaluation.audit import audit as run_audit
    from selfjudge.evaluation.audit import rows, sections
    from selfjudge.evaluation.own_style import mean_logprobs
    from selfjudge.evaluation.page import write_page

    judge = opened.judge(opened.engine)

    def judging(some: Sequence[Comparison]) -> list[Verdict]:
        questions = judge.questions(some)
        with progress_bar("Judging", len(questions)) as advance:
            return judge.verdicts(questions, advance)

    logprobs = getattr(opened.engine, "response_logprobs", None)
    familiarity = partial(mean_logprobs, opened.chat, logprobs, opened.engine.max_length) if logprobs else None
    found = run_audit(judge, pairs, judging, familiarity)
    if found is None:
        raise DataError("No pair fits the context of the judge: name a model that takes longer texts, or other pairs.")
    what = {"model": model, "input": str(input)}
    if json_:
        write_json(json_, what, found)
    if report:
        facts = [*what.items(), ("pairs", found.summary.pairs), ("left out", found.left_out)]
        write_page(report, f"Audit of {model}", facts, sections(found), overwrite=True)
    print_table(rows(found), title=f"{found.summary.pairs} pairs, left out: {found.left_out}")
