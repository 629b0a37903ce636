"""The demo: the whole road in the small world, measured against its true utility.

    base model → JSFT → self-training with soft labels, and with hard labels to compare → tournament → report

Everything it reports is computed in the run. The truth only measures; no training step and no stop rule sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfjudge.core.statistics import Rate, proportion, reliability
from selfjudge.core.verdict import agreement_score, winner_strength
from selfjudge.data.io import read_jsonl, write_json
from selfjudge.data.load import prepare_data
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.evaluation.base_model import pretrain_world_model
from selfjudge.evaluation.report import write_report
from selfjudge.evaluation.world import (
    CurvePoint,
    JudgeAudit,
    TruthCurve,
    audit_judge,
    labelled_pairs,
    sample_texts,
    true_label,
    true_win_rate,
)
from selfjudge.judge import Judge, as_messages
from selfjudge.recipes.load import load_recipe
from selfjudge.recipes.schema import Recipe, StopSection
from selfjudge.records import Bracket
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.tournament import play
from selfjudge.training.jsft import run_jsft
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training
from selfjudge.training.stop import StepMeasure, StopRule
from selfjudge.world.people import prompts as world_prompts
from selfjudge.world.truth import utility

FRESH_PROMPTS = 800
CURVE_PROMPTS = 200
CURVE_EVERY = 20
CANDIDATES = 8
_SHOWN_SAMPLES = 6

_console = Console()


@dataclass(frozen=True)
class Policies:
    """The JSFT policy, the self-trained one, and the frozen judge (which is the JSFT model)."""

    jsft: TransformersEngine
    selfjudge: TransformersEngine
    judge: Judge


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
    trained = load_model(run.path / "soft")
    policies = Policies(judge.engine, TransformersEngine(trained.model, trained.chat), judge)  # type: ignore[arg-type]
    rates, details = _measure(policies, recipe, run.path, params)
    seconds = (datetime.now(UTC) - datetime.fromisoformat(run.info["started"])).total_seconds()
    write_json(run.path / "details.json", details)
    write_json(run.path / "results.json", _results(rates, seconds))
    run.finish()
    report = write_report(run.path, run.path / "report.html")
    _print_results(rates, seconds, report)
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
    prompts = world_prompts(CURVE_PROMPTS, recipe.seed + 1, "fresh")
    logs = RunFolder(folder / labels, "train", {})

    def write(point: CurvePoint) -> None:
        logs.append("curve.jsonl", point.row())

    curve = TruthCurve(judge.engine, judge, prompts, params, CURVE_EVERY, write)  # type: ignore[arg-type]
    run_self_training(recipe, folder / labels, resume=resume, callbacks=[curve])


def _measure(
    policies: Policies, recipe: Recipe, folder: Path, params: SamplingParams
) -> tuple[dict[str, Rate], dict[str, Any]]:
    """Returns the rates of the results, and the details that the report shows."""
    prompts = world_prompts(FRESH_PROMPTS, recipe.seed + 2, "fresh")
    several = SamplingParams(**{**params.__dict__, "n": CANDIDATES, "seed": params.seed + 1})
    before = sample_texts(policies.jsft, prompts, params)
    after = sample_texts(policies.selfjudge, prompts, params)
    winners, brackets, candidates = _tournament(policies.jsft, policies.judge, prompts, several)
    after_winners, _, _ = _tournament(policies.selfjudge, policies.judge, prompts, several)
    audit = audit_judge(policies.judge, labelled_pairs(prompts, candidates))
    single, jsft_single = [t[0] for t in after], [t[0] for t in before]
    assert audit.clear.accuracy is not None
    assert audit.clear.longer_wins is not None
    rates = {
        "selfjudge_vs_jsft": true_win_rate(prompts, single, jsft_single),
        "tournament_vs_single": true_win_rate(prompts, winners, jsft_single),
        "selfjudge_tournament_vs_single": true_win_rate(prompts, after_winners, single),
        "judge_accuracy": audit.clear.accuracy,
        "longer_wins": audit.clear.longer_wins,
        "order_agreement": audit.clear.agreement,
        "labels_right": _labels_right(recipe),
    }
    shown = range(_SHOWN_SAMPLES)
    details = {
        "n": CANDIDATES,
        "rates": {name: rate.model_dump() for name, rate in rates.items()},
        "reliability": [b.model_dump() for b in _reliability(audit)],
        "stops": {labels: _stop_step(folder / labels, recipe.self_training.stop) for labels in ("soft", "hard")},
        "bracket": _bracket(prompts[0], candidates[0], brackets[0]),
        "samples": [_sample_row(prompts[i], jsft_single[i], winners[i], single[i]) for i in shown],
    }
    return rates, details


def _tournament(
    policy: TransformersEngine, judge: Judge, prompts: Sequence[str], params: SamplingParams
) -> tuple[list[str], list[Bracket], list[list[str]]]:
    candidates = sample_texts(policy, prompts, params)
    brackets = play(judge, [as_messages(p) for p in prompts], candidates, params.seed)
    return [texts[b.winner] for texts, b in zip(candidates, brackets, strict=True)], brackets, candidates


def _labels_right(recipe: Recipe) -> Rate:
    """Returns how often the people's label in the training data names the response of larger utility."""
    records = prepare_data(recipe.data, recipe.seed).judgment
    labels = [true_label(r.prompt[-1].content, r.chosen, r.rejected) for r in records]
    return proportion(labels.count("A"), len(labels) - labels.count("tie"))


def _reliability(audit: JudgeAudit) -> Iterable[Any]:
    pairs = [(v, c) for c, v in zip(audit.pairs, audit.verdicts, strict=True) if c.label != "tie"]
    strengths = [winner_strength(v.preferred, v.strength) for v, _ in pairs]
    return reliability(strengths, [agreement_score(v.preferred, c.label) for v, c in pairs])


def _stop_step(run: Path, limits: StopSection) -> dict[str, Any] | None:
    """Returns where the stop rule fires on a run's own log, or would have fired."""
    rule = StopRule(limits)
    for _, row in read_jsonl(run / "metrics.jsonl"):
        if "kl" in row:
            measure = StepMeasure(row["kl"], row["rollout/length"], 1 - row.get("rollout/disagreement_rate", 0.0))
            reason = rule.add(measure)
            if reason:
                return {"step": row["step"], "reason": reason}
    return None


def _bracket(prompt: str, candidates: Sequence[str], bracket: Bracket) -> dict[str, Any]:
    rounds: list[list[dict[str, Any]]] = []
    for match in bracket.matches:
        row: dict[str, Any] = {"a": match.a, "b": match.b, "winner": match.winner}
        for side in ("a", "b"):
            text = candidates[row[side]]
            row |= {f"text_{side}": text, f"utility_{side}": utility(prompt, text)}
        row |= match.verdict.model_dump(include={"preferred", "strength", "agree"})
        if match.round == len(rounds):
            rounds.append([])
        rounds[match.round].append(row)
    return {"prompt": prompt, "rounds": rounds}


def _sample_row(prompt: str, *answers: str) -> dict[str, Any]:
    return {"prompt": prompt, "answers": [{"text": text, "utility": utility(prompt, text)} for text in answers]}


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
        "tournament_vs_single": f"JSFT model: tournament of {CANDIDATES} beats one sample",
        "selfjudge_tournament_vs_single": "… the same for the self-trained policy",
        "judge_accuracy": "Judge is right on clearly different pairs",
        "longer_wins": "… 'the longer wins' on the same pairs",
        "order_agreement": "… both orders agree on them",
        "labels_right": "Labels it learnt from are right",
    }
    table = Table(title="Measured by the world's true utility", title_justify="left", box=None, pad_edge=False)
    for column, justify in (("", "left"), ("rate [95 % interval]", "right"), ("n", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, label in names.items():
        table.add_row(label, str(rates[name]), str(rates[name].n))
    _console.print(table)
    _console.print(f"{seconds:.0f} s. Report: {report}")
