"""What a study has found so far: its figures, read from the cells that are finished.

Every interval is over seeds and tasks together (:mod:`selfjudge.core.crossed`); of one seed alone, over tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from selfjudge.core.crossed import Scores, crossed_mean, crossed_rate, paired
from selfjudge.core.statistics import Estimate, Rate
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.study import ClaimSection
from selfjudge.study.cells import Cell, study_of
from selfjudge.study.curves import Curve, curves
from selfjudge.study.measure import ANSWERS, Answer, PerAnswer, read_answers

Decision = Literal["holds", "fails", "not shown", "not run"]
Answers = Mapping[int, Sequence[Answer]]
"""Seed → the answer to each of its prompts."""


class Figures(BaseModel):
    """A model's figures over all seeds. ``rate``: of all prompts or pairs together; ``seeds``: of each seed alone."""

    model_config = ConfigDict(frozen=True)

    name: str
    rate: Rate
    seeds: dict[int, Rate]
    words: Estimate | None = None
    value: Estimate | None = None


class CellCosts(BaseModel):
    """What training a cell took: the median of its seeds' processor seconds, the highest of their memory, the mean of
    their counts. ``with_start``: seconds with those of all cells that it builds on; the base model's are left out.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    seconds: float
    with_start: float
    peak_bytes: int
    steps: float | None = None
    stopped: int = 0
    models: int | None = None
    samples: float | None = None
    judgments: float | None = None


class Decided(BaseModel):
    """A claim of the recipe. ``difference``: mean score of the better less that of the worse, paired by prompt."""

    model_config = ConfigDict(frozen=True)

    claim: str
    decision: Decision
    difference: Estimate | None = None
    seeds: dict[int, float] = {}


class Summary(BaseModel):
    """All of a study. ``policies``: against the reference. ``choosing``: rule → candidates → figures.

    ``matrix``: how often the policy of the row beats that of the column, both in the order of ``policies``; None on the
    diagonal and where the evaluator knows no values. ``per_answer``: by the name of a system that chooses.
    """

    model_config = ConfigDict(frozen=True)

    reference: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...]
    policies: tuple[Figures, ...]
    judges: tuple[Figures, ...]
    choosing: dict[str, dict[int, Figures]]
    claims: tuple[Decided, ...]
    matrix: tuple[tuple[Rate | None, ...], ...]
    curves: tuple[Curve, ...]
    costs: tuple[CellCosts, ...]
    per_answer: dict[str, PerAnswer]


def summarise_study(recipe: Recipe, cells: Sequence[Cell]) -> Summary:
    """Returns the figures of the finished ones of the recipe's cells."""
    study = study_of(recipe)
    trained = [cell for cell in cells if cell.section is not None]
    done = [cell for cell in trained if cell.result.is_file()]
    results = {cell: json.loads(cell.result.read_text(encoding="utf-8")) for cell in done}
    answers = answers_of(done)
    judged = _by_name({c: [*map(tuple, r["judge"]["right"])] for c, r in results.items() if "judge" in r})
    most = [f"{rule} of {max(study.candidates)}" for rule in ("tournament", "best by reward")]
    compared = [name for name in answers if not _rule_of(name) or name in most]
    scores = {name: _scores(of) for name, of in answers.items()}
    choosing: dict[str, dict[int, Figures]] = {}
    for (rule, n), name in sorted((found, name) for name in answers if (found := _rule_of(name))):
        choosing.setdefault(rule, {})[n] = _policy(name, answers[name])
    policies = sorted((_policy(name, answers[name]) for name in compared), key=lambda f: -f.rate.rate)
    return Summary(
        reference=study.reference,
        seeds=tuple(dict.fromkeys(cell.seed for cell in trained)),
        missing=tuple(f"seed {cell.seed}, {cell.name}" for cell in trained if cell not in results),
        policies=tuple(policies),
        judges=tuple(sorted((_figures(n, right) for n, right in judged.items()), key=lambda f: -f.rate.rate)),
        choosing=choosing,
        claims=tuple(decide(claim, judged if claim.of == "judge" else scores) for claim in study.claims),
        matrix=_matrix([answers[f.name] for f in policies]),
        curves=curves(done, recipe.self_training.stop),
        costs=_costs(results),
        per_answer=_per_answer(results),
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
    """Decides a claim that one is better than another, or with a margin that it is no worse.

    Both outcomes follow one rule. The claim holds if the 95 % interval of the paired difference lies above zero (above
    the negative margin) and so does the mean of every seed. It fails if interval and every seed lie below. Anything
    else is not shown.
    """
    text = f"{claim.better} > {claim.worse}" if claim.margin is None else f"{claim.better} no worse than {claim.worse}"
    if claim.margin is not None:
        text += f" by {100 * claim.margin:g} points"
    text += " (as judges)" if claim.of == "judge" else ""
    differences = paired(scores.get(claim.better, {}), scores.get(claim.worse, {}))
    if not differences:
        return Decided(claim=text, decision="not run")
    each = {seed: fmean(d for _, d in rows) for seed, rows in differences.items()}
    found = crossed_mean(differences)
    level = -(claim.margin or 0.0)
    decision: Decision = "not shown"
    if found.low > level and min(each.values()) > level:
        decision = "holds"
    elif found.high < level and max(each.values()) < level:
        decision = "fails"
    return Decided(claim=text, decision=decision, difference=found, seeds=each)


def _by_name(values: Mapping[Cell, Any]) -> dict[str, dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {}
    for cell, value in values.items():
        found.setdefault(cell.name, {})[cell.seed] = value
    return found


def _rule_of(name: str) -> tuple[str, int] | None:
    """Returns rule and N of ``RULE of N``, the name of a system that chooses."""
    rule, of, n = name.rpartition(" of ")
    return (rule, int(n)) if of and n.isdigit() else None


def _scores(answers: Answers) -> Scores:
    return {seed: [(a.task, a.score) for a in rows] for seed, rows in answers.items()}


def _figures(name: str, scores: Scores, **more: Any) -> Figures:
    seeds = {seed: crossed_rate({seed: rows}) for seed, rows in scores.items()}
    return Figures(name=name, rate=crossed_rate(scores), seeds=seeds, **more)


def _policy(name: str, answers: Answers) -> Figures:
    words = {seed: [(a.task, float(len(a.text.split()))) for a in rows] for seed, rows in answers.items()}
    values = {seed: [(a.task, a.value) for a in rows if a.value is not None] for seed, rows in answers.items()}
    value = crossed_mean(values) if any(values.values()) else None
    return _figures(name, _scores(answers), words=crossed_mean(words), value=value)


def _matrix(answers: Sequence[Answers]) -> tuple[tuple[Rate | None, ...], ...]:
    return tuple(tuple(_beats(row, column) if row is not column else None for column in answers) for row in answers)


def _beats(first: Answers, second: Answers) -> Rate | None:
    """Returns how often the first one's answers have the higher value; None where the evaluator knows none."""
    scores: dict[int, list[tuple[str, float]]] = {}
    for seed in first.keys() & second.keys():
        for x, y in zip(first[seed], second[seed], strict=True):
            if x.value is None or y.value is None:
                return None
            score = 0.5 if x.value == y.value else float(x.value > y.value)
            scores.setdefault(seed, []).append((x.task, score))
    return crossed_rate(scores) if scores else None


def _costs(results: Mapping[Cell, dict[str, Any]]) -> tuple[CellCosts, ...]:
    seconds = {(cell.seed, cell.name): result["seconds"] for cell, result in results.items()}
    whole = {cell: sum(seconds.get((cell.seed, name), 0.0) for name in _lineage(cell, results)) for cell in results}
    return tuple(_of_cell(name, of, _by_name(whole)[name]) for name, of in _by_name(results).items() if _trains(of))


def _trains(of: Mapping[int, dict[str, Any]]) -> bool:
    return any("costs" in result for result in of.values())


def _lineage(cell: Cell, cells: Mapping[Cell, Any]) -> set[str]:
    """Returns the cell and all that it builds on, each once."""
    sections = {other.name: other.section for other in cells if other.seed == cell.seed}
    found, waiting = set(), [cell.name]
    while waiting:
        name = waiting.pop()
        section = sections.get(name)
        if name not in found and section is not None:
            found.add(name)
            waiting += section.needs()
    return found


def _of_cell(name: str, results: Mapping[int, dict[str, Any]], whole: Mapping[int, float]) -> CellCosts:
    found = list(results.values())
    counted = [result["costs"] for result in found if "costs" in result]
    steps = [result["steps"] for result in found if "steps" in result]
    return CellCosts(
        name=name,
        seconds=median(result["seconds"] for result in found),
        with_start=median(whole.values()),
        peak_bytes=max(result["peak_bytes"] for result in found),
        steps=fmean(steps) if steps else None,
        stopped=sum(bool(result.get("stopped")) for result in found),
        models=counted[0]["models"] if counted else None,
        samples=fmean(c["samples"] for c in counted) if counted else None,
        judgments=fmean(c["judgments"] for c in counted) if counted else None,
    )


def _per_answer(results: Mapping[Cell, dict[str, Any]]) -> dict[str, PerAnswer]:
    """Returns what each system that chooses spends on an answer; of its seeds' seconds the median."""
    spent: dict[str, list[PerAnswer]] = {}
    for result in results.values():
        for name, row in result.get("per_answer", {}).items():
            spent.setdefault(name, []).append(PerAnswer.model_validate(row))
    return {
        name: rows[0].model_copy(update={"seconds": median(row.seconds for row in rows)})
        for name, rows in spent.items()
    }
