"""The cells of a study: which there are, what each needs, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfjudge.errors import RunError
from selfjudge.recipes.comparison import CellSection, StudySection
from selfjudge.recipes.load import changed
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.section import BUILTIN_WORLD


@dataclass(frozen=True)
class Cell:
    """One method with one seed. ``needs``: the cells of the same seed that must be finished before."""

    name: str
    seed: int
    needs: tuple[str, ...]
    study_folder: Path
    section: CellSection = field(hash=False)

    @property
    def folder(self) -> Path:
        """Where everything of the cell lies; ``run/`` in it is the method's run folder."""
        return self.other(self.name)

    @property
    def result(self) -> Path:
        """The file that is there when the cell is finished."""
        return self.folder / "cell.json"

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


def plan_cells(recipe: Recipe, seeds: Sequence[int], folder: Path, only: Sequence[str] = ()) -> list[Cell]:
    """Returns the cells in the order in which they tell most: seed by seed, each in the recipe's order.

    ``only`` keeps the cells of these names and those that they need. Every cell needs the reference, whose answers it
    is compared with.

    Raises:
        RunError: for a recipe without a study, or a name that is none of its cells.
    """
    study = study_of(recipe)
    unknown = [name for name in only if name not in study.cells]
    if unknown:
        raise RunError(f"There is no cell {unknown[0]!r} in {recipe.name}: its cells are {', '.join(study.cells)}.")
    needs = {
        name: tuple(dict.fromkeys([*section.needs(), *([study.reference] if name != study.reference else [])]))
        for name, section in study.cells.items()
    }
    wanted = set(only or study.cells)
    for name in reversed(study.cells):  # what a cell needs comes before it
        if name in wanted:
            wanted.update(needs[name])
    return [
        Cell(name, seed, needs[name], folder, study.cells[name])
        for seed in seeds
        for name in study.cells
        if name in wanted
    ]


def cell_recipe(recipe: Recipe, cell: Cell) -> Recipe:
    """Returns what a cell runs: the recipe with the cell's changes, its seed, and the models that it builds on.

    Raises:
        RecipeError: if the cell's changes are no good.
    """
    recipe = changed(recipe, cell.section.set)
    recipe.seed = cell.seed
    recipe.name = f"{recipe.name}-{cell.name}"
    if recipe.model.path == BUILTIN_WORLD:
        recipe.model.path = str(world_base(cell.study_folder))
    starts = [str(cell.other(name) / "run") for name in cell.section.needs()]
    if cell.section.method in ("jsft", "sft"):
        recipe.model.path = starts[0] if starts else recipe.model.path
    elif cell.section.method in ("train", "offline", "off-policy"):
        recipe.self_training.start = starts[0]
    else:
        recipe.baselines.start = starts[0]
        recipe.baselines.reward = starts[1] if len(starts) > 1 else None
    return recipe


def world_base(folder: Path) -> Path:
    """Returns where a study in the small world has the base model that all its cells start from."""
    return folder / "base"
