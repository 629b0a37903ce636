"""RAFT (arXiv 2304.06767) and ReST (arXiv 2308.08998): sample, keep the best, fine-tune on them, and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from selfjudge.baselines.parts import (
    OWN_ROWS,
    draw,
    examples_per_step,
    load_for_trl,
    merged,
    peft_config,
    record,
    reward_path,
    sft_model,
    total_steps,
    trl_arguments,
)
from selfjudge.baselines.samples import ScoredSamples, scored_samples
from selfjudge.baselines.scorer import RewardScorer, load_scorer
from selfjudge.baselines.selection import at_least, best
from selfjudge.baselines.sft import sft_dataset, sft_trainer
from selfjudge.data.load import prepare_data
from selfjudge.engines.load import LoadedModel
from selfjudge.engines.save import save_model
from selfjudge.errors import RecipeError
from selfjudge.recipes.comparison import RaftSection, RestSection
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Completion
from selfjudge.training.checkpoints import commit, partial, step_of
from selfjudge.training.pair_source import rollout_prompts
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.processes import main_first, on_main
from selfjudge.training.progress import use_progress_bar
from selfjudge.training.run_cache import run_cache
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import MetricsFile, batching
from selfjudge.training.start import load_start
from selfjudge.training.whole_weights import shards_weights

Kept = list[tuple[RolloutPrompt, Completion]]
"""Samples to fine-tune on."""
Keep = Callable[[Sequence[ScoredSamples]], Kept]


@dataclass(frozen=True)
class Rounds:
    """A method: its settings, and what each fine-tuning of a round keeps of the round's samples."""

    name: Literal["raft", "rest"]
    section: RaftSection | RestSection
    keeps: tuple[Keep, ...]
    recipe: Recipe

    def arguments(self, output_dir: str | Path, **values: Any) -> SFTConfig:
        """Returns the settings of self-training with the section's on top, and ``values`` above all."""
        values = {**self.recipe.self_training.training, **self.section.training, **values}
        return trl_arguments(self.recipe, self.name, output_dir, SFTConfig, values, packing=False, **OWN_ROWS)


def run_raft(recipe: Recipe, output_dir: str | Path, *, resume: bool = False) -> RunFolder:
    """Fine-tunes on the best of k samples of each prompt; errors as :func:`selfjudge.baselines.run.run_baseline`."""
    return _run(Rounds("raft", recipe.baselines.raft, (best_of_each,), recipe), output_dir, resume=resume)


def run_rest(recipe: Recipe, output_dir: str | Path, *, resume: bool = False) -> RunFolder:
    """Fine-tunes on the samples above one threshold after the other; errors as
    :func:`selfjudge.baselines.run.run_baseline`.
    """
    section = recipe.baselines.rest
    keeps = tuple(above(quantile) for quantile in section.thresholds)
    return _run(Rounds("rest", section, keeps, recipe), output_dir, resume=resume)


def best_of_each(groups: Sequence[ScoredSamples]) -> Kept:
    """Returns each prompt's sample of highest reward."""
    return [(g.prompt, g.samples[best(g.rewards)]) for g in groups]


def above(quantile: float) -> Keep:
    """Returns what keeps the samples whose reward is not below a quantile of all, equal samples of a prompt once."""

    def keep(groups: Sequence[ScoredSamples]) -> Kept:
        samples = [(g.prompt, sample) for g in groups for sample in g.samples]
        places = at_least([reward for g in groups for reward in g.rewards], quantile)
        return list({(samples[i][0].ids, samples[i][1].ids): samples[i] for i in places}.values())

    return keep


def _run(method: Rounds, output_dir: str | Path, *, resume: bool) -> RunFolder:
    recipe = method.recipe
    args = method.arguments(output_dir)
    if shards_weights(args):
        raise RecipeError(
            f"{method.name} samples from the model between trainings, which FSDP and ZeRO-3 shard: use DDP."
        )
    RunFolder.check(output_dir, method.name, recipe, resume=resume)
    set_seed(recipe.seed)
    start = sft_model(recipe)
    scorer = main_first(lambda: load_scorer(reward_path(recipe), **batching(recipe)))
    loaded = main_first(lambda: load_for_trl(recipe, start, recipe.self_training.lora, output_dir))
    with run_cache(output_dir) as cache:
        data = main_first(lambda: prepare_data(recipe.data, recipe.seed, cache))
        prompts, dropped = main_first(lambda: rollout_prompts(recipe, data, loaded))
        run = RunFolder.open(output_dir, method.name, recipe, resume=resume)
    record(run, data, dropped, start=start, reward=reward_path(recipe), prompts=len(prompts))
    # Together the rounds take as many steps, on as many prompts, as self-training.
    rounds = method.section.rounds
    each = max(1, total_steps(args, len(prompts)) // (rounds * len(method.keeps)))
    steps = each * len(method.keeps)
    n = steps * examples_per_step(args)
    drawn = draw(prompts, rounds * n, recipe.seed)
    # A round begins anew where it is cut off, so there are no checkpoints within one.
    args = method.arguments(output_dir, max_steps=each, save_strategy="no")
    done, loaded = _resumed(recipe, run, loaded, steps)
    for number in range(done, rounds):
        loaded = _round(method, run, args, loaded, scorer, drawn[number * n : (number + 1) * n], number)
    on_main(lambda: save_model(loaded.model, loaded.chat.tokenizer, run.model))
    run.finish(steps=rounds * steps)
    return run


def _round(
    method: Rounds,
    run: RunFolder,
    args: SFTConfig,
    loaded: LoadedModel,
    scorer: RewardScorer,
    prompts: Sequence[RolloutPrompt],
    number: int,
) -> LoadedModel:
    """Draws samples from the model, fine-tunes it on what each ``keep`` leaves of them, and returns it."""
    recipe, chat = method.recipe, loaded.chat
    candidates = method.section.candidates
    groups = scored_samples(
        recipe, loaded.model, chat, scorer, prompts, candidates, number, show_progress=not args.disable_tqdm
    )
    mean = fmean(reward for group in groups for reward in group.rewards)
    step = number * args.max_steps * len(method.keeps)
    for keep in method.keeps:
        kept = keep(groups)
        dataset = sft_dataset((_ids(p, s), [False] * len(p.ids) + [True] * len(s.ids)) for p, s in kept)
        lora = peft_config(loaded.model, recipe.self_training.lora)
        trainer = sft_trainer(loaded.model, args, dataset, chat, lora, [MetricsFile(run, step)])
        use_progress_bar(trainer)
        trainer.train()
        loaded, step = replace(loaded, model=merged(trainer.model)), step + args.max_steps
        run.append("metrics.jsonl", {"step": step, "round": number, "reward/mean": mean, "kept": len(kept)})
    on_main(lambda: _checkpoint(run, trainer, loaded, step))
    return loaded


def _ids(prompt: RolloutPrompt, sample: Completion) -> tuple[int, ...]:
    return (*prompt.ids, *sample.ids)


def _checkpoint(run: RunFolder, trainer: SFTTrainer, loaded: LoadedModel, step: int) -> None:
    """Keeps the model of a finished round where the run folder looks for a checkpoint."""
    folder = partial(run.checkpoints, step)
    save_model(loaded.model, loaded.chat.tokenizer, folder)
    commit(run.checkpoints, step, run.log_sizes(), trainer.args.save_total_limit)


def _resumed(recipe: Recipe, run: RunFolder, loaded: LoadedModel, steps: int) -> tuple[int, LoadedModel]:
    """Returns how many rounds are done, and the model they left."""
    last = run.last_checkpoint()
    if last is None:
        return 0, loaded
    done = step_of(last) // steps
    return done, load_start(recipe, str(last), recipe.self_training.lora)
