"""Where the pairs of self-training come from: the policy itself, or what a baseline puts in its place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from transformers import TrainingArguments

from selfjudge.data.encoded import encode_prompts
from selfjudge.data.load import PreparedData
from selfjudge.data.record_files import as_prompt
from selfjudge.data.rows import DroppedRow
from selfjudge.data.store import Stored
from selfjudge.engines.load import LoadedModel
from selfjudge.errors import DataError
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
    ) -> tuple[Sequence[RolloutPrompt], Sequence[DroppedRow]]:
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
    ) -> tuple[Sequence[RolloutPrompt], Sequence[DroppedRow]]:
        """Returns :func:`rollout_prompts`."""
        return rollout_prompts(recipe, data, loaded)

    def collector(
        self, collector: RolloutCollector, prompts: Sequence[RolloutPrompt], args: TrainingArguments
    ) -> Collector:
        """Returns the collector as it is."""
        return collector


def rollout_prompts(
    recipe: Recipe, data: PreparedData, loaded: LoadedModel
) -> tuple[Stored[RolloutPrompt], Stored[DroppedRow]]:
    """Returns the prompts whose answers fit the recipe's length and the model's context, and those that do not.

    Ids that are in the data's cache are taken from there.

    Raises:
        DataError: if no prompt is left.
    """
    limit = min(recipe.data.max_length, loaded.context) - recipe.self_training.rollout.max_new_tokens
    encoded = encode_prompts(data.prompts, loaded.chat, data.made_from, data.cache)
    refused = encoded.given("reason")
    fits = ~refused & (encoded.numbers("length") <= limit)
    if not fits.any():
        raise DataError(
            f"No prompt for self-training is left: {len(encoded) - refused.sum()} were read, {refused.sum()} more were "
            f"refused by the chat template, and a prompt may have {limit} tokens (data.max_length or the model's "
            "context, less self_training.rollout.max_new_tokens)."
        )
    dropped = encoded.select(np.flatnonzero(~fits)).built(partial(_dropped, limit=limit))
    return encoded.select(np.flatnonzero(fits)).built(_rollout_prompt), dropped


def _rollout_prompt(row: dict[str, Any]) -> RolloutPrompt:
    return RolloutPrompt(f"prompt-{row['place']}", as_prompt(row), tuple(row["ids"]))


def _dropped(row: dict[str, Any], limit: int) -> DroppedRow:
    return DroppedRow("policy", f"prompt-{row['place']}", row["reason"] or f"prompt longer than {limit} tokens")


ON_POLICY = OnPolicy()
