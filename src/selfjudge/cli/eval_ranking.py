"""`selfjudge eval ranking`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    write_json,
)
from selfjudge.cli.engines import EngineOptions
from selfjudge.cli.eval_winrate import (
    CandidatesOption,
    EvaluatorOption,
    EvaluatorServerOption,
    LimitOption,
    MaxNewTokensOption,
    PromptsOption,
    SeedOption,
    TemperatureOption,
    TopPOption,
    answers_of,
    warn_of_own_judge,
)
from selfjudge.cli.evaluators import checked_prompts, open_evaluator, uses_own_judge

if TYPE_CHECKING:
    from selfjudge.data.eval_prompts import EvalPrompt
    from selfjudge.evaluation.evaluators import Evaluator


def ranking(
    system: Annotated[list[str], typer.Option(help="NAME=MODEL or NAME=FILE of its answers; again for each.")],
    prompts: PromptsOption,
    evaluator: EvaluatorOption,
    evaluator_server: EvaluatorServerOption = None,
    limit: LimitOption = None,
    candidates: CandidatesOption = 1,
    seed: SeedOption = 0,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 0.9,
    max_new_tokens: MaxNewTokensOption = 768,
    output: Annotated[
        Path | None, typer.Option(help="Folder for NAME.json, the answers in AlpacaEval's format.")
    ] = None,
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
    """Rank systems on the same prompts, sampled independently: Bradley-Terry scores, and each one's win rates."""
    systems = _systems(system)
    files = {name: output / f"{name}.json" for name in systems} if output else {}
    inputs = files_of(*systems.values(), prompts, chat_template)
    check_outputs(json_, report, *files.values(), overwrite=overwrite, inputs=inputs)
    asked = checked_prompts(prompts, limit, seed, evaluator, evaluator_server)

    from selfjudge.core.ranking import load_evalica
    from selfjudge.data.eval_answers import write_alpaca_outputs
    from selfjudge.engines.base import SamplingParams

    load_evalica()
    own = [name for name, source in systems.items() if uses_own_judge(evaluator, source)]
    if own:
        warn_of_own_judge(evaluator)
    options = EngineOptions(
        chat_template=chat_template, dtype=dtype, device=device, token_budget=token_budget, batch_size=batch_size
    )
    params = SamplingParams(candidates, temperature, top_p, max_new_tokens, seed)
    sampling = {**asdict(params), "thinking": thinking}
    answers = answers_of(systems, asked, params, replace(options, thinking=thinking).open)
    for name, path in files.items():
        write_alpaca_outputs(path, asked, answers[name], name)
    evaluate = open_evaluator(evaluator, asked, replace(options, server=evaluator_server).open)
    what = {"sources": systems, "prompts": prompts, "evaluator": evaluator, "own_judge_of": own}
    _finish({**what, "sampling": sampling}, asked, answers, evaluate, json_, report)


def _finish(
    what: dict[str, Any],
    prompts: Sequence[EvalPrompt],
    answers: Mapping[str, Sequence[str]],
    evaluate: Evaluator,
    json_: Path | None,
    report: Path | None,
) -> None:
    from selfjudge.evaluation.page import write_page
    from selfjudge.evaluation.ranking import rank, sections

    found = rank(prompts, answers, evaluate)
    if json_:
        write_json(json_, what, found)
    if report:
        # As text: the page takes the keys of a mapping for settings, and writes their underscores as spaces.
        sources = ", ".join(f"{name} = {source}" for name, source in what["sources"].items())
        facts = {**what, "sources": sources, "own_judge_of": ", ".join(what["own_judge_of"]) or None}
        write_page(report, f"Ranking of {len(answers)} systems", [*facts.items()], sections(found, prompts, answers),
                   overwrite=True)  # fmt: skip
    print_table([("Prompts", found.n), *([("Both orders agree", found.agreement)] if found.agreement else [])])
    _print_columns(found.table())
    # A matrix would be too wide for a terminal.
    print_table(found.pairs())


def _systems(options: Sequence[str]) -> dict[str, str]:
    """Returns name → model or file of two or more options --system."""
    found: dict[str, str] = {}
    for option in options:
        name, _, source = option.partition("=")
        if not re.fullmatch(r"\w[\w.+ -]*", name) or not source:
            raise typer.BadParameter(
                f"{option!r} is not NAME=MODEL or NAME=FILE, with a name of letters, digits, '.', '_', '+', '-'.",
                param_hint="--system",
            )
        if name in found:
            raise typer.BadParameter(f"two systems are named {name!r}.", param_hint="--system")
        found[name] = source
    if len(found) < 2:
        raise typer.BadParameter("give it twice or more, to rank two systems or more.", param_hint="--system")
    return found


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows beneath their head."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, title_justify="left", pad_edge=False)
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)
