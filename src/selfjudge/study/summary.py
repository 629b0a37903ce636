"""What a study has found so far: its figures, read from the cells that are finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from selfjudge.core.bootstrap import bootstrap_mean, bootstrap_rate
from selfjudge.core.ranking import Outcome, Ranking, rank_systems
from selfjudge.core.statistics import Estimate, Rate
from selfjudge.data.io import read_jsonl
from selfjudge.recipes.comparison import ClaimSection, StudySection
from selfjudge.study.cells import Cell
from selfjudge.study.measure import ANSWERS, Answer, read_answers

Scores = Mapping[int, Sequence[float]]
"""Seed → one score for each prompt or pair."""
Decision = Literal["holds", "fails", "not shown", "not run"]


class Figures(BaseModel):
    """A model's figures over all seeds. ``rate``: of all prompts or pairs together; ``seeds``: of each seed alone."""

    model_config = ConfigDict(frozen=True)

    name: str
    rate: Rate
    seeds: dict[int, float]
    words: Estimate | None = None
    value: Estimate | None = None


class CellCosts(BaseModel):
    """What a cell took: the median of its seeds' seconds, the highest of their memory, the mean of their counts."""

    model_config = ConfigDict(frozen=True)

    name: str
    seconds: float
    peak_bytes: int
    steps: float | None = None
    stopped: int = 0
    models: int | None = None
    samples: float | None = None
    judgments: float | None = None


class Decided(BaseModel):
    """A claim of the recipe. ``difference``: mean score of the better less that of the worse, paired."""

    model_config = ConfigDict(frozen=True)

    claim: str
    decision: Decision
    difference: Estimate | None = None
    seeds: dict[int, float] = {}


class Summary(BaseModel):
    """All of a study. ``policies``: against the reference. ``choosing``: rule → candidates → figures."""

    model_config = ConfigDict(frozen=True)

    reference: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...]
    policies: tuple[Figures, ...]
    judges: tuple[Figures, ...]
    choosing: dict[str, dict[int, Figures]]
    claims: tuple[Decided, ...]
    ranking: Ranking | None
    costs: tuple[CellCosts, ...]


def summarise_study(study: StudySection, cells: Sequence[Cell]) -> Summary:
    """Returns the figures of the finished ones of the cells."""
    done = [cell for cell in cells if cell.result.is_file()]
    results = {cell: json.loads(cell.result.read_text(encoding="utf-8")) for cell in done}
    answers = answers_of(done)
    judged = _by_name({cell: result["judge"]["right"] for cell, result in results.items() if "judge" in result})
    most = [f"{rule} of {max(study.candidates)}" for rule in ("tournament", "best by reward")]
    compared = [name for name in answers if not _rule_of(name) or name in most]
    scores = {name: {seed: [a.score for a in rows] for seed, rows in of.items()} for name, of in answers.items()}
    choosing: dict[str, dict[int, Figures]] = {}
    for (rule, n), name in sorted((found, name) for name in answers if (found := _rule_of(name))):
        choosing.setdefault(rule, {})[n] = _policy(name, answers[name])
    return Summary(
        reference=study.reference,
        seeds=tuple(dict.fromkeys(cell.seed for cell in cells)),
        missing=tuple(f"seed {cell.seed}, {cell.name}" for cell in cells if cell not in results),
        policies=tuple(_policy(name, answers[name]) for name in compared),
        judges=tuple(_figures(name, right) for name, right in judged.items()),
        choosing=choosing,
        claims=tuple(decide(claim, judged if claim.of == "judge" else scores) for claim in study.claims),
        ranking=_ranking({name: answers[name] for name in compared}),
        costs=tuple(_costs(name, found) for name, found in _by_name(results).items()),
    )


def answers_of(cells: Sequence[Cell]) -> dict[str, dict[int, list[Answer]]]:
    """Returns the answers of every system, seed by seed: of policies, and of rules that choose among candidates."""
    found: dict[str, dict[int, list[Answer]]] = {}
    for cell in cells:
        if (cell.folder / ANSWERS).is_file():
            found.setdefault(cell.name, {})[cell.seed] = read_answers(cell.folder / ANSWERS)
        for file in sorted((cell.folder / "answers").glob("*.jsonl")):
            found.setdefault(file.stem, {})[cell.seed] = read_answers(file)
    return found


def decide(claim: ClaimSection, scores: Mapping[str, Scores]) -> Decided:
    """Decides a claim that one is better than another.

    It holds if the better one's mean is higher on every seed, and the 95 % interval of the paired difference over the
    prompts of all seeds lies above zero; it fails if the interval lies below zero; else it is not shown.
    """
    text = f"{claim.better} > {claim.worse}" + (" (as judges)" if claim.of == "judge" else "")
    better, worse = scores.get(claim.better, {}), scores.get(claim.worse, {})
    shared = sorted(better.keys() & worse.keys())
    if not shared:
        return Decided(claim=text, decision="not run")
    differences = {seed: [x - y for x, y in zip(better[seed], worse[seed], strict=True)] for seed in shared}
    each = {seed: fmean(d) for seed, d in differences.items()}
    pooled = bootstrap_mean([x for d in differences.values() for x in d])
    decision: Decision = "not shown"
    if pooled.low > 0 and min(each.values()) > 0:
        decision = "holds"
    elif pooled.high < 0:
        decision = "fails"
    return Decided(claim=text, decision=decision, difference=pooled, seeds=each)


def curves(cells: Sequence[Cell], name: str) -> dict[int, list[dict[str, Any]]]:
    """Returns the curve of a cell, seed by seed; a step that was measured again after an interruption counts once."""
    found = {}
    for cell in cells:
        file = cell.folder / "run" / "curve.jsonl"
        if cell.name == name and cell.result.is_file() and file.is_file():
            rows = [row for _, row in read_jsonl(file)]
            found[cell.seed] = [row for _, row in sorted({row["step"]: row for row in rows}.items())]
    return found


def kl_curve(run: Path) -> dict[int, float]:
    """Returns step → KL to the reference in nats per response, where the method logs it."""
    return {row["step"]: row["kl"] for _, row in read_jsonl(run / "metrics.jsonl") if "kl" in row}


def _by_name(values: Mapping[Cell, Any]) -> dict[str, dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {}
    for cell, value in values.items():
        found.setdefault(cell.name, {})[cell.seed] = value
    return found


def _rule_of(name: str) -> tuple[str, int] | None:
    """Returns rule and N of ``RULE of N``, the name of a system that chooses."""
    rule, of, n = name.rpartition(" of ")
    return (rule, int(n)) if of and n.isdigit() else None


def _figures(name: str, scores: Scores, **more: Any) -> Figures:
    return Figures(
        name=name,
        rate=bootstrap_rate([x for row in scores.values() for x in row]),
        seeds={seed: fmean(row) for seed, row in scores.items()},
        **more,
    )


def _policy(name: str, answers: Mapping[int, Sequence[Answer]]) -> Figures:
    rows = [a for of_seed in answers.values() for a in of_seed]
    values = [a.value for a in rows if a.value is not None]
    return _figures(
        name,
        {seed: [a.score for a in of_seed] for seed, of_seed in answers.items()},
        words=bootstrap_mean([float(len(a.text.split())) for a in rows]),
        value=bootstrap_mean(values) if values else None,
    )


def _ranking(answers: Mapping[str, Mapping[int, Sequence[Answer]]]) -> Ranking | None:
    """Returns every system against every other by their answers' values; None where the evaluator knows none."""
    outcomes = []
    names = list(answers)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            for seed in answers[a].keys() & answers[b].keys():
                for x, y in zip(answers[a][seed], answers[b][seed], strict=True):
                    if x.value is None or y.value is None:
                        return None
                    score = 0.5 if x.value == y.value else float(x.value > y.value)
                    outcomes.append(Outcome(prompt=f"{seed}:{x.id}", a=a, b=b, score=score))
    return rank_systems(outcomes) if outcomes else None


def _costs(name: str, results: Mapping[int, dict[str, Any]]) -> CellCosts:
    found = list(results.values())
    counted = [result["costs"] for result in found if "costs" in result]
    steps = [result["steps"] for result in found if "steps" in result]
    return CellCosts(
        name=name,
        seconds=median(result["seconds"] for result in found),
        peak_bytes=max(result["peak_bytes"] for result in found),
        steps=fmean(steps) if steps else None,
        stopped=sum(bool(result.get("stopped")) for result in found),
        models=counted[0]["models"] if counted else None,
        samples=fmean(c["samples"] for c in counted) if counted else None,
        judgments=fmean(c["judgments"] for c in counted) if counted else None,
    )
