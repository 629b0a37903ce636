"""Samples of a policy, with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel

from selfjudge.baselines.scorer import RewardScorer, score_candidates
from selfjudge.engines.base import Engine, SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.processes import is_main, spread
from selfjudge.training.rollout import rollout_seed
from selfjudge.training.stage import batching


@dataclass(frozen=True)
class ScoredSamples:
    """A prompt's samples, and the reward of each."""

    prompt: RolloutPrompt
    samples: tuple[Completion, ...]
    rewards: tuple[float, ...]


def scored_samples(
    recipe: Recipe,
    model: PreTrainedModel | PeftModel,
    chat: ChatEncoder,
    scorer: RewardScorer,
    prompts: Sequence[RolloutPrompt],
    n: int,
    number: int = 0,
    *,
    show_progress: bool = True,
) -> list[ScoredSamples]:
    """Returns ``n`` samples of each prompt, drawn with the settings of self-training's rollouts; ``number`` counts a
    run's calls.
    """
    rollout = recipe.self_training.rollout
    params = SamplingParams(
        n=n,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        max_new_tokens=rollout.max_new_tokens,
        seed=rollout_seed(recipe.seed, number),
    )
    engine = TransformersEngine(model, chat, **batching(recipe))
    samples = drawn(engine, [p.ids for p in prompts], params, show_progress=show_progress)

    def score(share: list[tuple[RolloutPrompt, list[Completion]]], _: list[int]) -> list[list[float]]:
        return score_candidates(scorer, [p.prompt for p, _ in share], [[s.text for s in group] for _, group in share])

    rewards = spread([*zip(prompts, samples, strict=True)], score)
    return [
        ScoredSamples(p, tuple(group), tuple(scores))
        for p, group, scores in zip(prompts, samples, rewards, strict=True)
    ]


def drawn(
    engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams, *, show_progress: bool
) -> list[list[Completion]]:
    """Returns ``params.n`` samples of each prompt, with a bar over the prompts. Of several processes each draws for a
    share of the prompts, and has all samples.
    """

    def draw(share: list[Sequence[int]], places: list[int]) -> list[list[Completion]]:
        with tqdm(total=len(share), desc="Sampling", disable=not (show_progress and is_main())) as bar:
            return engine.sample(share, replace(params, places=tuple(places)), bar.update)

    return spread(prompts, draw)
