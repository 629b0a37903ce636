"""Rollouts beside training: the same as those between steps, but earlier and by the policy of the step before."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from selfjudge.data.load import prepare_data
from selfjudge.engines.base import Progress, SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel, load_model
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Completion
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.arguments import training_arguments
from selfjudge.training.pair_source import rollout_prompts
from selfjudge.training.pairing import PairRules
from selfjudge.training.pairs import Pair
from selfjudge.training.rollout import Rollout, RolloutCollector
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer

pytestmark = pytest.mark.timeout(120)
IN_MAIN = "MainThread"


class Beside(TransformersEngine):
    """A policy with its own copy of the weights, as vLLM has one; notes the calls and the threads they come from."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(copy.deepcopy(loaded.model), loaded.chat)
        self.trained = loaded.model
        self.calls: list[tuple[list[tuple[int, ...]], int]] = []
        self.threads: list[str] = []
        self.handed_over_in: list[str] = []
        self.before: Callable[[int, Progress | None], None] = lambda call, progress: None

    def hand_over(self) -> None:
        self.handed_over_in.append(threading.current_thread().name)
        self.model.load_state_dict(self.trained.state_dict())

    def sample(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, progress: Progress | None = None
    ) -> list[list[Completion]]:
        self.calls.append(([tuple(p) for p in prompts], params.seed))
        self.threads.append(threading.current_thread().name)
        self.before(len(self.calls), progress)
        return super().sample(prompts, params, progress)


class Reference(TransformersEngine):
    threads: list[str]

    def response_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        self.threads.append(threading.current_thread().name)
        return super().response_logprobs(rows)


class Run:
    """A self-training run on the tiny model whose policy samples on a copy of its own."""

    def __init__(self, recipe: Recipe, folder: Path, ahead: bool, callbacks: Sequence[TrainerCallback] = ()) -> None:
        self.loaded = load_model(recipe.model.path, dtype="float32")
        section = recipe.self_training
        self.policy = Beside(self.loaded)
        self.reference = Reference(copy.deepcopy(self.loaded.model), self.loaded.chat)
        self.reference.threads = []
        self.rollouts: list[tuple[int, Rollout]] = []
        encoder = JudgmentEncoder(load_templates("world"), self.loaded.chat)
        self.trainer = SelfJudgeTrainer(
            self.loaded.model,
            training_arguments("self_training", section.training, folder, recipe.seed),
            prompts=rollout_prompts(recipe, prepare_data(recipe.data, 0), self.loaded)[0],
            collector=RolloutCollector(
                policy=self.policy,
                judge=Judge(self.reference, encoder),
                reference=self.reference,
                params=SamplingParams(n=2, max_new_tokens=8),
                rules=PairRules(labels="soft"),
                response_kl=self.response_kl,
                hand_over=self.policy.hand_over,
            ),
            pad_id=0,
            rollout_steps=section.rollout.steps,
            ahead=ahead,
            on_rollout=lambda step, rollout: self.rollouts.append((step, rollout)),
            callbacks=list(callbacks),
        )

    def response_kl(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        self.reference.threads.append(threading.current_thread().name)
        return TransformersEngine(self.loaded.model, self.loaded.chat).response_kl(self.reference, rows)

    @property
    def staleness(self) -> list[float]:
        return [row["rollout/staleness"] for row in self.trainer.state.log_history if "rollout/staleness" in row]

    @property
    def pairs(self) -> list[list[Pair]]:
        return [rollout.pairs for _, rollout in self.rollouts]


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """24 prompts in steps of 2 x 5: five micro-batches an epoch, so two full steps and a short one."""

    def make(rollout_steps: int = 1, **training: Any) -> Recipe:
        settings = {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 2, "save_strategy": "no"}
        section = {
            "rollout": {"max_new_tokens": 8, "steps": rollout_steps},
            "training": {"max_steps": 5, "learning_rate": 1e-2, **settings, **training},
        }
        return tiny_recipe(24, self_training=section)

    return make


def test_the_same_prompts_and_seeds_in_the_same_order(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    runs = [Run(recipe(), tmp_path, ahead) for ahead in (False, True)]
    for run in runs:
        run.trainer.train()
    between, beside = runs
    assert beside.policy.calls == between.policy.calls
    assert [len(prompts) for prompts, _ in beside.policy.calls] == [10, 10, 4, 10, 10]  # five steps, and no more
    assert [step for step, _ in beside.rollouts] == [0, 1, 2, 3, 4]
    # Each epoch begins with a rollout of its own step: its prompts are not known before.
    assert beside.staleness == [0, 1, 1, 0, 1]
    assert between.staleness == [0] * 5
    # The first two steps are on the samples of one policy, and a step changes it.
    assert [j.samples for j in beside.rollouts[0][1].judged] == [j.samples for j in between.rollouts[0][1].judged]
    assert [j.samples for j in beside.rollouts[2][1].judged] != [j.samples for j in between.rollouts[2][1].judged]


def test_samples_and_judgments_are_made_in_the_thread_and_the_rest_is_not(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = Run(recipe(), tmp_path, True)
    run.trainer.train()
    assert [name == IN_MAIN for name in run.policy.threads] == [True, False, False, True, False]
    assert run.policy.handed_over_in == [IN_MAIN] * 5
    assert run.reference.threads == [IN_MAIN] * 10  # log-probs and KL
    kl = [rollout.stats.kl for _, rollout in run.rollouts]
    assert kl[0] == 0  # the weights in training are still the reference's
    assert min(kl[1:]) > 1e-3


@pytest.mark.parametrize("rollout_steps", [1, 2])
def test_without_learning_the_pairs_are_those_of_rollouts_between_steps(
    recipe: Callable[..., Recipe], tmp_path: Path, rollout_steps: int
) -> None:
    found = []
    for ahead in (False, True):
        run = Run(recipe(rollout_steps, learning_rate=0.0, num_train_epochs=2, max_steps=-1), tmp_path, ahead)
        run.trainer.train()
        assert run.trainer.state.global_step == 6
        found.append(run.pairs)
    assert found[0] == found[1]
    assert len(found[0]) == {1: 6, 2: 4}[rollout_steps]
    assert all(found[0])
    assert run.staleness == {1: [0, 1, 1] * 2, 2: [0, 2] * 2}[rollout_steps]


class StepsBegun(TrainerCallback):
    def __init__(self) -> None:
        self.begun = [threading.Event() for _ in range(5)]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun[state.global_step].set()


def test_a_rollout_is_drawn_while_the_step_before_is_trained_on(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    steps = StepsBegun()
    run = Run(recipe(max_steps=3), tmp_path, True, [steps])

    def wait_for_the_step_before(call: int, progress: Progress | None) -> None:
        if call > 1:
            assert steps.begun[call - 2].wait(20)

    run.policy.before = wait_for_the_step_before
    run.trainer.train()
    assert len(run.policy.calls) == 3
    assert run.staleness == [0, 1, 1]


def test_an_error_in_the_thread_ends_training_with_its_own_words(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = Run(recipe(), tmp_path, True)

    def fail(call: int, progress: Progress | None) -> None:
        if call == 2:
            raise RuntimeError("the engine has died")

    run.policy.before = fail
    with pytest.raises(RuntimeError, match=r"^the engine has died$"):
        run.trainer.train()
    assert run.trainer.state.global_step == 1  # the step that ran meanwhile


class Interrupt(TrainerCallback):
    """Ends training after a step, by Ctrl-C or by a callback's word, once the next rollout has begun."""

    def __init__(self, run: Callable[[], Run], how: str, at: int = 2) -> None:
        self.run, self.how, self.at = run, how, at

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.at:
            while len(self.run().policy.calls) <= self.at:
                time.sleep(0.01)
            if self.how == "Ctrl-C":
                raise KeyboardInterrupt
            control.should_training_stop = True


@pytest.mark.parametrize("how", ["Ctrl-C", "stop"])
def test_a_rollout_under_way_is_ended_with_training(recipe: Callable[..., Recipe], tmp_path: Path, how: str) -> None:
    run = Run(recipe(), tmp_path, True, [Interrupt(lambda: run, how)])
    ended: list[str] = []

    def go_on_for_ever(call: int, progress: Progress | None) -> None:
        if call == 3:
            assert progress
            try:
                while True:
                    progress(1)
                    time.sleep(0.01)
            except Exception as e:
                ended.append(type(e).__name__)
                raise

    run.policy.before = go_on_for_ever
    if how == "Ctrl-C":
        with pytest.raises(KeyboardInterrupt):
            run.trainer.train()
    else:
        run.trainer.train()
    assert ended == ["_Stopped"]
    assert len(run.policy.calls) == 3
    assert len(run.rollouts) == 2


def test_a_resumed_run_begins_with_a_rollout_of_its_own_step(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    settings = recipe(save_strategy="steps", save_steps=2)
    whole = Run(settings, tmp_path / "whole", True)
    whole.trainer.train()
    cut = Run(settings, tmp_path / "cut", True, [Interrupt(lambda: cut, "Ctrl-C", at=4)])
    with pytest.raises(KeyboardInterrupt):
        cut.trainer.train()
    resumed = Run(settings, tmp_path / "cut", True)
    resumed.trainer.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert resumed.policy.calls == whole.policy.calls[2:]
    assert [step for step, _ in resumed.rollouts] == [2, 3, 4]
    assert resumed.staleness == [0, 1, *[0, 0, 1]]  # the checkpoint's log, then its own
