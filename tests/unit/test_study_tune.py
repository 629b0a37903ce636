"""Tuning: every cell tries the grid, what builds on another starts from its best, and the grid grows at its ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from studies import in_this_process, study_recipe, written

from selfjudge.errors import RunError
from selfjudge.recipes.load import changed, load_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.study import compare
from selfjudge.study.cells import Cell, cell_recipe, plan_cells, study_of
from selfjudge.study.tune import GROWN, tune, with_rates

GRID = [1e-5, 1e-4, 1e-3]


@pytest.fixture
def recipe() -> Recipe:
    return changed(study_recipe(), [f"study.tuning.rates={GRID}", "study.cells.jsft.rates=[1e-3, 2e-3, 4e-3]"])


def tried_with(monkeypatch: pytest.MonkeyPatch, best: dict[str, float | None]) -> list[Cell]:
    """Lets a cell's score fall with the distance of its rate, in powers of ten, from its ``best`` one; without one it
    is the same at every rate.
    """

    def result_of(cell: Cell, recipe: Recipe) -> dict[str, Any]:
        if cell.section is None:
            return {}
        name, _, rate = cell.name.partition(" at ")
        middle = best.get(name)
        score = 1.0 - abs(math.log10(float(rate) / middle)) / 10 if rate and middle else 0.5
        n = 1000
        wins = round(n * score)
        written(cell, ["x"] * n, [1.0] * wins + [-1.0] * (n - wins))
        return {"judge": {"right": [[f"t{i}", float(i < wins)] for i in range(n)]}}

    return in_this_process(monkeypatch, result_of)


def test_every_cell_gets_the_best_of_its_own_grid(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*study_of(recipe).cells]
    begun = tried_with(monkeypatch, dict.fromkeys(names, 0.0001) | {"jsft": 2e-3})
    found = tune(recipe, tmp_path / "t", jobs=2)
    assert {name: of.best.rate for name, of in found.items()} == {n: 2e-3 if n == "jsft" else 1e-4 for n in names}
    assert [t.rate for t in found["jsft"].tried] == [1e-3, 2e-3, 4e-3]
    assert [t.rate for t in found["self"].tried] == GRID
    assert found["self"].tried[1].score.rate == pytest.approx(1.0)
    assert found["self"].tried[0].score.rate == pytest.approx(0.9)
    assert (found["jsft"].by, found["reward-model"].by, found["self"].by) == ("judge", "judge", "answers")
    # All on the tuning's seed and prompts; what starts from another cell starts from its best.
    assert {(cell.seed, cell.split) for cell in begun} == {(100, "tuning")}
    by_name = {cell.name: cell for cell in begun}
    assert by_name["self at 1e-05"].section.start == "jsft at 0.002"
    assert by_name["again at 1e-05"].section.start == "self at 0.0001"
    assert by_name["rlhf at 1e-05"].section.needs() == ["sft at 0.0001", "reward-model at 0.0001"]
    assert by_name["self at 1e-05"].section.rate == 1e-5
    # All are compared with the reference at its own rate, which is trained once.
    assert "sft" in by_name["self at 1e-05"].needs
    tuned = with_rates(recipe, found)
    assert study_of(tuned).cells["self"].rate == 1e-4
    assert study_of(recipe).cells["self"].rate is None
    begun.clear()
    assert tune(recipe, tmp_path / "t", jobs=2) == found
    assert not begun  # what is finished stays


def test_where_the_best_lies_at_an_end_the_grid_grows(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried_with(monkeypatch, {"sft": 1e-4, "jsft": 2e-3, "self": 1e-2, "reward": 1e-7})
    found = tune(recipe, tmp_path / "t", only=["self", "reward"])
    assert [*found] == ["sft", "jsft", "self", "reward"]
    assert [t.rate for t in found["self"].tried] == [*GRID, 1e-2, 1e-1]
    assert found["self"].best.rate == 1e-2
    assert not found["self"].at_end
    assert [t.rate for t in found["reward"].tried] == [1e-8, 1e-7, 1e-6, *GRID]
    assert found["reward"].best.rate == 1e-7


def test_an_end_that_is_as_good_as_the_best_grows_the_grid_too(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried_with(monkeypatch, {"sft": 10**-3.5})  # 1e-4 and 1e-3, the largest, are equally near
    found = tune(recipe, tmp_path / "t", only=["sft"])["sft"]
    assert [t.rate for t in found.tried] == [*GRID, 1e-2]
    assert found.best.rate == 1e-4
    assert not found.at_end


def test_a_recipe_with_tuned_rates_is_tuned_as_before(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference keeps the recipe's own rate, so that all scores are against the same answers."""
    names = [*study_of(recipe).cells]
    begun = tried_with(monkeypatch, dict.fromkeys(names, 0.0001) | {"jsft": 2e-3})
    found = tune(recipe, tmp_path / "t")
    begun.clear()
    assert tune(with_rates(recipe, found), tmp_path / "t") == found
    assert not begun


def test_a_grid_does_not_grow_for_ever(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried_with(monkeypatch, {"sft": 1e3})
    found = tune(recipe, tmp_path / "t", only=["sft"])["sft"]
    assert len(found.tried) == len(GRID) + GROWN
    assert found.at_end


def test_where_all_rates_are_equally_good_both_ends_grow(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried_with(monkeypatch, {"sft": None})
    found = tune(recipe, tmp_path / "t", only=["sft"])["sft"]
    rates = [t.rate for t in found.tried]
    assert sum(rate < GRID[0] for rate in rates) == sum(rate > GRID[-1] for rate in rates) == GROWN


def test_a_cell_with_the_rate_of_another_is_not_tuned(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer, after = "{method: train, same_rate_as: self}", "{method: train, start: longer}"
    recipe = changed(recipe, [f"study.cells.longer={longer}", f"study.cells.after={after}"])
    begun = tried_with(monkeypatch, {"sft": 1e-4, "jsft": 2e-3, "self": 1e-4, "after": 1e-4})
    found = tune(recipe, tmp_path / "t", only=["after"])
    assert "longer" not in found
    # It is trained once, at the best rate of the other, for what starts from it.
    (made,) = (cell for cell in begun if cell.name == "longer")
    assert made.section.rate == 1e-4
    assert made.section.start == "jsft at 0.002"
    assert found["after"].best.rate == 1e-4
    tuned = with_rates(recipe, found)
    (cell,) = (c for c in plan_cells(tuned, [0], tmp_path) if c.name == "longer")
    assert cell_recipe(tuned, cell).self_training.training["learning_rate"] == 1e-4


def test_a_rate_that_fails_is_named_and_not_chosen(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def result_of(cell: Cell, recipe: Recipe) -> dict[str, Any]:
        if cell.name in ("sft at 0.0001", "jsft at 0.001", "jsft at 0.002", "jsft at 0.004"):
            raise RuntimeError("diverged")
        if cell.section is not None:
            written(cell, ["x", "y"], [1.0, -1.0])
        return {}

    in_this_process(monkeypatch, result_of)
    found = tune(recipe, tmp_path / "t", only=["sft"])["sft"]
    assert found.failed == (1e-4,)
    assert 1e-4 not in [t.rate for t in found.tried]
    with pytest.raises(RunError, match="jsft failed at every learning rate"):
        tune(recipe, tmp_path / "t", only=["jsft"])


def test_rates_are_not_chosen_by_the_prompts_of_the_results(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Name two things of the sea for Ada."}\n')
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Name two things of the sea for Ben."}\n')
    recipe.study.prompts = str(file)
    with pytest.raises(RunError, match=r"set study\.tuning\.prompts to a file"):
        tune(recipe, tmp_path / "t")
    recipe.study.tuning.prompts = str(file)
    with pytest.raises(RunError, match="1 of the prompts that learning rates are chosen by"):
        tune(recipe, tmp_path / "t")
    assert not (tmp_path / "t").exists()
    recipe.study.tuning.prompts = str(other)
    cells = plan_cells(recipe, [100], tmp_path / "t", ["sft"], split="tuning")
    compare.check_cells(recipe, cells, tmp_path / "t")


def test_the_shipped_study_tunes_all_that_is_trained_on_as_many_rates() -> None:
    study = study_of(load_recipe("world-study"))
    for name, cell in study.cells.items():
        if cell.method == "best-of-n":
            continue
        tuned = study.cells[cell.same_rate_as] if cell.same_rate_as else cell
        assert tuned.tuned_by, name
        assert len(tuned.rates or study.tuning.rates) == 7
    assert (study.tuning.rates[0], study.tuning.rates[-1]) == (1e-5, 4e-4)
