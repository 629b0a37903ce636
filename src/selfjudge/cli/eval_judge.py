"""`selfjudge eval judge`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from selfjudge.cli.engines import EngineOptions, OpenedEngine, with_engine_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfjudge.data.judge_sets import JudgePair
    from selfjudge.evaluation.judge_sets import Judged, JudgeEvaluation
    from selfjudge.records import Verdict


@with_engine_options
def judge(
    *,
    model: ModelOption,
    input: Annotated[list[Path], typer.Option(help="Labelled pairs; may be repeated.")],
    columns: ColumnsOption = None,
    against: Annotated[str | None, typer.Option(help="A second model, to judge the same pairs.")] = None,
    json_: JsonOption = None,
    report: ReportOption = None,
    overwrite: OverwriteOption = False,
    options: EngineOptions,
) -> None:
    """Measure a judge on labelled pairs: accuracy beside "the longer wins", calibration, orders, by subset.

    Takes judge files, RewardBench-style files (prompt, chosen, rejected, subset) and JudgeBench's own. With --against
    two models judge the same pairs and are compared by a paired test.
    """
    check_outputs(json_, report, overwrite=overwrite, inputs=[*input, *options.files(model)])
    if against is not None and (options.server is not None or options.engine != "transformers"):
        raise typer.BadParameter("only with the engine transformers, not with --server.", param_hint="--against")

    from selfjudge.data.columns import parse_columns
    from selfjudge.data.judge_sets import load_judge_set

    theirs = parse_columns(columns)
    pairs = [pair for path in input for pair in load_judge_set(path, theirs)]
    first = _verdicts(options.open(model), pairs)
    second = _verdicts(replace(options, adapter=None).open(against), pairs) if against else None
    names = {"model": model, "against": against, "input": [str(path) for path in input]}
    _finish(names, pairs, _judged(pairs, first, second), json_, report)


def _verdicts(opened: OpenedEngine, pairs: Sequence[JudgePair]) -> list[Verdict | None]:
    """Returns the verdict on each pair, None where it does not fit the judge's context.

    Raises:
        DataError: if none fits.
    """
    from selfjudge.errors import DataError

    judge = opened.judge(opened.engine)
    asked = judge.fitting([pair.comparison for pair in pairs])
    if not any(asked):
        raise DataError("No pair fits the context of the judge: name a model that takes longer texts, or other pairs.")
    questions = [question for each in asked for question in each]
    with progress_bar("Judging", len(questions)) as advance:
        found = iter(judge.verdicts(questions, advance))
    return [next(found) if each else None for each in asked]


def _judged(
    pairs: Sequence[JudgePair], first: Sequence[Verdict | None], second: Sequence[Verdict | None] | None
) -> Judged:
    """Returns the pairs that every judge could take."""
    from selfjudge.errors import DataError
    from selfjudge.evaluation.judge_sets import Judged

    rows = [row for row in zip(pairs, first, second or first, strict=True) if row[1] and row[2]]
    if not rows:
        raise DataError("No pair fits the context of both judges: name models that take longer texts, or other pairs.")
    kept, verdicts, against = (list(column) for column in zip(*rows, strict=True))
    return Judged(kept, verdicts, against if second else None)


def _finish(
    names: dict[str, Any], pairs: Sequence[JudgePair], judged: Judged, json_: Path | None, report: Path | None
) -> None:
    from selfjudge.evaluation.judge_sets import evaluate_judge

    evaluation = evaluate_judge(judged, len(pairs) - len(judged.pairs))
    if json_:
        write_json(json_, names, evaluation)
    if report:
        _write_report(report, names, judged, evaluation)
    _print(evaluation)


def _write_report(output: Path, names: dict[str, Any], judged: Judged, evaluation: JudgeEvaluation) -> None:
    from selfjudge.evaluation.judge_sets import sections
    from selfjudge.evaluation.page import write_page

    facts = [
        ("Judge", names["model"]),
        *([("Against", names["against"])] if names["against"] else []),
        ("Pairs from", ", ".join(names["input"])),
        ("Left out: longer than the context", evaluation.left_out),
    ]
    write_page(output, f"Judge {names['model']}", facts, sections(judged, evaluation), overwrite=True)


def _print(evaluation: JudgeEvaluation) -> None:
    from selfjudge.evaluation.judge_sets import paired_section

    if evaluation.left_out:
        print(f"Left out: {evaluation.left_out} pairs that are longer than the context.")
    print_table(evaluation.overall.rows())
    if evaluation.second:
        print_table(evaluation.second.rows(), title="Against")
    if evaluation.paired:
        section = paired_section(evaluation.paired)
        print_table([(str(name), value) for name, value in section.table[1:]], title=section.title)
    if len(evaluation.subsets) > 1:
        rows = [(name, s.accuracy or "no pair labelled A or B") for name, s in evaluation.subsets.items()]
        print_table(rows, title="Accuracy by subset")
