"""Whole runs end, or go on, as the limits of the stop rule say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfjudge.engines.hf import TransformersEngine
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Completion
from selfjudge.training.self_training import run_self_training

STEPS = 3


@pytest.fixture
def ended(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> Callable[..., tuple[int, str | None]]:
    """Runs with limits, and gives the steps it took and why it stopped."""

    def run(stop: dict[str, float], learning_rate: float = 0.0) -> tuple[int, str | None]:
        training = {"max_steps": STEPS, "learning_rate": learning_rate, "save_strategy": "no"}
        recipe = tiny_recipe(24, self_training={"stop": {"window": 1, **stop}, "training": training})
        found = json.loads((run_self_training(recipe, tmp_path / "run").path / "run.json").read_text())
        return found["steps"], found["stopped"]

    return run


@pytest.mark.parametrize("agree", [True, False])
def test_orders_that_agree_go_on_and_orders_that_do_not_stop_the_run(
    ended: Callable[..., tuple[int, str | None]], monkeypatch: pytest.MonkeyPatch, agree: bool
) -> None:
    """Either way the mean of both orders prefers the first sample, by .9 or by .55, so that there are pairs."""
    orders = [[0.9, 0.1], [0.1, 0.9]] if agree else [[0.9, 0.1], [0.8, 0.2]]

    def judge(self: TransformersEngine, prompts: Sequence[Any], progress: Any = None) -> np.ndarray:
        return np.array(orders * (len(prompts) // 2))

    monkeypatch.setattr(TransformersEngine, "label_probabilities", judge)
    steps, stopped = ended({"min_agreement": 0.5})
    assert steps == (STEPS if agree else 1)
    assert stopped is None if agree else "agree on 0% of pairs" in str(stopped)


@pytest.mark.parametrize("grow", [True, False])
def test_answers_that_grow_stop_the_run(
    ended: Callable[..., tuple[int, str | None]], monkeypatch: pytest.MonkeyPatch, grow: bool
) -> None:
    calls = []

    def sample(self: TransformersEngine, prompts: Sequence[Any], params: Any, *_: Any) -> list[list[Completion]]:
        calls.append(prompts)
        n = 6 if grow and len(calls) > 1 else 3
        texts = ["fox", "owl"]
        row = [Completion(ids=(300 + i,) * n, text=text, finish_reason="stop") for i, text in enumerate(texts)]
        return [row for _ in prompts]

    monkeypatch.setattr(TransformersEngine, "sample", sample)
    steps, stopped = ended({"max_length_ratio": 1.9})
    assert steps == (2 if grow else STEPS)
    assert stopped == ("responses grew from 3.0 to 6.0 tokens, over 1.9 times" if grow else None)


@pytest.mark.parametrize(("learning_rate", "moves"), [(0.0, False), (0.05, True)])
def test_a_policy_that_leaves_its_reference_is_stopped(
    ended: Callable[..., tuple[int, str | None]], learning_rate: float, moves: bool
) -> None:
    steps, stopped = ended({"max_kl": 0.05}, learning_rate)
    # Before the first step's update both are the same model.
    assert steps == (2 if moves else STEPS)
    assert str(stopped).startswith("KL to the reference") if moves else stopped is None
