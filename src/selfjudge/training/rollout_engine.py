"""Engines with weights of their own, which get those in training before each rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel

from selfjudge.engines.base import Engine
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel
from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.stage import batching


class Policy(Engine, Protocol):
    """The policy in training, as it was at the last hand-over."""

    def hand_over(self) -> None:
        """Takes the weights as they are now; no call may be under way, and all processes make this one together."""
        ...


class RolloutEngine(Protocol):
    """What samples in the place of the model in training. It begins with the weights that training starts from."""

    @property
    def record(self) -> dict[str, object]:
        """What the run folder keeps of it."""
        ...

    def policy(self, model: PreTrainedModel | PeftModel, folder: Path) -> Policy:
        """Returns the policy, whose weights are those of ``model``; they travel by way of ``folder``."""
        ...

    @property
    def start(self) -> Engine | None:
        """The weights that training starts from; None where hand-overs replace them."""
        ...


@contextmanager
def rollout_engine(
    recipe: Recipe, start: str, loaded: LoadedModel, prompts: Sequence[RolloutPrompt], processes: int
) -> Iterator[RolloutEngine | None]:
    """Runs, or connects to, what the recipe samples rollouts with; None where the model in training does it.

    Args:
        recipe: its ``self_training.engine``, and the section of that engine.
        start: the model, as :func:`selfjudge.engines.load.load_model` takes it.
        loaded: the same, as it was loaded.
        prompts: what is going to be answered.
        processes: training processes.

    Raises:
        EngineError: if a server cannot be reached, does not have the model, or gives no ids with what it samples.
        MissingExtraError: if what the engine needs is not installed.
        ModelError: if vLLM does not start with the model, or a server serves another.
        RecipeError: if the engine does not work with so many processes.
    """
    section = recipe.self_training
    if section.engine == "vllm":
        from selfjudge.training.vllm_rollout import running_vllm

        if processes > 1:
            raise RecipeError(
                f"self_training.engine=vllm trains in one process, not in {processes}: use transformers, or openai "
                "with vLLM servers that all processes share."
            )
        with running_vllm(recipe, start, loaded.chat) as engine:
            yield engine
    elif section.engine == "openai":
        from selfjudge.training.served_rollout import PROBED_PROMPTS, ServedRollouts

        assert section.servers is not None  # as the section's validator has seen to
        own = TransformersEngine(loaded.model, loaded.chat, **batching(recipe))
        probed = [p.ids for p in prompts[:PROBED_PROMPTS]]
        with closing(ServedRollouts(section.servers, loaded.chat, own, probed)) as served:
            yield served
    else:
        yield None
