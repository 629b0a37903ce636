"""`selfjudge eval winrate`."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfjudge.cli.common import (
    BatchSizeOption,
    ChatTemplateOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    OverwriteOption,
    ReportOption,
    ThinkingOption,
    TokenBudgetOption,
    check_outputs,
    files_of,
    print_table,
    progress_bar,
    write_json,
)
from selfjudge.cli.engines import EngineOptions, OpenedEngine
from selfjudge.cli.evaluators import KINDS, checked_prompts, open_evaluator, uses_own_judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from selfjudge.data.eval_prompts import EvalPrompt
    from selfjudge.engines.base import SamplingParams
    from selfjudge.evaluation.evaluators import Evaluator
    from selfjudge.records import Comparison

WORLD = "builtin:world"

PromptsOption = Annotated[str, typer.Option(help="Prompts: prompt, instruction or turns; or builtin:world.")]
EvaluatorOption = Annotated[str, typer.Option(help=f"{KINDS}.")]
EvaluatorServerOption = Annotated[str | None, typer.Option(help="URL of the server that judge:MODEL is on.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="The first prompts only. builtin:world: 200.")]
CandidatesOption = Annotated[int, typer.Option(min=1, help="Above 1: answer by a tournament among so many.")]
SeedOption = Annotated[
    int, typer.Option(help="Each system has its own seed of samples and brackets, made of this one.")
]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
TopPOption = Annotated[float, typer.Option(min=0.001, max=1.0)]
DifficultyOption = Annotated[
    str | None, typer.Option(help="AlpacaEval's instruction_difficulty.csv: adds its length-controlled win rate.")
]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")]


def winrate(
    a: Annotated[str, typer.Option("--a", help="A model, or a file of its answers.")],
    b: Annotated[str, typer.Option("--b", help="What it is compared with: a model, or a file of answers.")],
    prompts: PromptsOption,
    evaluator: EvaluatorOption,
    evaluator_server: EvaluatorServerOption = None,
    limit: LimitOption = None,
    candidates: CandidatesOption = 1,
    seed: SeedOption = 0,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 0.9,
    max_new_tokens: MaxNewTokensOption = 768,
    difficulty: DifficultyOption = None,
    output: Annotated[Path | None, typer.Option(help="Folder for both sides' answers in AlpacaEval's format.")] = None,
    json_: JsonOption = None,
    report: ReportOption = None,
    thinking: ThinkingOption = "off",
    chat_template: ChatTemplateOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    token_budget: TokenBudgetOption = None,
    batch_size: BatchSizeOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Compare two systems on the same prompts: win rate with its interval, also without the advantage of length.

    A system is a model, sampled independently, or a file of answers (ours, AlpacaEval's, FastChat's, Arena-Hard's).
    """
    inputs = files_of(a, b, prompts, difficulty, chat_template)
    check_outputs(json_, report, *_output_files(output), overwrite=overwrite, inputs=inputs)
    asked = checked_prompts(prompts, limit, seed, evaluator, evaluator_server)
    difficulties = _difficulties(difficulty, asked)
    options = EngineOptions(
        chat_template=chat_template, dtype=dtype, device=device, token_budget=token_budget, batch_size=batch_size
    )
    if own := uses_own_judge(evaluator, a, b):
        warn_of_own_judge(evaluator)

    from selfjudge.data.eval_answers import write_alpaca_outputs
    from selfjudge.engines.base import SamplingParams
    from selfjudge.evaluation.winrate import pairs_of

    params = SamplingParams(candidates, temperature, top_p, max_new_tokens, seed)
    sampling = {**asdict(params), "thinking": thinking}
    answers = answers_of({"a": a, "b": b}, asked, params, replace(options, thinking=thinking).open).values()
    for path, side, texts in zip(_output_files(output), (a, b), answers, strict=False):
        write_alpaca_outputs(path, asked, texts, side)
    what = {"a": a, "b": b, "prompts": prompts, "evaluator": evaluator, "own_judge": own, "sampling": sampling}
    evaluate = open_evaluator(evaluator, asked, replace(options, server=evaluator_server).open)
    _finish(what | {"difficulty": difficulty}, pairs_of(asked, *answers), evaluate, difficulties, json_, report)


def warn_of_own_judge(evaluator: str) -> None:
    """Prints that the evaluator is the judge of one of the systems."""
    print(f"Warning: {evaluator} is the judge of a system that it evaluates: what it prefers is what that system "
          "was trained or chosen for, not evidence of quality.", file=sys.stderr)  # fmt: skip


def _difficulties(path: str | None, prompts: Sequence[EvalPrompt]) -> list[float] | None:
    from selfjudge.data.difficulty import load_difficulties

    return load_difficulties(path, prompts) if path else None


def _output_files(folder: Path | None) -> tuple[Path, ...]:
    return (folder / "a.json", folder / "b.json") if folder else ()


def answers_of(
    systems: Mapping[str, str],
    prompts: Sequence[EvalPrompt],
    params: SamplingParams,
    opened: Callable[[str], OpenedEngine],
) -> dict[str, list[str]]:
    """Returns name → answers of systems (name → file or model). Models are sampled independently, by their names."""
    return {name: _answers(source, prompts, params.seeded_for(name), opened) for name, source in systems.items()}


def _answers(
    side: str, prompts: Sequence[EvalPrompt], params: SamplingParams, opened: Callable[[str], OpenedEngine]
) -> list[str]:
    """Returns the answers of a system: those in its file, or of the model by that name."""
    from selfjudge.data.eval_answers import load_answers
    from selfjudge.data.raw import SUFFIXES
    from selfjudge.evaluation.answering import answer

    if side.endswith(SUFFIXES):
        return load_answers(side, prompts)
    model = opened(side)
    with progress_bar(f"Answering: {side}", sum(1 + len(p.later_turns) for p in prompts)) as advance:
        return answer(model.engine, model.chat, model.judge(model.base), prompts, params, advance)


def _finish(
    what: dict[str, Any],
    pairs: list[Comparison],
    evaluate: Evaluator,
    difficulties: list[float] | None,
    json_: Path | None,
    report: Path | None,
) -> None:
    from selfjudge.evaluation.page import write_page
    from selfjudge.evaluation.winrate import sections, win_rate

    scored = evaluate(pairs)
    found = win_rate(pairs, scored, difficulties)
    if json_:
        write_json(json_, what, found)
    if report:
        title = f"{what['a']} against {what['b']}"
        write_page(report, title, [*what.items()], sections(found, pairs, scored), overwrite=True)
    print_table(found.rows())
