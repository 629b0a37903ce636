"""The cells of a study: which there are, what each needs, and where it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfjudge.errors import RunError
from selfjudge.recipes.load import changed
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.recipes.study import CellSection, Method, StudySection
from selfjudge.world.grammar import Split

BASE = "base"
"""Name of the cell that makes a seed's base model, in the small world."""

_RATES: dict[Method, str] = {"jsft": "jsft", "train": "self_training", "offline": "self_training",
                             "off-policy": "self_training", "reward-model": "baselines.reward_model"}  # fmt: skip
"""Where a method's learning rate stands; else in the section of its own name."""


@dataclass(frozen=True)
class Cell:
    """One method with one seed.

    ``needs``: the cells of the same seed that must be finished before. ``split``: the prompts that it is measured on.
    ``section`` is None of the base model, which is only made.
    """

    name: str
    seed: int
    needs: tuple[str, ...]
    study_folder: Path
    section: CellSection | None = field(hash=False)
    split: Split = "results"

    @property
    def folder(self) -> Path:
        """Where everything of the cell lies; ``run/`` in it is the method's run folder."""
        return self.other(self.name)

    @property
    def result(self) -> Path:
        """The file that is there when the cell is finished."""
        return self.folder / "cell.json"

    @property
    def method(self) -> Method:
        """The method; the base model has none."""
        assert self.section is not None
        return self.section.method

    def other(self, name: str) -> Path:
        """Returns the folder of another cell of this seed."""
        return self.study_folder / f"seed-{self.seed}" / name


def study_of(recipe: Recipe) -> StudySection:
    """Returns the recipe's study.

    Raises:
        RunError: if it has none.
    """
    if recipe.study is None:
        raise RunError(f"The recipe {recipe.name} has no study section: add one, or use --recipe world-study.")
    return recipe.study


def plan_cells(
    recipe: Recipe, seeds: Sequence[int], folder: Path, only: Sequence[str] = (), split: Split = "results"
) -> list[Cell]:
    """Returns the cells in the order in which they tell most: seed by seed, each in the recipe's order.

    ``only`` keeps the cells of these names and those that they need. Every cell needs the reference, whose answers it
    is compared with. In the small world each seed has a base model of its own.

    Raises:
        RunError: for a recipe without a study, or a name that is none of its cells.
    """
    study = study_of(recipe)
    unknown = [name for name in only if name not in study.cells]
    if unknown:
        raise RunError(f"There is no cell {unknown[0]!r} in {recipe.name}: its cells are {', '.join(study.cells)}.")
    base = (BASE,) if recipe.model.path == BUILTIN_WORLD else ()
    needs = {name: _needs(study, name) or base for name in study.cells}
    wanted = set(only or study.cells)
    for name in reversed(study.cells):  # what a cell needs comes before it
        if name in wanted:
            wanted.update(needs[name])
    return [
        cell
        for seed in seeds
        for cell in (
            *(Cell(name, seed, (), folder, None, split) for name in base),
            *(Cell(n, seed, needs[n], folder, study.cells[n], split) for n in study.cells if n in wanted),
        )
    ]


def _needs(study: StudySection, name: str) -> tuple[str, ...]:
    own = study.cells[name].needs()
    return tuple(dict.fromkeys([*own, study.reference] if name != study.reference else own))


def cell_recipe(recipe: Recipe, cell: Cell) -> Recipe:
    """Returns what a cell runs: the recipe with the cell's changes, its seed, and the models that it builds on.

    Raises:
        RecipeError: if the cell's changes are no good.
    """
    assert cell.section is not None
    found = _with_changes(recipe, cell)
    found.name = f"{recipe.name}-{cell.name}"
    if recipe.model.path == BUILTIN_WORLD:
        found.model.path = str(cell.other(BASE) / "run")
    starts = [str(cell.other(name) / "run") for name in cell.section.needs()]
    if cell.method in ("jsft", "sft"):
        found.model.path = starts[0] if starts else found.model.path
    elif cell.method in ("train", "offline", "off-policy"):
        found.self_training.start = starts[0]
    else:
        found.baselines.start = starts[0]
        found.baselines.reward = starts[1] if len(starts) > 1 else None
    return found


def _with_changes(recipe: Recipe, cell: Cell) -> Recipe:
    """Returns the recipe with the cell's changes, its learning rate and its seed."""
    changes: list[str] = []
    if cell.section is not None:
        rate = study_of(recipe).rate_of(cell.name)
        section = _RATES.get(cell.method, f"baselines.{cell.method}")
        changes = [*cell.section.set, *([f"{section}.training.learning_rate={rate!r}"] if rate else [])]
    found = changed(recipe, changes)
    found.seed = cell.seed
    return found


def fingerprints(recipe: Recipe, cells: Sequence[Cell]) -> dict[Cell, str]:
    """Returns a digest of all that decides each cell's result: its settings, how it is measured, and what it needs.

    Cells come after those that they need.

    Raises:
        RecipeError: if the changes of a cell are no good.
    """
    found: dict[Cell, str] = {}
    of: dict[tuple[int, str], str] = {}
    for cell in cells:
        parts = [_settings(recipe, cell), *(of[cell.seed, name] for name in cell.needs)]
        found[cell] = of[cell.seed, cell.name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return found


def _settings(recipe: Recipe, cell: Cell) -> Mapping[str, object]:
    study = study_of(recipe)
    if cell.section is None:
        return {"seed": cell.seed}
    measured: dict[str, object] = {"split": cell.split, "evaluator": study.evaluator, "limit": study.limit}
    measured["prompts"] = study.prompts if cell.split == "results" else study.tuning.prompts
    if cell.method == "best-of-n":
        measured["candidates"] = study.candidates
    if cell.section.curve:
        measured["curve"] = study.curve_every
    own = _with_changes(recipe, cell).model_dump(mode="json", exclude={"study", "name"})
    return {"recipe": own, "method": cell.method, "measured": measured}
