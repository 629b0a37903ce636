"""`selfjudge jsft` and `selfjudge train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfjudge.cli.common import print_table, quiet

if TYPE_CHECKING:
    from selfjudge.recipes.schema import Recipe
    from selfjudge.training.run_folder import RunFolder

RecipeOption = Annotated[str, typer.Option("--recipe", help="A shipped recipe's name, or a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting of the recipe; may be repeated."),
]
OutputOption = Annotated[Path | None, typer.Option("--output-dir", help="Run folder. Default: runs/NAME/STAGE.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run from its last checkpoint.")]


def jsft(
    recipe: RecipeOption, set_: SetOption = None, output_dir: OutputOption = None, resume: ResumeOption = False
) -> None:
    """Train policy and judge in one model (judge-augmented supervised fine-tuning).

    The result is OUTPUT_DIR/final. If the recipe holds prompts back (data.held_out), the judge is measured on them.
    """
    from selfjudge.evaluation.held_out import measure_held_out
    from selfjudge.training.jsft import run_jsft
    from selfjudge.training.processes import is_main

    loaded, folder = prepare(recipe, set_, output_dir, "jsft")
    run = run_jsft(loaded, folder, resume=resume)
    summary = measure_held_out(loaded, run)
    if summary is not None and is_main():
        print_table(summary.rows(), title="Judge on held-out pairs")
    start = f" --set self_training.start={folder}" if output_dir else ""
    finished(run, f"selfjudge train --recipe {recipe}{start}")


def train(
    recipe: RecipeOption, set_: SetOption = None, output_dir: OutputOption = None, resume: ResumeOption = False
) -> None:
    """Self-train the policy on its own samples, judged by the frozen JSFT model.

    Starts from the JSFT run of the same recipe (runs/NAME/jsft), or from self_training.start. The result is
    OUTPUT_DIR/final; with LoRA also OUTPUT_DIR/adapter, to be put on the JSFT model. Of several rounds
    (self_training.rounds) each has a run folder OUTPUT_DIR/round-N.
    """
    from selfjudge.training.self_training import run_self_training

    loaded, folder = prepare(recipe, set_, output_dir, "train")
    run = run_self_training(loaded, folder, resume=resume)
    from selfjudge.training.processes import is_main

    if "rounds" in run.info and is_main():
        _print_rounds(run)
    finished(run, f"selfjudge sample --model {folder} --input prompts.jsonl --output answers.jsonl")


def prepare(name: str, set_: list[str] | None, output_dir: Path | None, stage: str) -> tuple[Recipe, Path]:
    """Returns the recipe with its changes, and the run folder of a stage."""
    from selfjudge.recipes.load import load_recipe

    quiet()
    recipe = load_recipe(name, set_ or ())
    return recipe, output_dir or Path("runs") / recipe.name / stage


def _print_rounds(run: RunFolder) -> None:
    """Prints how the judge came out of each round."""
    from selfjudge.core.statistics import Rate

    rows: list[tuple[str, object]] = []
    for number, outcome in enumerate(run.info["rounds"], 1):
        judge = outcome["judge"]
        if judge is None:
            said = "judge not measured: no held-out judgment pairs (data.held_out)"
        else:
            accuracy, agreement = (Rate.model_validate(judge[name]) for name in ("accuracy", "former_agreement"))
            said = f"judge right on {accuracy}, as the former judge on {agreement}"
        rows.append((f"Round {number}", f"{outcome['steps']} steps, {said}"))
    print_table(rows, title="Rounds")


def finished(run: RunFolder, next_command: str | None = None) -> None:
    """Prints what a run left, and the command to go on with; of several processes the main one does."""
    from selfjudge.training.processes import is_main

    if is_main():
        _print_result(run, next_command)


def _print_result(run: RunFolder, next_command: str | None) -> None:
    # Each round has its own logs.
    last = run.path / f"round-{len(run.info['rounds'])}" if "rounds" in run.info else run.path
    rows: list[tuple[str, object]] = [("Model", run.model), ("Steps", run.info["steps"])]
    if run.info.get("stopped"):
        rows.append(("Stopped early", run.info["stopped"]))
    if run.info["dropped"]:
        rows.append(("Rows left out", f"{run.info['dropped']}, each with its reason in {last / 'dropped.jsonl'}"))
    rows.append(("Report", f"selfjudge report {last}"))
    if next_command:
        rows.append(("Next", next_command))
    print_table(rows)
