"""Running a study: every cell once, several side by side, and on from where it was interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from selfjudge.data.io import atomic_writer
from selfjudge.errors import RunError, SelfJudgeError
from selfjudge.recipes.load import dump_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.study.cells import Cell, cell_recipe, fingerprints, plan_cells
from selfjudge.study.measure import check_study

TUNING = "tuning"
"""Where in a study's folder its tuning lies, a study by itself."""
OnCell = Callable[[Cell, str], None]
"""Called with a cell and "started", "finished" or "failed"."""


@dataclass
class Outcome:
    """What became of the cells; ``failed``: why, for those that did not finish."""

    cells: list[Cell]
    failed: dict[Cell, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[Cell]:
        """Returns the cells without a result."""
        return [cell for cell in self.cells if not cell.result.is_file()]


def run_study(
    recipe: Recipe,
    seeds: Sequence[int],
    folder: Path,
    *,
    jobs: int = 1,
    only: Sequence[str] = (),
    on_cell: OnCell = lambda cell, state: None,
) -> Outcome:
    """Runs the cells that have no result yet.

    A cell that fails does not stop the others; those that need it are not run.

    Args:
        recipe: with a study.
        seeds: of the cells.
        folder: new, or of a study before.
        jobs: cells side by side, each in a process of its own.
        only: these cells alone, with those that they need.
        on_cell: see ``OnCell``.

    Raises:
        RunError: for a folder of something else, a finished cell of other settings, or as :func:`plan_cells`.
        RecipeError: if the changes of a cell are no good.
        SelfJudgeError: if prompts or evaluator are not there. Nothing is written in any of these cases.
    """
    cells = plan_cells(recipe, seeds, folder, only)
    check_cells(recipe, cells, folder)
    return run_cells(recipe, cells, folder, jobs=jobs, on_cell=on_cell)


def check_cells(recipe: Recipe, cells: Sequence[Cell], folder: Path) -> None:
    """Finds out, before any long work, what :func:`run_cells` would not get through.

    Raises:
        SelfJudgeError: as :func:`run_study`.
    """
    for cell in cells:
        if cell.section is not None:
            cell_recipe(recipe, cell)
    check_study(recipe, cells)
    if folder.exists() and {f.name for f in folder.iterdir()} - {TUNING} and not (folder / "recipe.yaml").is_file():
        raise RunError(f"{folder} is not empty and holds no study: choose another --output-dir.")
    for cell, settings in fingerprints(recipe, cells).items():
        if cell.result.is_file() and json.loads(cell.result.read_text(encoding="utf-8")).get("settings") != settings:
            raise RunError(
                f"{cell.folder} holds a result of other settings: choose another --output-dir, or remove that folder "
                "(and those of the cells that start from it) to run it again."
            )


def run_cells(
    recipe: Recipe, cells: list[Cell], folder: Path, *, jobs: int, on_cell: OnCell = lambda cell, state: None
) -> Outcome:
    """Runs checked cells that have no result yet, each as soon as what it needs is finished."""
    _keep_recipe(recipe, folder)
    outcome = Outcome(cells)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with _pool(jobs, threads) as pool:
        _run_all(pool, outcome, recipe, threads, jobs, on_cell)
    return outcome


def _run_all(
    pool: ProcessPoolExecutor, outcome: Outcome, recipe: Recipe, threads: int, jobs: int, on_cell: OnCell
) -> None:
    from selfjudge.study.run_cell import run_cell

    settings = fingerprints(recipe, outcome.cells)
    waiting = outcome.missing
    running: dict[Future[None], Cell] = {}
    while waiting or running:
        ready = [cell for cell in waiting if all((cell.other(name) / "cell.json").is_file() for name in cell.needs)]
        for cell in ready[: jobs - len(running)]:
            waiting.remove(cell)
            on_cell(cell, "started")
            running[pool.submit(run_cell, cell, recipe, threads, settings[cell])] = cell
        if not running:
            return  # what is left needs a cell that failed
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            cell = running.pop(future)
            try:
                future.result()
                on_cell(cell, "finished")
            except BrokenProcessPool as e:
                raise RunError(
                    f"The process of a cell was killed (is there memory for {jobs} at a time?): run the command again "
                    "to go on, perhaps with fewer --jobs."
                ) from e
            except Exception as e:
                said = str(e) if isinstance(e, SelfJudgeError) else f"{type(e).__name__}: {e}"
                outcome.failed[cell] = said
                on_cell(cell, "failed")


def _keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Writes what the study was last run with."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_writer(folder / "recipe.yaml", overwrite=True) as handle:
        handle.write(dump_recipe(recipe))


@contextmanager
def _pool(jobs: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """A new process for each cell: its memory is its own to measure, and CUDA does not survive a fork."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1)
    try:
        yield pool
    except BaseException:
        # Ctrl-C has reached the cells too; what they have not begun is left for the next time.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        pool.shutdown()
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def default_jobs() -> int:
    """Returns how many cells run side by side: one on an accelerator, else one for each core."""
    import torch

    return 1 if torch.accelerator.is_available() else os.cpu_count() or 1
