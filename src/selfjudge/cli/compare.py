"""`selfjudge compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfjudge.cli.common import quiet
from selfjudge.cli.train import RecipeOption, SetOption

if TYPE_CHECKING:
    from selfjudge.recipes.schema import Recipe
    from selfjudge.study.cells import Cell
    from selfjudge.study.compare import Outcome
    from selfjudge.study.tune import Tuned


SeedsOption = Annotated[
    int, typer.Option(min=0, help="How many seeds: the recipe's own and those after it. With --tune 0 is tuning alone.")
]
TuneOption = Annotated[
    bool,
    typer.Option(
        "--tune", help="First find the best learning rate of every cell, on a seed and prompts that are in no result."
    ),
]
CellsOption = Annotated[
    str | None, typer.Option(metavar="NAME,NAME", help="These cells alone, with those that they need.")
]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Cells side by side. Default: one on a GPU, else one a core.")
]


def compare(
    recipe: RecipeOption = "world-study",
    set_: SetOption = None,
    seeds: SeedsOption = 3,
    tune: TuneOption = False,
    cells: CellsOption = None,
    jobs: JobsOption = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the study. Default: runs/NAME.")] = None,
) -> None:
    """Run all methods of a recipe over several seeds, measure them alike, and report (extra baselines).

    What is finished stays: run the command again to go on after an interruption, with more seeds or other cells. The
    result is OUTPUT_DIR/report.html, OUTPUT_DIR/summary.json and, the raw figures alone, OUTPUT_DIR/results.json.
    """
    from rich.console import Console

    from selfjudge.errors import RunError
    from selfjudge.recipes.load import load_recipe
    from selfjudge.study.compare import TUNING, default_jobs, run_study
    from selfjudge.study.tune import tune as find_rates
    from selfjudge.study.tune import with_rates

    if seeds == 0 and not tune:
        raise typer.BadParameter("0 seeds leave nothing to run: only with --tune.", param_hint="--seeds")
    quiet()
    console = Console()
    loaded = load_recipe(recipe, set_ or ())
    folder = output_dir or Path("runs") / loaded.name
    names = [name.strip() for name in cells.split(",")] if cells else []
    side_by_side = jobs or default_jobs()

    def said(cell: Cell, state: str) -> None:
        console.print(f"seed {cell.seed}, {cell.name}: {state}", highlight=False)

    tuned: dict[str, Tuned] = {}
    if tune:
        tuned = find_rates(loaded, folder / TUNING, jobs=side_by_side, only=names, on_cell=said)
        _print_rates(tuned)
        loaded = with_rates(loaded, tuned)
    numbers = range(loaded.seed, loaded.seed + seeds)
    outcome = run_study(loaded, numbers, folder, jobs=side_by_side, only=names, on_cell=said)
    _report(outcome, loaded, folder, tuned)
    if outcome.failed:
        (cell, why), *_ = outcome.failed.items()
        raise RunError(f"seed {cell.seed}, {cell.name} failed: {why} (all of it in {cell.folder / 'log.txt'})")


def _print_rates(tuned: Mapping[str, Tuned]) -> None:
    """Prints every cell's best learning rate and its scores at all rates."""
    from selfjudge.cli.common import print_table
    from selfjudge.study.page import tuning_table

    rows = [(name, f"{best}, by {by} ({scores})") for name, by, best, scores, _ in tuning_table(tuned)[1:]]
    print_table([(str(name), text) for name, text in rows], title="Best learning rate (score by rate, %)")


def _report(outcome: Outcome, recipe: Recipe, folder: Path, tuned: Mapping[str, Tuned]) -> None:
    """Writes summary.json, results.json and report.html, and prints the figures."""
    from selfjudge.cli.common import print_table
    from selfjudge.data.io import write_json
    from selfjudge.evaluation.page import write_page
    from selfjudge.study.page import sections
    from selfjudge.study.results import raw_figures
    from selfjudge.study.summary import summarise_study

    found = summarise_study(recipe, outcome.cells)
    write_json(folder / "summary.json", found.model_dump(mode="json"))
    write_json(folder / "results.json", raw_figures(found, tuned))
    facts = [("recipe", recipe.name), ("seeds", ", ".join(map(str, found.seeds)))]
    page = sections(found, outcome.cells, tuned)
    write_page(folder / "report.html", f"Study {recipe.name}", facts, page, overwrite=True)
    if found.policies:
        print_table([(f.name, f.rate) for f in found.policies], title=f"Win rate against {found.reference}")
    if found.judges:
        print_table([(f.name, f.rate) for f in found.judges], title="Judges are right on")
    if found.claims and found.policies:
        print_table([(c.claim, f"{c.decision}, {c.difference or ''}") for c in found.claims], title="Claims")
    rows: list[tuple[str, object]] = [("Report", folder / "report.html")]
    if found.missing:
        rows.insert(0, ("Missing cells", len(found.missing)))
    print_table(rows)
