"""Rounds of self-training: the result of one starts the next as policy, reference and judge.

A round's judge is what the former round made of it, so its errors can feed themselves. What shows without a truth is
that its verdicts move: after each round both judges are put to the same held-out pairs, and too little agreement ends
the rounds (the consistency between rounds that CREAM, arXiv 2410.12735, takes for a measure of trust).
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils.memory import clear_device_cache

from selfjudge.core.statistics import Rate, clustered_rate
from selfjudge.core.verdict import agreement_score
from selfjudge.data.identity import prompt_key
from selfjudge.data.load import PreparedData
from selfjudge.engines.save import save_model
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.template import load_templates
from selfjudge.training.held_out import Judged, judge_held_out
from selfjudge.training.processes import on_main
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.start import load_start


@dataclass(frozen=True)
class Round:
    """One round: the model it starts from, its folder, and the seed of its draws.

    ``open`` makes the folder, or opens it to go on; called once nothing can be wrong with settings, data and model.
    """

    start: str
    folder: Path
    seed: int
    open: Callable[[], RunFolder]


def run_rounds(
    recipe: Recipe,
    output_dir: Path,
    start: str,
    train: Callable[[Round], RunFolder],
    prepare: Callable[[], PreparedData],
    *,
    resume: bool,
) -> RunFolder:
    """Runs the recipe's rounds in ``round-1``, ``round-2`` and so on; ``final/`` is that of the last accepted one.

    Args:
        recipe: its ``self_training.rounds`` and ``self_training.stop.min_judge_agreement``.
        output_dir: the run folder, checked before.
        start: the model that the first round starts from.
        train: trains a round, from its last checkpoint where its folder has one.
        prepare: gives the run's data.
        resume: go on with the run in ``output_dir``.
    """
    rounds: list[RunFolder] = []
    model = start
    before: Judged | None = None
    for number in range(1, recipe.self_training.rounds + 1):
        folder = output_dir / f"round-{number}"

        def opened(folder: Path = folder, going_on: bool = resume or number > 1) -> RunFolder:
            RunFolder.open(output_dir, "train", recipe, resume=going_on)
            return RunFolder.open(folder, "train", recipe, resume=True)

        run = RunFolder.finished(folder) or train(Round(model, folder, round_seed(recipe.seed, number), opened))
        rounds.append(run)
        now: Judged | None = None
        if "accepted" not in run.info:
            clear_device_cache(garbage_collection=True)  # the round's model, before two more are loaded
            before = before or judge_held_out(recipe, model, prepare)
            now = judge_held_out(recipe, str(run.path), prepare)
            run.update(**_outcome(recipe, before, now))
        if not run.info["accepted"]:
            break
        model, before = str(run.path), now
    return _finished(recipe, output_dir, start, rounds)


def round_seed(seed: int, number: int) -> int:
    """Returns the seed of a round's shuffling and sampling; the first round is what a run of one round would be."""
    return seed if number == 1 else random.Random(f"{seed}:round-{number}").getrandbits(31)


def _outcome(recipe: Recipe, before: Judged | None, now: Judged | None) -> dict[str, Any]:
    """Returns ``judge`` (None: nothing was measured) and ``accepted`` of a round's run.json."""
    if before is None or now is None:
        return {"judge": None, "accepted": True}
    agreement = same_verdicts(before, now)
    scores = [agreement_score(v.preferred, c.label) for c, v in zip(now.comparisons, now.verdicts, strict=True)]
    accuracy = clustered_rate(scores, _prompts(now))
    least = recipe.self_training.stop.min_judge_agreement
    measured = {"accuracy": accuracy.model_dump(), "former_agreement": agreement.model_dump()}
    return {"judge": measured, "accepted": least is None or agreement.rate >= least}


def same_verdicts(before: Judged, now: Judged) -> Rate:
    """Returns the share of pairs on which two judges prefer the same response, or both see a tie."""
    pairs = list(zip(before.verdicts, now.verdicts, strict=True))
    return clustered_rate([float(a.preferred == b.preferred) for a, b in pairs], _prompts(now))


def _prompts(judged: Judged) -> list[bytes]:
    return [prompt_key(c.prompt) for c in judged.comparisons]


def _finished(recipe: Recipe, output_dir: Path, start: str, rounds: list[RunFolder]) -> RunFolder:
    """Gives the whole run its model and its outcome."""
    parent = RunFolder.open(output_dir, "train", recipe, resume=True)
    accepted = [run for run in rounds if run.info["accepted"]]

    def put_model() -> None:
        if accepted:
            _link_folder(accepted[-1].model, parent.model)
        else:
            loaded = load_start(recipe, start, recipe.self_training.policy_lora)
            save_model(loaded.model, loaded.chat.tokenizer, parent.model, load_templates(recipe.templates.set))

    on_main(lambda: None if parent.model.exists() else put_model())
    stopped = None if len(accepted) == len(rounds) else _why_stopped(recipe, rounds)
    shared = {key: rounds[0].info[key] for key in ("data", "records", "dropped", "start", "prompts")}
    each = [{key: run.info[key] for key in ("steps", "stopped", "judge", "accepted")} for run in rounds]
    parent.finish(**shared, steps=sum(run.info["steps"] for run in rounds), stopped=stopped, rounds=each)
    return parent


def _why_stopped(recipe: Recipe, rounds: list[RunFolder]) -> str:
    share = rounds[-1].info["judge"]["former_agreement"]["rate"]
    least = recipe.self_training.stop.min_judge_agreement
    kept = f"round {len(rounds) - 1}" if len(rounds) > 1 else "the start"
    return (
        f"the judge of round {len(rounds)} agrees with the former one on {share:.0%} of held-out pairs, under "
        f"{least:.0%}: the model of {kept} is kept"
    )


def _link_folder(source: Path, target: Path) -> None:
    """Puts the files of a folder into another as well, whole or not at all; copies only where links are impossible."""
    temporary = target.with_name(target.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=_link_or_copy)
    temporary.rename(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
