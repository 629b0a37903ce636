"""Tuning: a learning rate for every cell that trains, all from the same grid, on a seed and prompts of its own.

Cells are tuned in the order in which they build on each other, so that what starts from another cell starts from its
best. A judge (JSFT, reward model) is chosen by its accuracy, any other model by its win rate against the reference,
which is trained once, at the recipe's own rate and not at its cell's: a recipe with tuned rates gets the same scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from selfjudge.core.crossed import Scores, crossed_rate
from selfjudge.core.statistics import Rate
from selfjudge.errors import RunError
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.recipes.study import CellSection, StudySection
from selfjudge.study.cells import Cell, plan_cells, study_of
from selfjudge.study.compare import OnCell, check_cells, run_cells
from selfjudge.study.measure import ANSWERS, read_answers

GROWN = 4
"""Rates that are tried beyond each end of the grid at most."""


class Tried(BaseModel):
    """A learning rate: its score (win rate or accuracy), and the processor seconds its training took."""

    model_config = ConfigDict(frozen=True)

    rate: float
    score: Rate
    seconds: float


class Tuned(BaseModel):
    """A cell's rates, the smallest first."""

    model_config = ConfigDict(frozen=True)

    cell: str
    by: Literal["answers", "judge"]
    tried: tuple[Tried, ...]
    failed: tuple[float, ...] = ()

    @property
    def best(self) -> Tried:
        """Returns the rate of the highest score, the smaller of equals."""
        return max(self.tried, key=lambda t: (t.score.rate, -t.rate))

    @property
    def at_end(self) -> bool:
        """Whether a better rate may lie beyond those tried: the smallest or the largest is as good as the best."""
        return self.best.score.rate in (self.tried[0].score.rate, self.tried[-1].score.rate)


@dataclass(frozen=True)
class Tuning:
    """What is shared by the phases of a tuning."""

    recipe: Recipe
    folder: Path
    jobs: int
    on_cell: OnCell

    def run(self, sections: dict[str, CellSection]) -> dict[str, Cell]:
        """Runs these cells, by name, and returns them; some may have failed."""
        recipe = self.recipe.model_copy(deep=True)
        recipe.study = study_of(recipe).model_copy(update={"cells": sections})
        cells = plan_cells(recipe, [study_of(recipe).tuning.seed], self.folder, split="tuning")
        check_cells(recipe, cells, self.folder)
        run_cells(recipe, cells, self.folder, jobs=self.jobs, on_cell=self.on_cell)
        return {cell.name: cell for cell in cells}


def tune(
    recipe: Recipe,
    folder: Path,
    *,
    jobs: int = 1,
    only: Sequence[str] = (),
    on_cell: OnCell = lambda cell, state: None,
) -> dict[str, Tuned]:
    """Tries the learning rates of the recipe's cells, or goes on with it, and returns what came out by cell.

    Args:
        recipe: with a study.
        folder: of the tuning, new or of a tuning before.
        jobs: cells side by side.
        only: these cells alone, with those that they need.
        on_cell: called with a cell and "started", "finished" or "failed".

    Raises:
        RunError: if a cell has no result at any rate; or as :func:`selfjudge.study.compare.run_study`.
    """
    study = study_of(recipe)
    if study.prompts != BUILTIN_WORLD and study.tuning.prompts is None:
        raise RunError(
            "Learning rates must not be chosen by the prompts of the results: set study.tuning.prompts to a file of "
            "other prompts."
        )
    wanted = _wanted(recipe, folder, only)
    work = Tuning(recipe, folder, jobs, on_cell)
    known = {study.reference: _section(study, study.reference, None, {})}
    best: dict[str, str] = {}
    found: dict[str, Tuned] = {}
    for level in _levels(study, wanted):
        for name in level:
            if not study.cells[name].tuned_by:  # others may build on it all the same
                rate_of = study.cells[name].same_rate_as
                known[name] = _section(study, name, found[rate_of].best.rate if rate_of else None, best)
        tuned = _tune_level(work, study, [name for name in level if study.cells[name].tuned_by], known, best)
        found |= tuned
        best |= {name: _attempt(name, of.best.rate) for name, of in tuned.items()}
    return {name: found[name] for name in wanted if name in found}


def with_rates(recipe: Recipe, tuned: dict[str, Tuned]) -> Recipe:
    """Returns the recipe with the best rate of each tuned cell."""
    recipe = recipe.model_copy(deep=True)
    for name, found in tuned.items():
        study_of(recipe).cells[name].rate = found.best.rate
    return recipe


def _wanted(recipe: Recipe, folder: Path, only: Sequence[str]) -> list[str]:
    """Returns these cells (or all), those that they need, and those that they have their rate from."""
    study = study_of(recipe)
    planned = plan_cells(recipe, [study.tuning.seed], folder, only, split="tuning")
    names = [cell.name for cell in planned if cell.section is not None]
    same = [rate_of for name in names if (rate_of := study.cells[name].same_rate_as) and rate_of not in names]
    return _wanted(recipe, folder, [*names, *same]) if same else names


def _levels(study: StudySection, wanted: Sequence[str]) -> list[list[str]]:
    """Returns the cells, those first that the next ones build on or have their rate from; best-of-n trains nothing."""
    depth: dict[str, int] = {}
    for name in wanted:
        section = study.cells[name]
        before = [*section.needs(), *([section.same_rate_as] if section.same_rate_as else [])]
        depth[name] = 1 + max((depth[need] for need in before), default=-1)
    needed = {need for name in wanted for need in study.cells[name].needs()}
    kept = [name for name in wanted if study.cells[name].tuned_by or name in needed]
    return [[n for n in kept if depth[n] == level] for level in range(1 + max(depth.values(), default=0))]


def _tune_level(
    work: Tuning, study: StudySection, names: Sequence[str], known: dict[str, CellSection], best: dict[str, str]
) -> dict[str, Tuned]:
    """Tries the grid of each cell, and more where its best lies at an end. Adds what was run to ``known``."""
    first = {name: study.cells[name].rates or study.tuning.rates for name in names}
    grids = {name: list(rates) for name, rates in first.items()}
    found: dict[str, Tuned] = {}
    open_ = list(names)
    while open_:
        known |= {_attempt(name, rate): _section(study, name, rate, best) for name in open_ for rate in grids[name]}
        cells = work.run(known)
        found |= {name: _tuned(study, name, grids[name], cells) for name in open_}
        open_ = [name for name in open_ if _grow(grids[name], found[name], first[name])]
    return found


def _attempt(name: str, rate: float) -> str:
    return f"{name} at {rate:g}"


def _section(study: StudySection, name: str, rate: float | None, best: dict[str, str]) -> CellSection:
    """Returns a cell with a rate to try, which builds on the best of what it needs."""
    section = study.cells[name]
    changes: dict[str, object] = {"rate": rate, "same_rate_as": None, "curve": False}
    needs = section.needs()
    if needs:
        changes["start"] = best.get(needs[0], needs[0])
    if len(needs) > 1:
        changes["reward"] = best.get(needs[1], needs[1])
    return section.model_copy(update=changes)


def _grow(grid: list[float], found: Tuned, first: Sequence[float]) -> bool:
    """Adds the next rate beyond an end that is as good as the best, by the grid's step there; returns whether it did.

    Where both ends are, and the smaller has grown as far as it may, the larger grows.
    """
    smallest, largest = (found.tried[end].score.rate == found.best.score.rate for end in (0, -1))
    if smallest and sum(rate < first[0] for rate in grid) < GROWN:
        grid.insert(0, _rounded(grid[0] * grid[0] / grid[1]))
    elif largest and sum(rate > first[-1] for rate in grid) < GROWN:
        grid.append(_rounded(grid[-1] * grid[-1] / grid[-2]))
    else:
        return False
    return True


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _tuned(study: StudySection, name: str, grid: Sequence[float], cells: dict[str, Cell]) -> Tuned:
    by = study.cells[name].tuned_by
    assert by is not None
    tried, failed = [], []
    for rate in grid:
        cell = cells[_attempt(name, rate)]
        if not cell.result.is_file():
            failed.append(rate)
            continue
        result = json.loads(cell.result.read_text(encoding="utf-8"))
        scores: Scores = {cell.seed: [(task, right) for task, right in result["judge"]["right"]] if by == "judge"
                          else [(a.task, a.score) for a in read_answers(cell.folder / ANSWERS)]}  # fmt: skip
        tried.append(Tried(rate=rate, score=crossed_rate(scores), seconds=result["seconds"]))
    if not tried:
        raise RunError(f"The cell {name} failed at every learning rate: see the log.txt of {cell.folder}.")
    return Tuned(cell=name, by=by, tried=tuple(tried), failed=tuple(failed))
