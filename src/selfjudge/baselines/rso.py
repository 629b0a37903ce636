"""Statistical rejection sampling optimisation (RSO, arXiv 2309.06657); the loss by TRL's DPOTrainer."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed

from selfjudge.baselines.dpo import dpo_arguments, dpo_trainer
from selfjudge.baselines.parts import (
    draw,
    examples_per_step,
    finish,
    load_for_trl,
    record,
    reward_path,
    sft_model,
    total_steps,
)
from selfjudge.baselines.samples import ScoredSamples, scored_samples
from selfjudge.baselines.scorer import load_scorer
from selfjudge.baselines.selection import statistical_rejection_sampling
from selfjudge.data.load import prepare_data
from selfjudge.errors import DataError
from selfjudge.recipes.comparison import RsoSection
from selfjudge.recipes.schema import Recipe
from selfjudge.training.pair_source import rollout_prompts
from selfjudge.training.pairs import Pair
from selfjudge.training.processes import main_first
from selfjudge.training.resumable import train
from selfjudge.training.rollout import identical
from selfjudge.training.run_cache import run_cache
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import batching


def run_rso(recipe: Recipe, output_dir: str | Path, *, resume: bool = False) -> RunFolder:
    """Samples the SFT model once, accepts by reward, labels pairs of the accepted by reward, and trains on them.

    Errors as :func:`selfjudge.baselines.run.run_baseline`.
    """
    section = recipe.baselines.rso
    args = dpo_arguments(recipe, "rso", section, output_dir)
    RunFolder.check(output_dir, "rso", recipe, resume=resume)
    set_seed(recipe.seed)
    start = sft_model(recipe)
    scorer = main_first(lambda: load_scorer(reward_path(recipe), **batching(recipe)))
    loaded = main_first(lambda: load_for_trl(recipe, start, recipe.self_training.lora, output_dir))
    with run_cache(output_dir) as cache:
        data = main_first(lambda: prepare_data(recipe.data, recipe.seed, cache))
        prompts, dropped = main_first(lambda: rollout_prompts(recipe, data, loaded))
        # As many pairs as self-training sees in as many steps; no prompt is sampled twice.
        steps = total_steps(args, len(prompts))
        wanted = steps * examples_per_step(args)
        sampled = draw(prompts, min(len(prompts), math.ceil(2 * wanted / section.accepted)), recipe.seed)
        groups = scored_samples(
            recipe, loaded.model, loaded.chat, scorer, sampled, section.candidates, show_progress=not args.disable_tqdm
        )
        pairs = accepted_pairs(groups, section, recipe.seed)
        if not pairs:
            raise DataError(
                "No pair is left: the accepted samples of every prompt are alike. Raise baselines.rso.accepted."
            )
        run = RunFolder.open(output_dir, "rso", recipe, resume=resume)
    record(run, data, dropped, start=start, reward=reward_path(recipe), prompts=len(sampled), rows={"pair": len(pairs)})
    args = dpo_arguments(recipe, "rso", section, output_dir, max_steps=steps)
    trainer = dpo_trainer(recipe, loaded, args, pairs, run)
    train(trainer, run)
    finish(trainer, loaded.chat.tokenizer, run)
    return run


def accepted_pairs(groups: Sequence[ScoredSamples], section: RsoSection, seed: int) -> list[Pair]:
    """Returns the accepted samples of each prompt two by two (first-round ranking), the one of higher reward chosen.

    Two that read the same, or have the same reward, are no pair.
    """
    pairs: list[Pair] = []
    rng = random.Random(seed)
    for group in groups:
        accepted = statistical_rejection_sampling(group.rewards, section.accepted, section.rejection_beta, rng)
        # The first accepted are the better ones; a random order makes every two equally likely to meet.
        rng.shuffle(accepted)
        for i, j in zip(accepted[::2], accepted[1::2], strict=False):
            first, second = (i, j) if group.rewards[i] > group.rewards[j] else (j, i)
            chosen, rejected = group.samples[first], group.samples[second]
            if group.rewards[first] > group.rewards[second] and not identical(chosen, rejected):
                pairs.append(Pair(group.prompt.ids, chosen.ids, rejected.ids, strength=1.0))
    return pairs
