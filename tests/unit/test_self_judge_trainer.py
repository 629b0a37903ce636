"""What a step of self-training asks for and when: rollouts, and numbers from the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from selfjudge.recipes.schema import StopSection
from selfjudge.training.arguments import training_arguments
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.pairs import Pair, collate_pairs
from selfjudge.training.rollout import Rollout, RolloutStats
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer
from selfjudge.training.stop import StopRule

PAIR = Pair((5, 6), (7, 8, 9), (10, 11), 1.0, -3.0, -2.0)


class Counted:
    """Stands in for the rollouts and counts them."""

    def __init__(self) -> None:
        self.prompts: list[int] = []

    def collect(self, prompts: list[RolloutPrompt], seed: int, places: tuple[int, ...]) -> Rollout:
        self.prompts.append(len(prompts))
        n = len(prompts)
        return Rollout([PAIR] * n, [], RolloutStats(n, 2 * n, n, n, *[0.0] * 8, 1.0, 1.0))


class HostReads(TorchDispatchMode):
    """Counts how often a value leaves the device while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def make(
    tmp_path: Path, world_tokenizer: PreTrainedTokenizerBase, tiny_llama: Callable[..., LlamaForCausalLM]
) -> Callable[..., SelfJudgeTrainer]:
    def trainer(collector: Counted, rollout_steps: int = 1, **training: Any) -> SelfJudgeTrainer:
        stop = StopRule(StopSection(**training.pop("stop", {})))
        values = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 4, **training}
        return SelfJudgeTrainer(
            tiny_llama(world_tokenizer),
            training_arguments("self_training", values, tmp_path, seed=0),
            prompts=[RolloutPrompt(str(i), (), ()) for i in range(64)],
            collector=collector,  # type: ignore[arg-type]
            pad_id=0,
            rollout_steps=rollout_steps,
            stop=stop,
        )

    return trainer


@pytest.mark.parametrize(("steps", "rollouts"), [(1, [4] * 4), (2, [8] * 2)])
def test_a_rollout_and_its_reference_are_computed_once(
    make: Callable[..., SelfJudgeTrainer], steps: int, rollouts: list[int]
) -> None:
    collector = Counted()
    make(collector, steps, per_device_train_batch_size=2, gradient_accumulation_steps=2).train()
    assert collector.prompts == rollouts


@contextmanager
def outside_the_model(model: LlamaForCausalLM) -> Iterator[HostReads]:
    """Host reads of what we do; transformers' own, in the model's forward, are left out."""
    reads, before = HostReads(), 0

    def enter(*_: Any) -> None:
        nonlocal before
        before = reads.count

    def leave(*_: Any) -> None:
        reads.count = before

    handles = [model.model.register_forward_pre_hook(enter), model.model.register_forward_hook(leave)]
    with reads:
        yield reads
    for handle in handles:
        handle.remove()


def test_a_micro_batch_and_a_step_leave_their_measures_on_the_device(
    make: Callable[..., SelfJudgeTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(Counted())
    inputs = collate_pairs([PAIR, PAIR], pad_id=0)
    trainer.compute_loss(trainer.model, inputs)  # the first call tries the model's head
    monkeypatch.setattr(torch.Tensor, "tolist", forbidden)
    monkeypatch.setattr(torch.Tensor, "cpu", forbidden)
    with outside_the_model(trainer.model) as reads:
        for _ in range(3):
            trainer.compute_loss(trainer.model, inputs)
        trainer.check_stop()
        assert reads.count == 0


def forbidden(*_: Any) -> None:
    raise AssertionError("a transfer")


def test_a_log_is_one_transfer(make: Callable[..., SelfJudgeTrainer], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(Counted())
    inputs = collate_pairs([PAIR, PAIR], pad_id=0)
    trainer.compute_loss(trainer.model, inputs)
    trainer.compute_loss(trainer.model, inputs)
    lists: list[int] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(tensor.numel()) or tolist(tensor))
    logs: dict[str, float] = {}
    with HostReads() as reads:
        trainer.log(logs)
    assert (reads.count, lists) == (0, [9])
    assert logs["length/chosen"] == 3.0
    assert all(type(value) is float for name, value in logs.items() if "/" in name or name == "kl")


def test_a_limit_asks_for_the_kl_once_a_step(
    make: Callable[..., SelfJudgeTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(Counted(), stop={"max_kl": 1e9})
    trainer.compute_loss(trainer.model, collate_pairs([PAIR, PAIR], pad_id=0))
    lists: list[int] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(tensor.numel()) or tolist(tensor))
    with HostReads() as reads:
        assert not trainer.check_stop()
    assert (reads.count, lists) == (0, [1])


def test_what_a_step_leaves_is_taken_back(make: Callable[..., SelfJudgeTrainer]) -> None:
    left = {
        "stop": {
            "reason": None,
            "rule": {"start_length": 5.0, "recent": [{"kl": 1.0, "length": 7.0, "agreement": 0.25}]},
        },
        "logged": {"kl": (6.0, 4.0)},
        # A rule is asked after each step, but a rollout of two steps is measured before the first of them only.
        "seen": {"kl": 1.0, "length": 7.0, "agreement": 0.25},
    }
    trainer = make(Counted(), stop={"window": 4, "max_kl": 2.0})
    trainer.restore(left)
    assert trainer.progress().state() == left
    assert trainer._logged.take() == {"kl": 1.5}
