"""What a study says of its finished cells: figures, claims, curves, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from studies import CELLS, study_recipe, written

from selfjudge.core.statistics import Rate
from selfjudge.recipes.schema import Recipe, StopSection
from selfjudge.recipes.study import ClaimSection
from selfjudge.study.cells import Cell, plan_cells
from selfjudge.study.curves import curve_rows, curves
from selfjudge.study.page import sections
from selfjudge.study.results import raw_figures
from selfjudge.study.summary import Decided, decide, summarise_study
from selfjudge.study.tune import Tried, Tuned

Scores = dict[int, list[float]]


@pytest.fixture
def recipe() -> Recipe:
    return study_recipe()


def decided(a: Scores, b: Scores, margin: float | None = None) -> Decided:
    claim = ClaimSection(better="a", worse="b", margin=margin)
    with_tasks = [{seed: [(f"t{i % 40}", x) for i, x in enumerate(xs)] for seed, xs in side.items()} for side in (a, b)]
    return decide(claim, dict(zip("ab", with_tasks, strict=True)))


WINS, LOSSES, EVEN = [1.0] * 60 + [0.0] * 20, [0.0] * 60 + [1.0] * 20, [0.5] * 80


def test_holds_and_fails_follow_one_rule() -> None:
    same = dict.fromkeys(range(1, 6), EVEN)
    up, down = dict.fromkeys(same, WINS), dict.fromkeys(same, LOSSES)
    assert decided(up, same).decision == "holds"
    assert decided(down, same).decision == "fails"
    # One seed of five points the other way: neither holds nor fails, though the mean is clear.
    assert decided({**up, 5: [0.5] * 79 + [0.0]}, same).decision == "not shown"
    assert decided({**down, 5: [0.5] * 79 + [1.0]}, same).decision == "not shown"
    # All seeds point the same way, but so differently that five seeds do not show it.
    spread = {seed: [0.5 + d] * 80 for seed, d in zip(same, (0.01, 0.02, 0.01, 0.3, 0.02), strict=True)}
    assert decided(spread, same).decision == "not shown"
    assert decided({1: [0.0, 1.0] * 39 + [0.0] * 2, 2: EVEN}, {1: EVEN, 2: EVEN}).decision == "not shown"
    assert decided({1: WINS}, {2: EVEN}).decision == "not run"


def test_the_difference_is_of_the_seeds_that_both_have() -> None:
    found = decided({1: WINS, 2: EVEN, 3: WINS}, {1: EVEN, 2: EVEN})
    assert found.difference.value == pytest.approx(0.125)  # half of the prompts a quarter better
    assert found.seeds == {1: 0.25, 2: 0.0}


def test_seeds_are_units_as_prompts_are() -> None:
    # The leads of three seeds, of 400 prompts each: prompts alone would make +4.9 points [2.5, 7.5] of it.
    leads = {0: 0.016, 1: 0.075, 2: 0.056}
    found = decided({s: [0.5 + d] * 400 for s, d in leads.items()}, {s: [0.5] * 400 for s in leads})
    assert found.decision == "not shown"
    assert (found.difference.low, found.difference.high) == (
        pytest.approx(-0.026, abs=0.002),
        pytest.approx(0.124, abs=0.002),
    )


def test_no_worse_has_a_margin_that_both_outcomes_respect() -> None:
    same = dict.fromkeys(range(1, 6), EVEN)

    def by(lead: float) -> dict[int, list[float]]:
        return {seed: [0.5 + lead + 0.001 * (seed - 3)] * 80 for seed in same}

    assert decided(by(-0.01), same, margin=0.02).decision == "holds"
    assert decided(by(-0.01), same).decision == "fails"
    assert decided(by(-0.05), same, margin=0.02).decision == "fails"
    assert decided(by(-0.02), same, margin=0.02).decision == "not shown"
    assert decided(by(-0.01), same, margin=0.02).claim == "a no worse than b by 2 points"


def test_a_summary_is_of_what_is_there_and_names_what_is_not(recipe: Recipe, tmp_path: Path) -> None:
    cells = plan_cells(recipe, [0, 1], tmp_path)
    by = {(cell.name, cell.seed): cell for cell in cells}
    for seed in (0, 1):
        written(by["sft", seed], ["x", "y", "z"], [0.0, 0.0, 0.0], costs={"models": 1, "samples": 0, "judgments": 0})
    judge = {"judge": {"right": [["t0", 1.0], ["t1", 0.0]]}, "steps": 8}
    judge["costs"] = {"models": 1, "samples": 4, "judgments": 0}
    written(by["jsft", 0], ["x x", "y", "z"], [1.0, 0.0, -1.0], **judge)
    written(by["jsft", 1], ["x x", "y", "z"], [1.0, 1.0, -1.0], **judge)
    costs = {"models": 2, "samples": 4, "judgments": 4}
    written(by["self", 0], ["x x", "y y", "z"], [2.0, 1.0, 0.0], stopped="kl", steps=3, costs=costs)
    spent = {f"tournament of {n}": {"samples": n, "judgments": 2 * n - 2, "seconds": 0.1 * n} for n in (1, 2)}
    for n in (1, 2):
        answers = f"answers/tournament of {n}.jsonl"
        written(by["again", 0], ["x", "y", "z"], [float(n), 0.0, 0.0], file=answers, per_answer=spent)
    recipe.study.claims = [ClaimSection(better="self", worse="jsft"), ClaimSection(better="self", worse="rlhf")]
    found = summarise_study(recipe, cells)
    policies = {p.name: p for p in found.policies}
    assert list(policies) == ["self", "tournament of 2", "jsft", "sft"]  # the best first
    assert policies["jsft"].rate.rate == pytest.approx((1 + 0.5 + 0 + 1 + 1 + 0) / 6)
    assert {seed: rate.rate for seed, rate in policies["jsft"].seeds.items()} == {0: 0.5, 1: pytest.approx(2 / 3)}
    assert policies["jsft"].words.value == pytest.approx(4 / 3)
    assert policies["jsft"].value.value == pytest.approx(1 / 6)
    assert {n: f.rate.rate for n, f in found.choosing["tournament"].items()} == {1: 2 / 3, 2: 2 / 3}
    assert found.per_answer["tournament of 2"].judgments == 2
    (judged,) = found.judges
    assert (judged.name, judged.rate.rate, judged.rate.n) == ("jsft", 0.5, 4)
    assert [c.decision for c in found.claims] == ["not shown", "not run"]
    assert found.claims[0].difference.value == pytest.approx(1 / 3)  # of the seed that both have
    costs_of = {c.name: c for c in found.costs}
    assert (costs_of["jsft"].seconds, costs_of["jsft"].peak_bytes, costs_of["jsft"].samples) == (15.0, 2**31, 4)
    assert (costs_of["self"].stopped, costs_of["self"].steps) == (1, 3)
    assert costs_of["self"].with_start == 20.0  # its own 10 seconds and those of jsft with the same seed
    named = [f"seed {s}, {n}" for s in (0, 1) for n in CELLS if not by[n, s].result.is_file()]
    assert found.missing == tuple(named)
    place = [f.name for f in found.policies].index
    assert found.matrix[place("self")][place("jsft")].rate == pytest.approx(1.0)  # 2 > 1, 1 > 0 and 0 > -1
    assert found.matrix[place("jsft")][place("self")].rate == pytest.approx(0.0)
    assert found.matrix[place("self")][place("self")] is None
    titles = [section.title for section in sections(found, cells, {"sft": tuned()})]
    assert titles[:2] == ["Missing cells", "Learning rates"]
    assert {"Claims", "Judges", "Choosing among N", "Costs of training", "The first prompts"} <= {*titles}
    claims = next(section for section in sections(found, cells, {}) if section.title == "Claims")
    assert claims.text.startswith("2 claims were tested.")


def tuned() -> Tuned:
    tried = [
        Tried(rate=rate, score=Rate(rate=score, low=score - 0.1, high=score + 0.1, n=800), seconds=3.0)
        for rate, score in ((1e-4, 0.51234567), (2e-4, 0.62), (4e-4, 0.6))
    ]
    return Tuned(cell="sft", by="answers", tried=tuple(tried), failed=(8e-4,))


def test_raw_figures_name_every_rate_and_seed(recipe: Recipe, tmp_path: Path) -> None:
    cells = plan_cells(recipe, [0], tmp_path, ["sft"])
    written(cells[1], ["x", "y", "z"], [1.0, 0.0, 0.0])
    raw = json.loads(json.dumps(raw_figures(summarise_study(recipe, cells), {"sft": tuned()})))
    assert raw["tuning"]["sft"]["best"] == 0.0002
    assert raw["tuning"]["sft"]["rates"]["0.0001"] == {
        "rate": 0.51235, "low": 0.41235, "high": 0.61235, "n": 800, "seconds": 3.0
    }  # fmt: skip
    assert raw["tuning"]["sft"]["failed"] == ["0.0008"]
    assert raw["results"]["sft"]["0"]["rate"] == 0.66667
    assert raw["results"]["sft"]["all"]["n"] == 3
    assert raw["values"]["sft"]["value"] == 0.33333


def watched(cell: Cell, truth: list[float], kl: list[float] | None = None) -> None:
    written(cell, ["x"], [0.0])
    (cell.folder / "run").mkdir()
    rows = [{"step": 20 * i, "truth": {"rate": t}, "belief": None, "words": 3} for i, t in enumerate(truth)]
    log = [{"step": i + 1, "kl": x, "rollout/length": 4.0} for i, x in enumerate(kl or [])]
    for file, lines in (("curve.jsonl", rows), ("metrics.jsonl", log)):
        (cell.folder / "run" / file).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_fall_is_shown_by_the_seeds(recipe: Recipe, tmp_path: Path) -> None:
    cells = [c for c in plan_cells(recipe, [0, 1, 2], tmp_path, ["sft"]) if c.section]
    for cell, last in zip(cells, (0.62, 0.60, 0.61), strict=True):
        watched(cell, [0.5, 0.7 + 0.01 * cell.seed, last], kl=[0.1 * cell.seed] * 20)
    (curve,) = curves(cells, StopSection(max_kl=0.15, window=5))
    assert [point.step for point in curve.points] == [0, 20, 40]
    assert curve.points[1].truth.value == pytest.approx(0.71)
    assert curve.points[1].seeds == pytest.approx({0: 0.7, 1: 0.71, 2: 0.72})
    assert curve.peak == 20
    # Falls of .08, .11 and .11: mean .10, standard deviation .0173, t of two degrees of freedom 4.303.
    assert curve.fall.value == pytest.approx(0.1)
    assert curve.fall.high - curve.fall.value == pytest.approx(4.303 * 0.017321 / 3**0.5, rel=1e-3)
    assert curve.falls
    # By mean KL over five steps: only the seed with .2 is over .15, as soon as the window is full.
    assert curve.stops == {0: None, 1: None, 2: 5}


def test_a_step_measured_twice_counts_once(recipe: Recipe, tmp_path: Path) -> None:
    (cell,) = (c for c in plan_cells(recipe, [0], tmp_path, ["sft"]) if c.section)
    written(cell, ["x"], [0.0])
    (cell.folder / "run").mkdir()
    rows: list[dict[str, Any]] = [{"step": 0, "words": 1}, {"step": 20, "words": 2}, {"step": 20, "words": 3}]
    (cell.folder / "run" / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curve_rows([cell], "sft") == {0: [rows[0], rows[2]]}
