"""`selfjudge demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfjudge.cli.common import quiet
from selfjudge.cli.train import ResumeOption


def demo(
    output_dir: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything: data, weights, samples.")] = 0,
    resume: ResumeOption = False,
) -> None:
    """See the whole method work in minutes on a laptop CPU, checked against a truth that is not the judge.

    Trains policy and judge in the built-in small world, self-trains on the model's own verdicts (with soft and with
    hard labels), plays tournaments, and measures everything by the world's true utility.
    """
    from selfjudge.evaluation.demo import run_demo

    quiet()
    run_demo(output_dir, seed, resume=resume)
