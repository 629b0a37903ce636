"""Where the pairs of self-training come from: the policy itself, or what a baseline puts in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import TrainingArguments

from selfjudge.data.load import PreparedData
from selfjudge.data.rows import DroppedRow
from selfjudge.engines.load import LoadedModel
from selfjudge.errors import DataError, RowError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.rollout import Collector, RolloutCollector
from selfjudge.training.run_folder import Stage


class PairSource(Protocol):
    """Where the pairs of self-training come from; judge, reference, loss and steps are the same for all."""

    @property
    def stage(self) -> Stage:
        """The stage that the run folder is of."""
        ...

    @property
    def on_policy(self) -> bool:
        """Whether pairs come from the policy as it is, so that rounds and rollouts beside training make sense."""
        ...

    def prompts(
        self, recipe: Recipe, data: PreparedData, loaded: LoadedModel, args: TrainingArguments
    ) -> tuple[list[RolloutPrompt], list[DroppedRow]]:
        """Returns what the Trainer shuffles and batches, and what was left out."""
        ...

    def collector(
        self, collector: RolloutCollector, prompts: Sequence[RolloutPrompt], args: TrainingArguments
    ) -> Collector:
        """Returns what makes rollouts, from a collector whose policy is still the start."""
        ...


class OnPolicy:
    """Pairs sampled from the policy as it is: SELF-JUDGE."""

    stage: Stage = "train"
    on_policy = True

    def prompts(
        self, recipe: Recipe, data: PreparedData, loaded: LoadedModel, args: TrainingArguments
    ) -> tuple[list[RolloutPrompt], list[DroppedRow]]:
        """Returns :func:`rollout_prompts`."""
        return rollout_prompts(recipe, data, loaded)

    def collector(
        self, collector: RolloutCollector, prompts: Sequence[RolloutPrompt], args: TrainingArguments
    ) -> Collector:
        """Returns the collector as it is."""
        return collector


def rollout_prompts(
    recipe: Recipe, data: PreparedData, loaded: LoadedModel
) -> tuple[list[RolloutPrompt], list[DroppedRow]]:
    """Returns the prompts whose answers fit the recipe's length and the model's context, and those that do not.

    Raises:
        DataError: if no prompt is left.
    """
    limit = min(recipe.data.max_length, loaded.context) - recipe.self_training.rollout.max_new_tokens
    encoded: list[RolloutPrompt] = []
    refused: list[DroppedRow] = []
    for i, prompt in enumerate(data.prompts):
        try:
            encoded.append(RolloutPrompt(f"prompt-{i}", prompt, tuple(loaded.chat.prompt_ids(prompt))))
        except RowError as e:
            refused.append(DroppedRow("policy", f"prompt-{i}", str(e)))
    fitting = [p for p in encoded if len(p.ids) <= limit]
    if not fitting:
        raise DataError(
            f"No prompt for self-training is left: {len(encoded)} were read, {len(refused)} more were refused by the "
            f"chat template, and a prompt may have {limit} tokens (data.max_length or the model's context, less "
            "self_training.rollout.max_new_tokens)."
        )
    reason = f"prompt longer than {limit} tokens"
    return fitting, [*refused, *(DroppedRow("policy", p.id, reason) for p in encoded if len(p.ids) > limit)]


ON_POLICY = OnPolicy()
