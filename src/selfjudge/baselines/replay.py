"""The same judge offline and off-policy: all of self-training, but pairs that do not come from the current policy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import TrainingArguments

from selfjudge.baselines.pairs import overall_pairs, token_pairs
from selfjudge.baselines.parts import draw, examples_per_step, total_steps
from selfjudge.baselines.samples import drawn
from selfjudge.data.load import PreparedData
from selfjudge.data.rows import DroppedRow
from selfjudge.engines.load import LoadedModel
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Completion
from selfjudge.training.pair_source import rollout_prompts
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.rollout import Rollout, RolloutCollector, RolloutStats, measures_kl
from selfjudge.training.run_folder import Stage

Samples = tuple[Completion, ...]


@dataclass(frozen=True)
class ReplayCollector:
    """Makes rollouts of given samples, whatever the policy has become; they are judged as its own would be.

    The given samples say nothing about the policy. So each rollout also draws two samples from the policy for a quarter
    of its prompts, and judges them: their KL, length and agreement are for the log and the stop rule. They are not
    trained on.

    ``samples``: prompt id → its samples.
    """

    collector: RolloutCollector
    samples: Mapping[str, Samples]

    def collect(self, prompts: Sequence[RolloutPrompt], seed: int, places: tuple[int, ...] | None = None) -> Rollout:
        """Returns the rollout of ``prompts``; ``seed`` and ``places`` are for the policy's own samples."""
        labelled = self.collector.label(prompts, [self.samples[p.id] for p in prompts], time.perf_counter())
        return replace(self.collector.with_reference(labelled), own=self._own(prompts, seed, places))

    def _own(self, prompts: Sequence[RolloutPrompt], seed: int, places: tuple[int, ...] | None) -> RolloutStats:
        """Returns the statistics of the policy's own samples, for the prompts on which the KL is measured.

        A prompt of the data's pairs is left out where the policy's answer might not fit into the model's context.
        """
        collector = replace(self.collector, params=replace(self.collector.params, n=2))
        collector.hand_over()
        longest = collector.policy.max_length - collector.params.max_new_tokens
        numbered = zip(places or range(len(prompts)), prompts, strict=True)
        asked = {place: p for place, p in numbered if measures_kl(place) and len(p.ids) <= longest}
        return collector.with_kl(collector.draw([*asked.values()], seed, places=(*asked,)), (*asked,)).stats


class OffPolicy:
    """As many samples of each prompt as a rollout has, drawn once from the start, the JSFT policy."""

    stage: Stage = "off-policy"
    on_policy = False

    def prompts(
        self, recipe: Recipe, data: PreparedData, loaded: LoadedModel, args: TrainingArguments
    ) -> tuple[Sequence[RolloutPrompt], Sequence[DroppedRow]]:
        """Returns those of self-training's prompts that will be trained on, so that no sample is drawn in vain."""
        prompts, dropped = rollout_prompts(recipe, data, loaded)
        seen = total_steps(args, len(prompts)) * examples_per_step(args)
        return draw(prompts, min(seen, len(prompts)), args.seed), dropped

    def collector(
        self, collector: RolloutCollector, prompts: Sequence[RolloutPrompt], args: TrainingArguments
    ) -> ReplayCollector:
        """Draws the samples, which a resumed run draws again: the policy has not been trained or restored yet."""
        params = replace(collector.params, seed=args.seed)
        samples = drawn(collector.policy, [p.ids for p in prompts], params, show_progress=not args.disable_tqdm)
        return ReplayCollector(collector, {p.id: tuple(row) for p, row in zip(prompts, samples, strict=True)})


class Offline:
    """The data's own pairs, whose labels are the judge's and not the data's."""

    stage: Stage = "offline"
    on_policy = False

    def __init__(self) -> None:
        """Starts without pairs; :meth:`prompts` reads them."""
        self._samples: dict[str, Samples] = {}

    def prompts(
        self, recipe: Recipe, data: PreparedData, loaded: LoadedModel, args: TrainingArguments
    ) -> tuple[Sequence[RolloutPrompt], Sequence[DroppedRow]]:
        """Returns the prompt of every pair, as often as it has pairs."""
        longest = min(recipe.data.max_length, loaded.context)
        pairs, dropped = token_pairs(overall_pairs(data), loaded.chat, longest)
        prompts: list[RolloutPrompt] = []
        for i, (record, pair) in enumerate(pairs):
            prompts.append(RolloutPrompt(f"pair-{i}", record.prompt, pair.prompt_ids))
            self._samples[f"pair-{i}"] = (
                Completion(ids=pair.chosen_ids, text=record.chosen, finish_reason="stop"),
                Completion(ids=pair.rejected_ids, text=record.rejected, finish_reason="stop"),
            )
        return prompts, dropped

    def collector(
        self, collector: RolloutCollector, prompts: Sequence[RolloutPrompt], args: TrainingArguments
    ) -> ReplayCollector:
        """Returns what replays the pairs."""
        return ReplayCollector(collector, self._samples)
