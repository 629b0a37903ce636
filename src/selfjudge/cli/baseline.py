"""`selfjudge baseline`."""

from __future__ import annotations

from typing import Annotated

import typer

from selfjudge.cli.train import OutputOption, RecipeOption, ResumeOption, SetOption, finished, prepare

MethodArgument = Annotated[
    str,
    typer.Argument(metavar="METHOD", help="sft, dpo, reward-model, rlhf, rso, raft, rest, offline or off-policy."),
]


def baseline(
    method: MethodArgument,
    recipe: RecipeOption,
    set_: SetOption = None,
    output_dir: OutputOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train a method that SELF-JUDGE is compared with, from the same base model, data and prompts (extra baselines).

    dpo, reward-model, rlhf, rso, raft and rest start from the result of sft; rlhf, rso, raft and rest also need that
    of reward-model; offline and off-policy start from the result of jsft. The result is OUTPUT_DIR/final.
    """
    from datasets import disable_progress_bars

    from selfjudge.baselines.run import run_baseline

    loaded, folder = prepare(recipe, set_, output_dir, method)
    disable_progress_bars()
    run = run_baseline(method, loaded, folder, resume=resume)  # type: ignore[arg-type]
    finished(run)
