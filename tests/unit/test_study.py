"""Studies: which cells there are, what they need and cost, and how they are run. Training them is in tests/cli."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from studies import CELLS, in_this_process, study_recipe

from selfjudge.errors import RecipeError, RunError, SelfJudgeError
from selfjudge.evaluation import base_model
from selfjudge.recipes.load import changed, load_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.study import CellSection, StudySection
from selfjudge.study import compare
from selfjudge.study.cells import Cell, cell_recipe, fingerprints, plan_cells
from selfjudge.study.costs import Costs, costs
from selfjudge.study.measure import prompts_of
from selfjudge.study.run_cell import CURVE_PROMPTS
from selfjudge.world.grammar import Split, parse, task_of
from selfjudge.world.people import preference_records, prompts, unlabelled


@pytest.fixture
def recipe() -> Recipe:
    return study_recipe()


def names(cells: list[Cell]) -> list[str]:
    return [f"{cell.seed}/{cell.name}" for cell in cells]


def test_cells_come_seed_by_seed_with_what_they_need(recipe: Recipe, tmp_path: Path) -> None:
    cells = plan_cells(recipe, [4, 5], tmp_path)
    assert names(cells) == [f"{seed}/{name}" for seed in (4, 5) for name in ("base", *CELLS)]
    needs = {cell.name: cell.needs for cell in cells}
    assert needs["base"] == ()
    assert needs["sft"] == ("base",)  # each seed has a base model of its own
    assert needs["jsft"] == ("sft",)  # the reference's answers
    assert needs["again"] == ("self", "sft")
    assert needs["rlhf"] == ("sft", "reward-model")
    assert names(plan_cells(recipe, [0], tmp_path, ["again"])) == ["0/base", "0/sft", "0/jsft", "0/self", "0/again"]
    with pytest.raises(RunError, match="no cell 'x' in demo: its cells are sft, jsft"):
        plan_cells(recipe, [0], tmp_path, ["x"])
    with pytest.raises(RunError, match="no study section"):
        plan_cells(load_recipe("demo"), [0], tmp_path)
    recipe.model.path = "a/model"  # which is one for all seeds
    assert names(plan_cells(recipe, [0], tmp_path, ["jsft"])) == ["0/sft", "0/jsft"]


def test_a_cell_starts_from_the_models_of_its_own_seed(recipe: Recipe, tmp_path: Path) -> None:
    cells = [cell for cell in plan_cells(recipe, [4], tmp_path) if cell.section]
    found = {cell.name: cell_recipe(recipe, cell) for cell in cells}
    seed = tmp_path / "seed-4"
    assert {r.seed for r in found.values()} == {4}
    assert found["jsft"].model.path == found["sft"].model.path == str(seed / "base" / "run")
    assert found["reward-model"].baselines.start == str(seed / "sft" / "run")
    assert found["self"].self_training.start == str(seed / "jsft" / "run")
    assert found["self"].self_training.labels == "soft"
    assert found["again"].self_training.start == str(seed / "self" / "run")
    assert found["rlhf"].baselines.start == str(seed / "sft" / "run")
    assert found["rlhf"].baselines.reward == str(seed / "reward-model" / "run")
    assert recipe.seed == 0  # the study's own is left alone


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("sft", lambda r: r.baselines.sft.training),
        ("jsft", lambda r: r.jsft.training),
        ("self", lambda r: r.self_training.training),
        ("again", lambda r: r.self_training.training),
        ("reward", lambda r: r.baselines.dpo.training),
        ("reward-model", lambda r: r.baselines.reward_model.training),
        ("rlhf", lambda r: r.baselines.rlhf.training),
    ],
)
def test_a_cell_has_its_own_learning_rate(recipe: Recipe, tmp_path: Path, name: str, where: Any) -> None:
    def rate() -> Any:
        (cell,) = (c for c in plan_cells(recipe, [0], tmp_path) if c.name == name)
        return where(cell_recipe(recipe, cell)).get("learning_rate")

    before = rate()
    recipe.study.cells[name].rate = 4.2e-5
    assert rate() == 4.2e-5 != before
    if name != "sft":  # the first one has none before it
        recipe.study.cells["sft"].rate = 3e-5
        recipe.study.cells[name].same_rate_as = "sft"
        assert rate() == 3e-5


def test_no_prompt_or_task_is_used_twice(tmp_path: Path) -> None:
    recipe = load_recipe("world-study")
    study, seeds = recipe.study, range(5)
    assert study.tuning.seed not in seeds

    def tasks(texts: Iterable[str]) -> set[str]:
        return {task_of(parse(text)) for text in texts}

    def measured(seed: int, split: Split) -> list[str]:
        cell = Cell("self-judge", seed, (), tmp_path, study.cells["self-judge"], split)
        return [p.prompt[-1].content for p in prompts_of(study, cell)]

    trained = {seed: preference_records(13000, seed) for seed in (*seeds, study.tuning.seed)}
    texts = [r.prompt[-1].content for records in trained.values() for r in records]
    texts += [text.prompt for seed in seeds for text in unlabelled(base_model.STEPS * base_model.BATCH // 3, seed)]
    pools = {
        "training": tasks(texts),
        "tuning": tasks(measured(study.tuning.seed, "tuning")),
        "curves": tasks(text for seed in seeds for text in prompts(CURVE_PROMPTS, seed, "curves")),
        "results": tasks(text for seed in seeds for text in measured(seed, "results")),
    }
    for a, b in combinations(pools, 2):
        assert not pools[a] & pools[b], (a, b)
    assert len(pools["results"]) == 40
    # And no prompt of a seed's results is one of another's.
    results = [text for seed in seeds for text in measured(seed, "results")]
    assert len(set(results)) == len(results) == 5 * study.limit


def test_a_study_with_cells_that_cannot_be_run_is_refused() -> None:
    def refused(match: str, *overrides: str) -> None:
        with pytest.raises(RecipeError, match=match):
            changed(load_recipe("world-study"), overrides)

    refused("needs the cell jsft: put one", "study.cells={sft: {method: sft}, s: {method: train}}")
    refused("study.reference=sft must be", "study.cells={jsft: {method: jsft}}")
    refused("unknown key 'study.cells.sft.metod'; did you mean 'method'", "study.cells.sft.metod=sft")
    refused("unknown key 'study.cels'; did you mean 'cells'", "study.cels={}")
    refused("needs the cell x: put one", "study.cells={sft: {method: sft, same_rate_as: x}}")
    refused("a cell's name has no comma and is not base", "study.cells={sft: {method: sft}, base: {method: jsft}}")
    refused("no comma", "study.cells={sft: {method: sft}, 'a, b': {method: jsft}}")
    refused("must grow", "study.tuning.rates=[1e-4, 1e-5, 2e-4]")


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


def test_rlhf_and_self_judge_spend_as_many_samples_and_judgments() -> None:
    recipe = load_recipe("world-study")
    spent = {
        name: costs(recipe.study.cells[name], recipe, {"steps": 100}, principles=1) for name in ("self-judge", "rlhf")
    }
    # 100 steps of 60 prompts and two samples; both orders of a pair, or the reward of each sample.
    assert {(c.samples, c.judgments) for c in spent.values()} == {(12000, 12000)}


def test_a_folder_of_something_else_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no study"):
        compare.run_study(recipe, [0], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failed_cell_stops_only_what_needs_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    def result_of(cell: Cell, recipe: Recipe) -> dict[str, Any]:
        if cell.name == "self":
            raise RunError("no room")
        return {}

    begun = in_this_process(monkeypatch, result_of)
    states: list[tuple[str, str]] = []
    outcome = compare.run_study(
        recipe, [0], tmp_path / "s", jobs=jobs, on_cell=lambda cell, state: states.append((cell.name, state))
    )
    assert {cell.name: why for cell, why in outcome.failed.items()} == {"self": "no room"}
    assert [cell.name for cell in outcome.missing] == ["self", "again"]
    assert ("rlhf", "finished") in states
    assert ("self", "failed") in states
    assert [cell.name for cell in begun][:2] == ["base", "sft"]
    # Once more: only what is missing.
    begun.clear()
    compare.run_study(recipe, [0], tmp_path / "s", jobs=jobs)
    assert [cell.name for cell in begun] == ["self"]


def test_a_finished_cell_of_other_settings_is_no_result(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = in_this_process(monkeypatch, lambda cell, recipe: {})
    compare.run_study(recipe, [0], tmp_path / "s")

    def refused(cell: str, *changes: str) -> None:
        with pytest.raises(RunError, match=f"seed-0/{cell} holds a result of other settings"):
            compare.run_study(changed(recipe, changes), [0], tmp_path / "s")

    refused("sft", "data.max_length=99")
    refused("sft", "study.limit=4")
    refused("self", "study.cells.self.set=[self_training.labels=hard]")
    refused("reward", "study.cells.reward.rate=1e-4")
    # What a cell builds on is part of it: here "again" alone is asked for, which starts from "self".
    with pytest.raises(RunError, match="seed-0/self holds a result"):
        compare.run_study(changed(recipe, ["study.cells.self.rate=1e-4"]), [0], tmp_path / "s", only=["again"])
    # More cells, seeds and claims are no other settings of those that are there.
    begun.clear()
    more = changed(recipe, ["study.cells.more={method: dpo, rate: 1e-4}", "study.claims=[{better: more, worse: sft}]"])
    compare.run_study(more, [0], tmp_path / "s")
    assert [cell.name for cell in begun] == ["more"]


def test_settings_of_what_a_cell_needs_are_its_own(recipe: Recipe, tmp_path: Path) -> None:
    def of(name: str, *changes: str) -> str:
        made = changed(recipe, changes)
        found = fingerprints(made, plan_cells(made, [0], tmp_path))
        return next(digest for cell, digest in found.items() if cell.name == name)

    assert of("again") == of("again") == of("again", "study.cells.reward.rate=1e-4")
    assert of("again") != of("again", "study.cells.self.rate=1e-4")
    assert of("again") != of("again", "study.cells.jsft.rate=1e-4")
    assert of("again") == of("again", "name=other")
