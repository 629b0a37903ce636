"""A run that was cut off and resumed ends where the uninterrupted one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from selfjudge.data.io import read_jsonl
from selfjudge.engines.load import load_model
from selfjudge.recipes.schema import Recipe
from selfjudge.training.jsft import run_jsft
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.replay import Replay, ReplayBatch
from selfjudge.training.rollout import Rollout, RolloutCollector
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training

TIMES = ("runtime", "per_second", "flos")


def lines(run: RunFolder, name: str) -> list[dict[str, Any]]:
    """The rows of a log without what depends on the clock."""
    rows = [row for _, row in read_jsonl(run.path / name)]
    return [{k: v for k, v in row.items() if not any(t in k for t in TIMES)} for row in rows]


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """Ends the run by Ctrl-C at the given call of a method."""
    method, calls = getattr(owner, name), []

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return method(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def resumed(
    stage: Callable[..., RunFolder], recipe: Recipe, folder: Path, owner: type, name: str, call: int
) -> RunFolder:
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupt(monkeypatch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            stage(recipe, folder)
    assert not (folder / "final").exists()
    return stage(recipe, folder, resume=True)


def assert_same_end(run: RunFolder, whole: RunFolder, distance: Callable[..., float], start: Path) -> None:
    ended, expected = (load_model(r.model).model for r in (run, whole))
    assert distance(expected, load_model(start).model) > 1e-3
    assert distance(ended, expected) < 1e-6
    ours, theirs = lines(run, "metrics.jsonl"), lines(whole, "metrics.jsonl")
    # The last line is the Trainer's summary; its mean loss counts from the checkpoint on.
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert row == pytest.approx(other, abs=1e-5)


SELF_TRAINING = {"max_steps": 7, "save_steps": 2, "learning_rate": 1e-2, "gradient_accumulation_steps": 2}


# With LoRA, dropout draws from the random state that a checkpoint has to keep.
@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.1}], ids=["full", "lora"])
def test_self_training(
    tmp_path: Path,
    tiny_recipe: Callable[..., Recipe],
    tiny_model_folder: Path,
    distance: Callable[[PreTrainedModel, PreTrainedModel], float],
    lora: dict[str, Any] | None,
) -> None:
    # 24 prompts in steps of 2 x 4 are three steps an epoch; cut off in step 6, resumed from checkpoint 4.
    training = {**SELF_TRAINING, "per_device_train_batch_size": 4}
    recipe = tiny_recipe(24, self_training={"lora": lora, "training": training})
    whole = run_self_training(recipe, tmp_path / "whole")
    run = resumed(run_self_training, recipe, tmp_path / "cut", RolloutCollector, "collect", 6)
    assert_same_end(run, whole, distance, tiny_model_folder)
    assert lines(run, "rollouts.jsonl") == lines(whole, "rollouts.jsonl")
    assert len(lines(whole, "rollouts.jsonl")) == 14  # two pairs of each of seven rollouts
    assert run.info["steps"] == whole.info["steps"] == 7
    assert run.info["status"] == "finished"


def test_self_training_with_replay(
    tmp_path: Path,
    tiny_recipe: Callable[..., Recipe],
    tiny_model_folder: Path,
    distance: Callable[[PreTrainedModel, PreTrainedModel], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw, drawn = Replay.batches, []

    def spy(self: Replay, *args: Any) -> list[ReplayBatch]:
        batches = draw(self, *args)
        drawn.append([batch["input_ids"].tolist() for batch in batches])
        return batches

    monkeypatch.setattr(Replay, "batches", spy)
    training = {**SELF_TRAINING, "max_steps": 5, "per_device_train_batch_size": 4}
    recipe = tiny_recipe(24, self_training={"lora": {"r": 4}, "replay": 0.5, "training": training})
    whole = run_self_training(recipe, tmp_path / "whole")
    run = resumed(run_self_training, recipe, tmp_path / "cut", RolloutCollector, "collect", 4)
    assert_same_end(run, whole, distance, tiny_model_folder)
    assert len({str(step) for step in drawn[:5]}) == 5  # every step draws anew
    # Cut off in step 4, resumed from checkpoint 2.
    assert drawn[5:] == [*drawn[:3], *drawn[2:5]]


def test_the_samples_after_the_cut_are_those_of_the_whole_run(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(24, self_training={"lora": None, "training": {**SELF_TRAINING, "max_steps": 3}})
    seen: dict[str, list[Rollout]] = {"a": [], "b": []}
    for name, calls in (("a", None), ("b", 3)):
        with pytest.MonkeyPatch.context() as monkeypatch:
            collect = RolloutCollector.collect

            def spy(self: Any, *args: Any, collect: Any = collect, name: str = name) -> Rollout:
                seen[name].append(collect(self, *args))
                return seen[name][-1]

            monkeypatch.setattr(RolloutCollector, "collect", spy)
            if calls:
                resumed(run_self_training, recipe, tmp_path / name, RolloutCollector, "collect", calls)
            else:
                run_self_training(recipe, tmp_path / name)
    samples = {name: [[j.samples for j in r.judged] for r in rollouts] for name, rollouts in seen.items()}
    assert len(samples["a"]) == 3
    assert len({str(s) for s in samples["a"]}) == 3  # every step draws anew
    assert samples["b"] == samples["a"]  # two before the cut; the third after it


def test_jsft(
    tmp_path: Path,
    tiny_recipe: Callable[..., Recipe],
    tiny_model_folder: Path,
    distance: Callable[[PreTrainedModel, PreTrainedModel], float],
) -> None:
    training = {"max_steps": 7, "save_steps": 2, "learning_rate": 1e-2}
    recipe = tiny_recipe(12, jsft={"training": training})  # 36 rows are five steps an epoch
    whole = run_jsft(recipe, tmp_path / "whole")
    run = resumed(run_jsft, recipe, tmp_path / "cut", JsftTrainer, "compute_loss", 6)
    assert_same_end(run, whole, distance, tiny_model_folder)


def test_in_the_middle_of_a_rollout_for_several_steps(
    tmp_path: Path,
    tiny_recipe: Callable[..., Recipe],
    tiny_model_folder: Path,
    distance: Callable[[PreTrainedModel, PreTrainedModel], float],
) -> None:
    section = {
        "lora": None,
        "rollout": {"top_p": 1.0, "max_new_tokens": 8, "steps": 2},
        "training": {**SELF_TRAINING, "save_steps": 3, "max_steps": 6, "gradient_accumulation_steps": 1},
    }
    recipe = tiny_recipe(64, self_training=section)  # eight steps an epoch; a checkpoint between steps 3 and 4
    whole = run_self_training(recipe, tmp_path / "whole")
    run = resumed(run_self_training, recipe, tmp_path / "cut", RolloutCollector, "collect", 3)
    assert_same_end(run, whole, distance, tiny_model_folder)


def test_the_stop_rule_remembers(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    section = {
        "lora": None,
        "stop": {"window": 4, "max_kl": 1e-6},
        "training": {**SELF_TRAINING, "save_steps": 3, "max_steps": 12},
    }
    recipe = tiny_recipe(24, self_training=section)
    whole = run_self_training(recipe, tmp_path / "whole")
    assert whole.info["steps"] == 4  # as soon as the window is full
    run = resumed(run_self_training, recipe, tmp_path / "cut", RolloutCollector, "collect", 4)
    assert run.info["steps"] == 4
