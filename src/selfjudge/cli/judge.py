"""`selfjudge judge`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfjudge.cli.common import ColumnsOption, ModelOption, OverwriteOption, print_table, progress_bars
from selfjudge.cli.engines import EngineOptions, with_engine_options
from selfjudge.cli.resuming import ResumeOption, batches, beginning, digest_of, model_settings, resumable
from selfjudge.errors import DataError, TemplateError

if TYPE_CHECKING:
    from selfjudge.data.partial import PartialOutput
    from selfjudge.judge import Judge, Question
    from selfjudge.packed_questions import PackedQuestions
    from selfjudge.records import Comparison, Verdict


RationaleOption = Annotated[
    int | None,
    typer.Option("--rationale-tokens", min=1, help="Also generate why, in N tokens at most. Default: decide only."),
]


@with_engine_options
def judge(
    *,
    model: ModelOption,
    input: Annotated[Path, typer.Option(help="Pairs: prompt, response_a, response_b, optional label and id.")],
    columns: ColumnsOption = None,
    output: Annotated[Path, typer.Option(help="Verdicts, one JSON line per pair.")],
    dump_prompts: Annotated[Path | None, typer.Option(help="Write the exact token ids of every judgment.")] = None,
    rationale_tokens: RationaleOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    options: EngineOptions,
) -> None:
    """Judge pairs of responses in both orders.

    Writes per pair: id, preferred (A, B or tie), strength (0..1, for A), agree (both orders prefer the same),
    label_mass (probability on the two labels) and p, the four probabilities: order (AB shows response_a first) →
    label. With --adapter the adapted model judges. With --rationale-tokens also rationales: principle → text.
    """
    from selfjudge.data.columns import parse_columns
    from selfjudge.data.prompts import load_comparisons
    from selfjudge.evaluation.judging import Decision, summarise_decisions
    from selfjudge.packed_questions import PackedQuestions

    outputs = [output, *([dump_prompts] if dump_prompts else [])]
    began = beginning(outputs, [input, *options.files(model)], overwrite=overwrite, resume=resume)
    comparisons = load_comparisons(input, columns=parse_columns(columns))
    opened = options.open(model, began)
    start = time.perf_counter()
    the_judge = opened.judge(opened.engine)
    check = partial(_check_rationales, the_judge, tokens=rationale_tokens) if rationale_tokens else None
    packed = PackedQuestions(the_judge, comparisons, check)
    settings = {
        "--input": digest_of(comparisons),
        **model_settings(model, options, opened),
        "--template, --chat-template or tokenizer": packed.digest,
        "--rationale-tokens": rationale_tokens,
        "--dump-prompts": str(dump_prompts.resolve()) if dump_prompts else None,
    }
    with resumable(outputs, settings, len(comparisons), overwrite=overwrite, began=began) as out:
        before = out.rows
        todo = batches(packed.tokens, opened, before)
        _judge_batches(the_judge, packed, todo, out, rationale_tokens, dump=bool(dump_prompts))
    seconds = time.perf_counter() - start
    decisions = [Decision(*each) for note in out.notes for each in note]
    pace = [("Pairs/s", f"{(len(comparisons) - before) / seconds:.1f}")] if before < len(comparisons) else []
    print_table([*summarise_decisions(comparisons, decisions).rows(), *pace])


def _judge_batches(
    judge: Judge, packed: PackedQuestions, todo: list[range], out: PartialOutput, tokens: int | None, *, dump: bool
) -> None:
    from selfjudge.data.io import json_line
    from selfjudge.evaluation.judging import decision

    each = len(judge.encoder.principles)
    count = sum(map(len, todo))
    with progress_bars({"Judging": 2 * each * count, **({"Rationales": each * count} if tokens else {})}) as advance:
        for rows in todo:
            questions = packed.of(rows)
            verdicts = judge.verdicts(questions, advance[0])
            found = [_row(q.comparison, v) for q, v in zip(questions[:: 2 * each], verdicts, strict=True)]
            if tokens:
                told = judge.rationales(questions, verdicts, tokens, advance[1])
                found = [{**row, "rationales": texts} for row, texts in zip(found, told, strict=True)]
            files = [found, _dump(questions)] if dump else [found]
            lines = [[json_line(row) for row in file] for file in files]
            out.add(lines, len(rows), [decision(verdict) for verdict in verdicts])


def _row(comparison: Comparison, verdict: Verdict) -> dict[str, Any]:
    fields = {"preferred", "strength", "agree", "label_mass", "p"}
    return {"id": comparison.id, **verdict.model_dump(include=fields)}


def _check_rationales(judge: Judge, questions: list[Question], tokens: int) -> None:
    """Raises an error, before any long work, if no template has a rationale or one would not fit the context."""
    templates = judge.encoder.templates
    if not any(template.rationale for template in templates.templates):
        raise TemplateError(
            f"The template set {templates.name!r} has no [rationale] section: leave --rationale-tokens out, or use a "
            "model trained with one."
        )
    for question in questions:
        needed = len(question.prompt.token_ids) + 1 + tokens
        if needed > judge.engine.max_length:
            raise DataError(
                f"Row {question.comparison.id!r}: its judgment prompt and a rationale may take {needed} tokens, the "
                f"model takes {judge.engine.max_length}: lower --rationale-tokens, or shorten or remove the row."
            )


def _dump(questions: list[Question]) -> Iterator[dict[str, Any]]:
    for q in questions:
        yield {
            "id": q.comparison.id,
            "order": q.order,
            "principle": q.principle,
            "token_ids": q.prompt.token_ids,
            "label_ids": q.prompt.label_ids,
        }
