"""What a step of self-training asks for and when: rollouts, and numbers from the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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
    def trainer(collector: Counted | Drifting, rollout_steps: int = 1, **training: Any) -> SelfJudgeTrainer:
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
    assert (reads.count, lists) == (0, [8])
    assert logs["length/chosen"] == 3.0
    assert all(type(value) is float for name, value in logs.items() if "/" in name)


class Drifting:
    """Stands in for rollouts of a policy that moves away: KL 0, 2, 4 ... and lengths of 5, 6, 7 ... tokens.

    With ``own`` the pairs are another's, and say that nothing changes.
    """

    def __init__(self, *, own: bool) -> None:
        self.own, self.rollouts = own, 0

    def collect(self, prompts: list[RolloutPrompt], seed: int, places: tuple[int, ...]) -> Rollout:
        n = len(prompts)
        pairs = RolloutStats(n, 2 * n, n, n, *[0.0] * 8, 5.0, 1.0)
        policy = replace(pairs, response_length=5.0 + self.rollouts, kl=2.0 * self.rollouts, kl_responses=1)
        self.rollouts += 1
        return Rollout([PAIR] * n, [], pairs, policy) if self.own else Rollout([PAIR] * n, [], policy)


@pytest.mark.parametrize("own", [False, True], ids=["on policy", "pairs of another"])
@pytest.mark.parametrize(
    ("limit", "rollout_steps", "stopped", "reason"),
    [
        # Steps see KL 0, 2, 4: the mean of two is 3 after the third.
        ({"max_kl": 2.5}, 1, 3, "KL to the reference 3.00 is over the budget of 2.5"),
        # Two steps a rollout see 0, 0, 2, 2, 4, 4: the second step of a rollout has that rollout's.
        ({"max_kl": 2.5}, 2, 5, "KL to the reference 3.00 is over the budget of 2.5"),
        # Lengths 5, 6, 7, 8: 5.5 at first, 7.5 is 1.36 times that.
        ({"max_length_ratio": 1.3}, 1, 4, "responses grew from 5.5 to 7.5 tokens"),
    ],
)
def test_the_stop_rule_reads_the_policys_own_samples(
    make: Callable[..., SelfJudgeTrainer],
    own: bool,
    limit: dict[str, float],
    rollout_steps: int,
    stopped: int,
    reason: str,
) -> None:
    trainer = make(Drifting(own=own), rollout_steps, stop={"window": 2, **limit}, max_steps=8, logging_steps=1)
    trainer.train()
    assert trainer.state.global_step == stopped
    assert reason in trainer.stop_reason
    rows = [row for row in trainer.state.log_history if "kl" in row]
    assert [row["kl"] for row in rows] == [2.0 * i for i in range(len(rows))]
    assert len(rows) == -(-stopped // rollout_steps)  # once per rollout
    own_lengths = [row["own/length"] for row in rows if "own/length" in row]
    assert own_lengths == ([5.0 + i for i in range(len(rows))] if own else [])
    lengths = [row["rollout/length"] for row in rows]
    assert lengths == ([5.0] * len(rows) if own else [5.0 + i for i in range(len(rows))])


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
