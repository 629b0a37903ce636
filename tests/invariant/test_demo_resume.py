"""A demo that is interrupted in any of its parts, and resumed, ends where the uninterrupted one does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from selfjudge.evaluation import base_model, demo, demo_measures
from selfjudge.recipes.load import load_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.rollout import RolloutCollector

SMALL = (
    "data.sources.0.limit=60",
    "jsft.training.max_steps=5",
    "jsft.training.save_steps=2",
    "self_training.training.max_steps=5",
    "self_training.training.save_steps=2",
    "self_training.training.per_device_train_batch_size=4",
    "self_training.rollout.max_new_tokens=6",
)


@pytest.fixture(autouse=True)
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(name: str, changes: Sequence[str]) -> Recipe:
        return load_recipe(name, [*SMALL, *changes])

    monkeypatch.setattr(demo, "load_recipe", recipe)
    monkeypatch.setattr(demo_measures, "PROMPTS", 24)
    monkeypatch.setattr(demo_measures, "CANDIDATES", 4)
    monkeypatch.setattr(demo, "CURVE_PROMPTS", 4)
    monkeypatch.setattr(demo, "CURVE_EVERY", 2)
    monkeypatch.setattr(base_model, "STEPS", 4)


def interrupted(owner: Any, name: str, call: int, run: Callable[[], object]) -> None:
    """Runs until the given call of a function, which is cut off."""
    function, calls = getattr(owner, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        with pytest.raises(KeyboardInterrupt):
            run()


def results(folder: Path) -> dict[str, Any]:
    found = {
        **{str(f.relative_to(folder)): f.read_bytes() for f in folder.glob("*/final/*.safetensors")},
        **{f"{labels}/curve.jsonl": (folder / labels / "curve.jsonl").read_text() for labels in ("soft", "hard")},
        **json.loads((folder / "results.json").read_text()),
    }
    found.pop("seconds")
    return found


@pytest.mark.slow
def test_every_part_goes_on(tmp_path: Path) -> None:
    whole = demo.run_demo(tmp_path / "whole")
    cut = tmp_path / "cut"
    interrupted(Trainer, "training_step", 3, lambda: demo.run_demo(cut))  # the base model
    interrupted(JsftTrainer, "compute_loss", 8, lambda: demo.run_demo(cut, resume=True))  # base: 4, JSFT's fourth step
    interrupted(RolloutCollector, "collect", 4, lambda: demo.run_demo(cut, resume=True))  # soft labels
    interrupted(RolloutCollector, "collect", 3 + 4, lambda: demo.run_demo(cut, resume=True))  # 3 were left; hard labels
    interrupted(demo, "measure", 1, lambda: demo.run_demo(cut, resume=True))
    demo.run_demo(cut, resume=True)
    assert results(cut) == results(whole)
    assert {f"{stage}/final/model.safetensors" for stage in ("jsft", "soft", "hard")} <= results(cut).keys()
