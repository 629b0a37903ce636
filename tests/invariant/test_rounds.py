"""Rounds: the result of one starts the next, and its judge is measured beside the former one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from selfjudge.core.statistics import proportion
from selfjudge.data.io import read_jsonl
from selfjudge.data.load import prepare_data
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.errors import RecipeError
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training import rounds as rounds_module
from selfjudge.training.held_out import as_comparisons
from selfjudge.training.rollout import RolloutCollector
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training

Make = Callable[..., Recipe]
Distance = Callable[[PreTrainedModel, PreTrainedModel], float]
STEPS = 3


@pytest.fixture
def recipe_of(tiny_recipe: Make) -> Make:
    """Makes recipes of rounds of three steps; a third of the prompts is held out."""

    def make(rounds: int = 2, held_out: float = 0.3, **section: Any) -> Recipe:
        training = {"max_steps": STEPS, "save_steps": 2, "learning_rate": 3e-2, "per_device_train_batch_size": 4}
        values = {"lora": {"r": 4, "dropout": 0.0}, "rounds": rounds, "training": training, **section}
        return tiny_recipe(40, data={"held_out": held_out}, self_training=values)

    return make


def weights(folder: Path) -> PreTrainedModel:
    return load_model(folder, dtype="float32").model


def test_a_round_starts_from_the_merged_result_of_the_one_before(
    tmp_path: Path, recipe_of: Make, distance: Distance, tiny_model_folder: Path
) -> None:
    run = run_self_training(recipe_of(), tmp_path / "run")
    once = run_self_training(recipe_of(rounds=1), tmp_path / "once")
    first, second = tmp_path / "run" / "round-1", tmp_path / "run" / "round-2"
    assert distance(weights(first), weights(once.path)) == 0  # the first round is a run of one round
    assert RunFolder.finished(second).info["start"] == str(first)  # type: ignore[union-attr]
    adapted = load_model(first, adapter=second, dtype="float32").model
    assert isinstance(adapted, PeftModel)
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, weights(second)(ids).logits, atol=1e-4, rtol=1e-4)
    assert distance(weights(second), weights(first)) > 1e-3
    # The reference is the start of the round, not of the run: at its first step the policy is at no distance.
    kl = [row["kl"] for _, row in read_jsonl(second / "metrics.jsonl") if "kl" in row]
    assert kl[0] == 0
    assert kl[-1] > 1e-3
    assert distance(weights(run.path), weights(second)) == 0
    assert (run.model / "model.safetensors").samefile(second / "final" / "model.safetensors")  # and not a copy
    assert (run.info["steps"], run.info["stopped"], run.info["status"]) == (2 * STEPS, None, "finished")
    assert prompts(first) != prompts(second)  # shuffled anew


def prompts(folder: Path) -> list[str]:
    return [row["prompt"] for _, row in read_jsonl(folder / "rollouts.jsonl")]


def test_the_judge_is_measured_after_each_round(tmp_path: Path, recipe_of: Make, tiny_model_folder: Path) -> None:
    recipe = recipe_of()
    run = run_self_training(recipe, tmp_path / "run")
    comparisons = as_comparisons(prepare_data(recipe.data, recipe.seed).held_out)
    preferred = []
    for folder in (tiny_model_folder, run.path / "round-1", run.path / "round-2"):
        loaded = load_model(folder)
        judge = Judge(
            TransformersEngine(loaded.model, loaded.chat), JudgmentEncoder(load_templates("world"), loaded.chat)
        )
        preferred.append([v.preferred for v in judge.judge(comparisons)])
    assert 5 < len(comparisons) < 40
    for number in (1, 2):
        (before, now), info = preferred[number - 1 : number + 1], run.info["rounds"][number - 1]
        assert info == {k: RunFolder.finished(run.path / f"round-{number}").info[k] for k in info}  # type: ignore[union-attr]
        right = sum(0.5 if p == "tie" else p == c.label for p, c in zip(now, comparisons, strict=True))
        same = sum(a == b for a, b in zip(before, now, strict=True))
        assert info["judge"]["accuracy"] == proportion(right, len(comparisons)).model_dump()
        assert info["judge"]["former_agreement"] == proportion(same, len(comparisons)).model_dump()
        assert info["accepted"]


@pytest.mark.parametrize("rejected", [1, 2])
def test_a_judge_that_changes_its_mind_ends_the_rounds_and_the_former_model_is_kept(
    tmp_path: Path,
    recipe_of: Make,
    distance: Distance,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    rejected: int,
) -> None:
    agreements = iter([proportion(10, 10)] * (rejected - 1) + [proportion(5, 10)])
    monkeypatch.setattr(rounds_module, "same_verdicts", lambda *_: next(agreements))
    run = run_self_training(recipe_of(rounds=3, stop={"min_judge_agreement": 0.6}), tmp_path / "run")
    assert [r["accepted"] for r in run.info["rounds"]] == [True] * (rejected - 1) + [False]
    assert not (run.path / f"round-{rejected + 1}").exists()
    kept = {1: tiny_model_folder, 2: run.path / "round-1"}[rejected]
    assert distance(weights(run.path), weights(kept)) == 0
    assert distance(weights(run.path), weights(run.path / f"round-{rejected}")) > 1e-3
    words = {1: "the start", 2: "round 1"}[rejected]
    assert run.info["stopped"] == (
        f"the judge of round {rejected} agrees with the former one on 50% of held-out pairs, under 60%: "
        f"the model of {words} is kept"
    )


def interrupted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    method, calls = getattr(owner, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


# Six rollouts are made, three in each round, and the judge is measured three times: the start, and after each round.
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (RolloutCollector, "collect", 2),
        (RolloutCollector, "collect", 6),
        (rounds_module, "judge_held_out", 2),
        (rounds_module, "judge_held_out", 3),
        (rounds_module, "_link_folder", 1),
    ],
    ids=["first round", "second round", "before the first measure", "before the second measure", "before the end"],
)
def test_resuming_goes_on_with_the_unfinished_round(
    tmp_path: Path, recipe_of: Make, distance: Distance, owner: Any, name: str, call: int
) -> None:
    whole = run_self_training(recipe_of(), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupted(monkeypatch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            run_self_training(recipe_of(), tmp_path / "cut")
    done = {f: f.stat().st_mtime_ns for f in (tmp_path / "cut").glob("round-*/final/*")}
    run = run_self_training(recipe_of(), tmp_path / "cut", resume=True)
    assert done == {f: f.stat().st_mtime_ns for f in done}  # what was finished is left alone
    assert distance(weights(run.path), weights(whole.path)) < 1e-6
    assert run.info["rounds"] == whole.info["rounds"]


def test_without_held_out_pairs_nothing_is_measured(tmp_path: Path, recipe_of: Make) -> None:
    run = run_self_training(recipe_of(held_out=0), tmp_path / "run")
    assert [(r["judge"], r["accepted"]) for r in run.info["rounds"]] == [(None, True)] * 2


def test_what_is_wrong_is_found_out_before_anything_is_written(tmp_path: Path, recipe_of: Make) -> None:
    recipe = recipe_of()
    recipe.self_training.training["learning_rat"] = 1
    with pytest.raises(RecipeError):
        run_self_training(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
