"""Studies: which cells there are, what they cost, and how claims are decided. Training them is in tests/cli."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfjudge.errors import RecipeError, RunError, SelfJudgeError
from selfjudge.recipes.comparison import CellSection, ClaimSection, StudySection
from selfjudge.recipes.load import changed, load_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.study import compare
from selfjudge.study.cells import Cell, cell_recipe, plan_cells
from selfjudge.study.costs import Costs, costs
from selfjudge.study.measure import Answer
from selfjudge.study.page import sections
from selfjudge.study.summary import curves, decide, summarise_study

CELLS = {
    "sft": {"method": "sft"},
    "jsft": {"method": "jsft"},
    "self": {"method": "train", "set": ["self_training.labels=soft"]},
    "again": {"method": "train", "start": "self"},
    "reward": {"method": "dpo"},
    "reward-model": {"method": "reward-model"},
    "rlhf": {"method": "rlhf"},
}


@pytest.fixture
def recipe() -> Recipe:
    made = load_recipe("demo")
    made.study = StudySection.model_validate({"cells": CELLS, "limit": 3, "candidates": [1, 2]})
    return made


def names(cells: list[Cell]) -> list[str]:
    return [f"{cell.seed}/{cell.name}" for cell in cells]


def test_cells_come_seed_by_seed_with_what_they_need(recipe: Recipe, tmp_path: Path) -> None:
    cells = plan_cells(recipe, [4, 5], tmp_path)
    assert names(cells) == [f"{seed}/{name}" for seed in (4, 5) for name in CELLS]
    needs = {cell.name: cell.needs for cell in cells}
    assert needs["sft"] == ()
    assert needs["jsft"] == ("sft",)  # the reference's answers
    assert needs["again"] == ("self", "sft")
    assert needs["rlhf"] == ("sft", "reward-model")
    assert names(plan_cells(recipe, [0], tmp_path, ["again"])) == ["0/sft", "0/jsft", "0/self", "0/again"]
    with pytest.raises(RunError, match="no cell 'x' in demo: its cells are sft, jsft"):
        plan_cells(recipe, [0], tmp_path, ["x"])
    with pytest.raises(RunError, match="no study section"):
        plan_cells(load_recipe("demo"), [0], tmp_path)


def test_a_cell_starts_from_the_models_of_its_own_seed(recipe: Recipe, tmp_path: Path) -> None:
    found = {cell.name: cell_recipe(recipe, cell) for cell in plan_cells(recipe, [4], tmp_path)}
    seed = tmp_path / "seed-4"
    assert {r.seed for r in found.values()} == {4}
    assert found["jsft"].model.path == found["sft"].model.path == str(tmp_path / "base")
    assert found["reward-model"].baselines.start == str(seed / "sft" / "run")
    assert found["self"].self_training.start == str(seed / "jsft" / "run")
    assert found["self"].self_training.labels == "soft"
    assert found["again"].self_training.start == str(seed / "self" / "run")
    assert found["rlhf"].baselines.start == str(seed / "sft" / "run")
    assert found["rlhf"].baselines.reward == str(seed / "reward-model" / "run")
    assert recipe.seed == 0  # the study's own is left alone


def test_a_study_with_cells_that_cannot_be_run_is_refused() -> None:
    def refused(match: str, *overrides: str) -> None:
        with pytest.raises(RecipeError, match=match):
            changed(load_recipe("world-study"), overrides)

    refused("needs the cell jsft: put one", "study.cells={sft: {method: sft}, s: {method: train}}")
    refused("study.reference=sft must be", "study.cells={jsft: {method: jsft}}")
    refused("unknown key 'study.cells.sft.metod'; did you mean 'method'", "study.cells.sft.metod=sft")
    refused("unknown key 'study.cels'; did you mean 'cells'", "study.cels={}")


def test_a_bad_change_of_a_cell_is_found_before_anything_is_written(recipe: Recipe, tmp_path: Path) -> None:
    recipe.study.cells["again"].set = ["self_training.labls=hard"]
    with pytest.raises(RecipeError, match="did you mean 'labels'"):
        compare.run_study(recipe, [0], tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_prompts_and_evaluator_are_looked_for_first(recipe: Recipe, tmp_path: Path) -> None:
    def refused(match: str, **settings: str) -> None:
        recipe.study = StudySection.model_validate({"cells": CELLS, **settings})
        with pytest.raises(SelfJudgeError, match=match):
            compare.run_study(recipe, [0], tmp_path / "study")
        assert not (tmp_path / "study").exists()

    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Why is the sky blue?"}\n')
    refused("nowhere.jsonl", prompts="nowhere.jsonl")
    refused("sky blue", prompts=str(other))
    refused("nowhere", prompts=str(other), evaluator="reward:./nowhere/model")
    with pytest.raises(RecipeError, match=r"'study\.evaluator'"):
        changed(load_recipe("world-study"), ["study.evaluator=gpt-4"])


@pytest.mark.parametrize(
    ("section", "info", "expected"),
    [
        ({"method": "jsft"}, {"steps": 9}, Costs(models=1, samples=0, judgments=0)),
        ({"method": "dpo"}, {"steps": 9}, Costs(models=2, samples=0, judgments=0)),
        # 5 steps of 4 prompts, 2 samples of each, both orders, 3 principles
        ({"method": "train"}, {"steps": 5}, Costs(models=2, samples=40, judgments=120)),
        # The policy answers one of four prompts twice, and is judged in both orders: 5 * 2 and 5 * 2 * 3 more.
        ({"method": "offline"}, {"steps": 5}, Costs(models=2, samples=10, judgments=150)),
        ({"method": "off-policy"}, {"steps": 5, "prompts": 11}, Costs(models=2, samples=32, judgments=150)),
        ({"method": "rlhf"}, {"steps": 5}, Costs(models=3, samples=40, judgments=40)),
        ({"method": "rso"}, {"steps": 5, "prompts": 11}, Costs(models=2, samples=77, judgments=77)),
        ({"method": "raft"}, {"steps": 5}, Costs(models=2, samples=180, judgments=180)),
    ],
)
def test_costs(section: dict[str, Any], info: dict[str, Any], expected: Costs) -> None:
    settings = ["self_training.training.per_device_train_batch_size=4", "baselines.rso.candidates=7"]
    recipe = load_recipe("demo", [*settings, "baselines.raft.candidates=9"])
    assert costs(CellSection.model_validate(section), recipe, info, principles=3) == expected


def test_several_samples_and_steps_a_rollout_cost_more() -> None:
    settings = ["self_training.training.per_device_train_batch_size=4", "self_training.rollout={samples: 3, steps: 2}"]
    recipe = load_recipe("demo", [*settings, "self_training.lora={}"])
    # 3 steps are two rollouts of 8 prompts; of 3 samples 3 pairs are judged.
    found = costs(CellSection(method="train"), recipe, {"steps": 3}, principles=1)
    assert found == Costs(models=1, samples=48, judgments=96)


def test_a_claim_holds_only_if_every_seed_says_so() -> None:
    claim = ClaimSection(better="a", worse="b")
    wins, losses, even = [1.0] * 60 + [0.0] * 20, [0.0] * 60 + [1.0] * 20, [0.5] * 80
    same = {1: even, 2: even}

    def decided(a: dict[int, list[float]], b: dict[int, list[float]]) -> str:
        return decide(claim, {"a": a, "b": b}).decision

    assert decided({1: wins, 2: wins}, same) == "holds"
    assert decided({1: wins, 2: wins, 3: losses}, {**same, 3: even}) == "not shown"
    # Together clearly better, but not on each seed.
    assert decided({1: wins, 2: wins, 3: [0.5] * 79 + [0.0]}, {**same, 3: even}) == "not shown"
    assert decided({1: losses, 2: losses}, same) == "fails"
    assert decided({1: [0.0, 1.0] * 39 + [0.0] * 2, 2: even}, same) == "not shown"  # a little worse, by chance
    assert decided({1: even, 2: wins[:4]}, {1: even, 2: even[:4]}) == "not shown"
    assert decided({1: wins}, {2: even}) == "not run"
    found = decide(claim, {"a": {1: wins, 2: even}, "b": same})
    assert found.difference.value == pytest.approx(0.125)  # half of the prompts a quarter better
    assert found.seeds == {1: 0.25, 2: 0.0}


def written(cell: Cell, texts: list[str], values: list[float], file: str = "answers.jsonl", **result: Any) -> None:
    path = cell.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        Answer(id=str(i), prompt=f"p{i}", text=text, value=value, score=0.5 + 0.5 * ((value > 0) - (value < 0)))
        for i, (text, value) in enumerate(zip(texts, values, strict=True))
    ]
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    content = {"cell": cell.name, "seconds": 10.0 * (1 + cell.seed), "peak_bytes": 2**30 * (1 + cell.seed), **result}
    cell.result.write_text(json.dumps(content))


def test_a_summary_is_of_what_is_there_and_names_what_is_not(recipe: Recipe, tmp_path: Path) -> None:
    cells = plan_cells(recipe, [0, 1], tmp_path)
    by = {(cell.name, cell.seed): cell for cell in cells}
    for seed in (0, 1):
        written(by["sft", seed], ["x", "y", "z"], [0.0, 0.0, 0.0])
    judge = {"judge": {"right": [1.0, 0.0]}, "costs": {"models": 1, "samples": 4, "judgments": 0}, "steps": 8}
    written(by["jsft", 0], ["x x", "y", "z"], [1.0, 0.0, -1.0], **judge)
    written(by["jsft", 1], ["x x", "y", "z"], [1.0, 1.0, -1.0], **judge)
    written(by["self", 0], ["x x", "y y", "z"], [2.0, 1.0, 0.0], stopped="kl", steps=3)
    for n in (1, 2):
        written(by["again", 0], ["x", "y", "z"], [float(n), 0.0, 0.0], file=f"answers/tournament of {n}.jsonl")
    study = recipe.study
    study.claims = [ClaimSection(better="self", worse="jsft"), ClaimSection(better="self", worse="rlhf")]
    found = summarise_study(study, cells)
    policies = {p.name: p for p in found.policies}
    assert list(policies) == ["sft", "jsft", "self", "tournament of 2"]
    assert policies["jsft"].rate.rate == pytest.approx((1 + 0.5 + 0 + 1 + 1 + 0) / 6)
    assert policies["jsft"].seeds == {0: pytest.approx(0.5), 1: pytest.approx(2 / 3)}
    assert policies["jsft"].words.value == pytest.approx(4 / 3)
    assert policies["jsft"].value.value == pytest.approx(1 / 6)
    assert {n: f.rate.rate for n, f in found.choosing["tournament"].items()} == {1: 2 / 3, 2: 2 / 3}
    (judged,) = found.judges
    assert (judged.name, judged.rate.rate, judged.rate.n) == ("jsft", 0.5, 4)
    assert [c.decision for c in found.claims] == ["not shown", "not run"]
    assert found.claims[0].difference.value == pytest.approx(1 / 3)  # of the seed that both have
    costs_of = {c.name: c for c in found.costs}
    assert (costs_of["jsft"].seconds, costs_of["jsft"].peak_bytes, costs_of["jsft"].samples) == (15.0, 2**31, 4)
    assert (costs_of["self"].stopped, costs_of["self"].steps) == (1, 3)
    assert found.missing == tuple(f"seed {s}, {n}" for s in (0, 1) for n in CELLS if not by[n, s].result.is_file())
    rates = dict(zip([s.name for s in found.ranking.systems], found.ranking.rates, strict=True))
    places = {s.name: i for i, s in enumerate(found.ranking.systems)}
    assert rates["self"][places["jsft"]].rate == pytest.approx(1.0)  # 2 > 1, 1 > 0 and 0 > -1
    titles = [section.title for section in sections(found, cells)]
    assert titles[0] == "Missing cells"
    assert {"Claims", "Judges", "Choosing among N", "Costs", "The first prompts"} <= {*titles}


def test_a_step_measured_twice_counts_once(recipe: Recipe, tmp_path: Path) -> None:
    (cell,) = plan_cells(recipe, [0], tmp_path, ["sft"])
    written(cell, ["x"], [0.0])
    (cell.folder / "run").mkdir()
    rows = [{"step": 0, "words": 1}, {"step": 20, "words": 2}, {"step": 20, "words": 3}]
    (cell.folder / "run" / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curves([cell], "sft") == {0: [rows[0], rows[2]]}


def test_a_folder_of_something_else_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no study"):
        compare.run_study(recipe, [0], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Cells that write a result, or fail by their name, in this process; returns what was begun."""
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import contextmanager

    begun: list[str] = []

    def run_cell(cell: Cell, recipe: Recipe, threads: int) -> None:
        begun.append(cell.name)
        assert all(cell.other(name).joinpath("cell.json").is_file() for name in cell.needs)
        cell.folder.mkdir(parents=True)
        if cell.name == "self":
            raise RunError("no room")
        cell.result.write_text("{}")

    @contextmanager
    def pool(jobs: int, threads: int) -> Any:
        with ThreadPoolExecutor(jobs) as executor:
            yield executor

    monkeypatch.setattr("selfjudge.study.run_cell.run_cell", run_cell)
    monkeypatch.setattr(compare, "_pool", pool)
    monkeypatch.setattr(compare, "_pretrain", lambda folder, seed: (folder / "base").mkdir())
    return lambda: begun


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failed_cell_stops_only_what_needs_it(
    recipe: Recipe, tmp_path: Path, no_processes: Callable[[], list[str]], jobs: int
) -> None:
    states: list[tuple[str, str]] = []
    outcome = compare.run_study(
        recipe, [0], tmp_path / "s", jobs=jobs, on_cell=lambda cell, state: states.append((cell.name, state))
    )
    assert {cell.name: why for cell, why in outcome.failed.items()} == {"self": "no room"}
    assert [cell.name for cell in outcome.missing] == ["self", "again"]
    assert ("rlhf", "finished") in states
    assert ("self", "failed") in states
    assert no_processes()[0] == "sft"
    # Once more: only what is missing.
    (tmp_path / "s" / "seed-0" / "self").rmdir()
    no_processes().clear()
    compare.run_study(recipe, [0], tmp_path / "s", jobs=jobs)
    assert no_processes() == ["self"]
    with pytest.raises(RunError, match="another recipe"):
        compare.run_study(changed(recipe, ["data.max_length=99"]), [0], tmp_path / "s", jobs=jobs)
