"""Engines with weights of their own, which get those in training before each rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel

from selfjudge.engines.base import Engine
from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.rollout import Reference


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

    def start(self, reference: Reference, prompts: Sequence[Sequence[int]]) -> Engine | None:
        """Returns the weights that training starts from; None where hand-overs replace them.

        Raises:
            EngineError: if a server gives no ids with what it samples.
            ModelError: if what it samples from ``prompts`` is not what ``reference`` would.
        """
        ...


@contextmanager
def rollout_engine(recipe: Recipe, start: str, chat: ChatEncoder, processes: int) -> Iterator[RolloutEngine | None]:
    """Runs, or connects to, what the recipe samples rollouts with; None where the model in training does it.

    Args:
        recipe: its ``self_training.engine``, and the section of that engine.
        start: the model, as :func:`selfjudge.engines.load.load_model` takes it.
        chat: the encoder of its tokenizer.
        processes: training processes.

    Raises:
        EngineError: if a server cannot be reached or does not have the model.
        MissingExtraError: if what the engine needs is not installed.
        ModelError: if vLLM does not start with the model.
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
        with running_vllm(recipe, start, chat) as engine:
            yield engine
    elif section.engine == "openai":
        from selfjudge.training.served_rollout import ServedRollouts

        with closing(ServedRollouts(section.servers, chat)) as served:
            yield served
    else:
        yield None
