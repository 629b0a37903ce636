"""The demo: the whole road in the small world, measured against its true utility.

    base model → JSFT → self-training with soft labels, and with hard labels to compare → tournament → report

Everything it reports is computed in the run. The truth only measures; no training step and no stop rule sees it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfjudge.core.statistics import Rate
from selfjudge.data.io import read_jsonl, write_json
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.evaluation.base_model import pretrain_world_model
from selfjudge.evaluation.demo_measures import CANDIDATES, Measured, Policies, measure
from selfjudge.evaluation.report import write_report
from selfjudge.evaluation.world import CurvePoint, TruthCurve
from selfjudge.judge import Judge
from selfjudge.recipes.load import load_recipe
from selfjudge.recipes.schema import Recipe, StopSection
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft import run_jsft
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training
from selfjudge.training.stop import fires_at
from selfjudge.world.people import prompts as world_prompts

CURVE_PROMPTS = 200
CURVE_EVERY = 20

_console = Console()


def run_demo(output_dir: str | Path, seed: int = 0, *, resume: bool = False) -> Path:
    """Runs the demo and returns its folder, which then holds ``results.json`` and ``report.html``.

    With ``resume`` it goes on with one that was interrupted: finished parts are left, the stage that was under way goes
    on from its last checkpoint.

    Raises:
        RunError: if the folder is not empty; with ``resume``, if it holds no unfinished demo of this seed.
    """
    recipe = load_recipe("demo", [f"seed={seed}"])
    run = RunFolder.open(output_dir, "demo", recipe, resume=resume)
    _console.print("[bold]1/5[/bold] A base model: the small world's text, without labels")
    base = run.path / "base"
    recipe.model.path = str(base if base.exists() else pretrain_world_model(base, seed))
    _console.print("[bold]2/5[/bold] JSFT: one model learns to answer and to judge, from preference pairs")
    jsft = RunFolder.finished(run.path / "jsft") or run_jsft(recipe, run.path / "jsft", resume=resume)
    judge = _judge(jsft.model, recipe)
    params = _params(recipe, seed)
    for number, labels in ((3, "soft"), (4, "hard")):
        _console.print(f"[bold]{number}/5[/bold] Self-training on its own verdicts, {labels} labels")
        if RunFolder.finished(run.path / labels) is None:
            _self_train(recipe, run.path, labels, judge, params, resume=resume)
    _console.print("[bold]5/5[/bold] Tournaments, and everything measured against the truth")
    soft, hard = (_engine(run.path / labels) for labels in ("soft", "hard"))
    found = measure(Policies(judge.engine, soft, hard, judge), recipe, params)  # type: ignore[arg-type]
    seconds = (datetime.now(UTC) - datetime.fromisoformat(run.info["started"])).total_seconds()
    write_json(run.path / "details.json", _details(found, recipe, run.path))
    write_json(run.path / "results.json", _results(found.rates, seconds))
    run.finish()
    report = write_report(run.path, run.path / "report.html")
    _print_results(found.rates, seconds, report)
    return run.path


def _self_train(
    recipe: Recipe, folder: Path, labels: str, judge: Judge, params: SamplingParams, *, resume: bool
) -> None:
    """Self-trains into ``folder/labels`` and writes the curve of true win rate and judge's belief beside it.

    The soft run obeys the recipe's stop rule; the hard run goes on, to show what the rule prevents.
    """
    recipe = recipe.model_copy(deep=True)
    recipe.self_training.labels = labels  # type: ignore[assignment]
    recipe.self_training.start = str(folder / "jsft")
    if labels == "hard":
        recipe.self_training.stop = StopSection()
    prompts = world_prompts(CURVE_PROMPTS, recipe.seed, "curves")
    logs = RunFolder(folder / labels, "train", {})

    def write(point: CurvePoint) -> None:
        logs.append("curve.jsonl", point.row())

    curve = TruthCurve(judge.engine, judge, prompts, params, CURVE_EVERY, write)  # type: ignore[arg-type]
    run_self_training(recipe, folder / labels, resume=resume, callbacks=[curve])


def _details(found: Measured, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Returns what the report shows beside the curves."""
    return {
        **found.details,
        "rates": {name: rate.model_dump() for name, rate in found.rates.items()},
        "differences": {name: difference.model_dump() for name, difference in found.differences.items()},
        "stops": {labels: _stop(folder / labels, recipe.self_training.stop) for labels in ("soft", "hard")},
    }


def _stop(run: Path, limits: StopSection) -> dict[str, Any] | None:
    """Returns where the stop rule ended a run, or would have."""
    found = fires_at((row for _, row in read_jsonl(run / "metrics.jsonl")), limits)
    return {"step": found[0], "reason": found[1]} if found else None


def _engine(model: Path) -> TransformersEngine:
    loaded = load_model(model)
    return TransformersEngine(loaded.model, loaded.chat)


def _judge(model: Path, recipe: Recipe) -> Judge:
    loaded = load_model(model)
    engine = TransformersEngine(loaded.model, loaded.chat, token_budget=recipe.judge.token_budget)
    return Judge(engine, JudgmentEncoder(load_templates(recipe.templates.set), loaded.chat))


def _params(recipe: Recipe, seed: int) -> SamplingParams:
    rollout = recipe.self_training.rollout
    return SamplingParams(
        temperature=rollout.temperature, top_p=rollout.top_p, max_new_tokens=rollout.max_new_tokens, seed=seed
    )


def _results(rates: dict[str, Rate], seconds: float) -> dict[str, Any]:
    versus = {
        name: {"win_rate": rates[name].rate, "low": rates[name].low, "high": rates[name].high, "n": rates[name].n}
        for name in ("selfjudge_vs_jsft", "tournament_vs_single")
    }
    return {
        "seconds": seconds,
        "judge_accuracy": rates["judge_accuracy"].rate,
        "order_agreement": rates["order_agreement"].rate,
        **versus,
    }


def _print_results(rates: dict[str, Rate], seconds: float, report: Path) -> None:
    names = {
        "selfjudge_vs_jsft": "Self-trained policy beats its JSFT start",
        "hard_vs_jsft": "… trained on hard labels",
        "tournament_vs_single": f"JSFT model: tournament of {CANDIDATES} beats one sample",
        "selfjudge_tournament_vs_single": "… the same for the self-trained policy",
        "judge_accuracy_all": "Judge is right",
        "longer_wins_all": "… 'the longer wins' on the same pairs",
        "order_agreement_all": "… both orders agree on them",
        "labels_right_all": "… and the labels it learnt from are right",
        "judge_accuracy": "Judge is right on clearly different pairs",
        "longer_wins": "… 'the longer wins' on the same pairs",
        "order_agreement": "… both orders agree on them",
        "labels_right": "… and labels of such pairs are right",
    }
    table = Table(title="Measured by the world's true utility", title_justify="left", box=None, pad_edge=False)
    for column, justify in (("", "left"), ("rate [95 % interval]", "right"), ("n", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, label in names.items():
        table.add_row(label, str(rates[name]), str(rates[name].n))
    _console.print(table)
    _console.print(f"{seconds:.0f} s. Report: {report}")
