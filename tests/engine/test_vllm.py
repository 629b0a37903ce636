"""The vLLM engine against transformers in float32, on a real vLLM: hand-overs take effect, nothing stale is left."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from small_model import (
    TRAINING,
    add_adapter,
    assert_same_greedy,
    distance,
    logprobs,
    own_logprobs,
    recipe,
    small_llama,
)
from transformers import PreTrainedModel

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make test-vllm` installs it and runs these", allow_module_level=True)

from selfjudge.data.io import read_jsonl
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.vllm_engine import VllmCore, VllmEngine
from selfjudge.errors import ModelError
from selfjudge.judge import Judge
from selfjudge.records import Comparison
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates
from selfjudge.training.rollout import Rollout, RolloutCollector
from selfjudge.training.self_training import run_self_training
from selfjudge.training.vllm_rollout import HandedOverPolicy

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def core(folder: Path) -> Iterator[VllmCore]:
    core = VllmCore(folder, lora_rank=4, gpu_memory_utilization=0.1, enforce_eager=True)
    yield core
    core.close()


@pytest.fixture
def base(core: VllmCore, chat: ChatEncoder) -> VllmEngine:
    return VllmEngine(core, chat, adapter=False)


@pytest.fixture
def policy(core: VllmCore, chat: ChatEncoder) -> VllmEngine:
    return VllmEngine(core, chat)


@pytest.fixture
def adapter(model: PreTrainedModel, tmp_path: Path) -> Iterator[Callable[[int, Path], PeftModel]]:
    """Makes adapters that change something, saves each to a folder and gives its PEFT model."""
    made: list[PeftModel] = []

    def make(seed: int, target: Path) -> PeftModel:
        while made:
            made.pop().unload()
        made.append(add_adapter(model, seed, target))
        return made[-1]

    yield make
    while made:
        made.pop().unload()


def test_label_probabilities_are_those_of_transformers(
    base: VllmEngine, true: TransformersEngine, judgments: list[JudgmentPrompt]
) -> None:
    seen: list[int] = []
    found = base.label_probabilities([*judgments, *judgments[:3]], seen.append)
    expected = true.label_probabilities(judgments)
    assert (expected.sum(1) > 0.1).sum() >= 20  # there is something to compare
    assert expected[:, 0].std() > 0.01
    assert distance(found[: len(judgments)], expected) < 1e-2
    assert (found[len(judgments) :] == found[:3]).all()
    assert sum(seen) == len(found)
    # A second time from the prefix cache.
    assert distance(base.label_probabilities(judgments), expected) < 1e-2
    assert base.label_probabilities([]).shape == (0, 2)


def test_the_judge_reaches_the_same_verdicts(
    base: VllmEngine, true: TransformersEngine, comparisons: list[Comparison], chat: ChatEncoder
) -> None:
    encoder = JudgmentEncoder(load_templates("world"), chat)
    found, expected = (Judge(engine, encoder).judge(comparisons) for engine in (base, true))
    assert [v.preferred for v in found] == [v.preferred for v in expected]
    assert [v.strength for v in found] == pytest.approx([v.strength for v in expected], abs=1e-2)


def test_greedy_samples_are_those_of_transformers(
    base: VllmEngine, true: TransformersEngine, prompts: list[list[int]]
) -> None:
    params = SamplingParams(temperature=0, max_new_tokens=20)
    assert_same_greedy(base.sample(prompts, params), true.sample(prompts, params))


def test_samples_carry_their_ids_and_log_probabilities(
    base: VllmEngine, true: TransformersEngine, prompts: list[list[int]], chat: ChatEncoder
) -> None:
    # Temperature and top_p change what is drawn, never the log-probabilities.
    params = SamplingParams(n=3, temperature=1.3, top_p=0.9, max_new_tokens=10, seed=7)
    sampled = base.sample(prompts, params)
    assert base.sample(prompts, params) == sampled
    assert base.sample(prompts, SamplingParams(n=3, temperature=1.3, top_p=0.9, max_new_tokens=10, seed=8)) != sampled
    assert len({c.ids for c in sampled[0]}) > 1
    completions = [c for row in sampled for c in row]
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for c in completions:
        assert len(c.ids) == len(c.logprobs or ())
        assert (c.ids[-1] in chat.stop_ids) == (c.finish_reason == "stop")
        assert not set(c.ids[:-1]) & set(chat.stop_ids)
        assert c.finish_reason == "stop" or len(c.ids) == 10
        assert c.text == chat.decode(c.ids)
    assert distance(own_logprobs(sampled), logprobs(true, prompts, sampled)) < 1e-2


def test_equal_prompts_in_one_call_are_sampled_independently(base: VllmEngine, prompts: list[list[int]]) -> None:
    sampled = base.sample([prompts[0]] * 8, SamplingParams(n=2, max_new_tokens=10))
    assert len({c.ids for row in sampled for c in row}) > 8


@pytest.mark.parametrize("same_folder", [False, True])
def test_each_adapter_handed_over_takes_effect(
    base: VllmEngine,
    policy: VllmEngine,
    chat: ChatEncoder,
    judgments: list[JudgmentPrompt],
    prompts: list[list[int]],
    adapter: Callable[[int, Path], PeftModel],
    tmp_path: Path,
    same_folder: bool,
) -> None:
    start = base.label_probabilities(judgments)
    before = start
    for seed in (1, 2, 3):
        folder = tmp_path / ("policy" if same_folder else f"policy-{seed}")
        adapted = TransformersEngine(adapter(seed, folder), chat)
        policy.core.load_adapter(folder)
        found = policy.label_probabilities(judgments)
        assert distance(found, before) > 0.05  # other than the last one, and than the base
        assert distance(found, adapted.label_probabilities(judgments)) < 1e-2
        sampled = policy.sample(prompts, SamplingParams(max_new_tokens=10, seed=seed))
        assert distance(own_logprobs(sampled), logprobs(adapted, prompts, sampled)) < 1e-2
        assert distance(base.label_probabilities(judgments), start) < 1e-5  # the judge stays what it was
        before = found


def large(folder: Path) -> Path:
    """Saves an adapter of a larger rank than the fixture's vLLM has room for."""
    config = LoraConfig(r=32, target_modules="all-linear")
    get_peft_model(small_llama(0), config).save_pretrained(str(folder))
    return folder


def test_an_adapter_vllm_cannot_use_is_refused(
    policy: VllmEngine, adapter: Callable[[int, Path], PeftModel], judgments: list[JudgmentPrompt], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="holds no adapter"):
        policy.core.load_adapter(tmp_path)
    adapter(1, tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "elsewhere"): t for name, t in load_file(file).items()}, file)
    with pytest.raises(ModelError, match="cannot use the adapter"):
        policy.core.load_adapter(tmp_path / "a")
    with pytest.raises(ModelError, match="rank"):
        policy.core.load_adapter(large(tmp_path / "large"))
    adapter(1, tmp_path / "b")
    policy.core.load_adapter(tmp_path / "b")  # vLLM goes on
    assert policy.label_probabilities(judgments).shape == (len(judgments), 2)


def test_weights_handed_over_take_effect(
    core: VllmCore,
    base: VllmEngine,
    true: TransformersEngine,
    model: PreTrainedModel,
    chat: ChatEncoder,
    judgments: list[JudgmentPrompt],
    prompts: list[list[int]],
    folder: Path,
    tmp_path: Path,
) -> None:
    start = base.label_probabilities(judgments)
    other = small_llama(0)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for weights in other.parameters():  # the embedding, which is the head as well, included
            weights += 0.3 * weights.std() * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    other.save_pretrained(tmp_path / "other")
    moved = TransformersEngine(other, chat)
    try:
        core.load_weights(tmp_path / "other")
        found = base.label_probabilities(judgments)
        assert distance(found, start) > 0.05
        assert distance(found, moved.label_probabilities(judgments)) < 1e-2
        sampled = base.sample(prompts, SamplingParams(max_new_tokens=10))
        assert distance(own_logprobs(sampled), logprobs(moved, prompts, sampled)) < 1e-2
    finally:
        core.load_weights(folder)
    assert distance(base.label_probabilities(judgments), true.label_probabilities(judgments)) < 1e-2


@pytest.mark.parametrize("lora", [{"r": 4, "dropout": 0.1}, None], ids=["lora", "full"])
def test_rollouts_come_from_the_policy_as_it_is(
    folder: Path,
    tmp_path: Path,
    distances: list[tuple[float, float, float]],
    lora: dict[str, Any] | None,
) -> None:
    run = run_self_training(recipe(folder, 3, lora=lora), tmp_path / "run")
    assert run.info["steps"] == 3
    assert run.info["vllm"]
    assert (run.path / "adapter").is_dir() == (lora is not None)
    assert not list(run.checkpoints.glob("rollout*"))
    assert len(distances) == 3
    to_current, to_start, to_judge = zip(*distances, strict=True)
    assert max(to_current) < 1e-2  # what vLLM drew has the log-probabilities that the policy in training gives it
    assert to_start[0] < 1e-2  # the policy begins as the reference
    assert min(to_start[1:]) > 0.5  # and is another from the first step on
    assert max(to_judge) < 1e-2


@pytest.mark.parametrize("lora", [{"r": 4, "dropout": 0.1}, None], ids=["lora", "full"])
def test_rollouts_beside_training_come_from_the_policy_of_the_step_before(
    folder: Path, chat: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any] | None
) -> None:
    handed_over: list[PreTrainedModel] = []
    seen: list[tuple[float, float]] = []
    hand_over, with_reference = HandedOverPolicy.hand_over, RolloutCollector.with_reference

    def watched_hand_over(self: HandedOverPolicy) -> None:
        handed_over.append(copy.deepcopy(self.model))  # type: ignore[arg-type]
        hand_over(self)

    def watched_reference(self: RolloutCollector, rollout: Rollout) -> Rollout:
        asked, sampled = [list(j.prompt.ids) for j in rollout.judged], [list(j.samples) for j in rollout.judged]
        then, now = handed_over[-1], self.policy.model  # type: ignore[attr-defined]
        own = own_logprobs(sampled)
        seen.append(
            tuple(distance(own, logprobs(TransformersEngine(m, chat), asked, sampled)) for m in (then, now))  # type: ignore[arg-type]
        )
        return with_reference(self, rollout)

    monkeypatch.setattr(HandedOverPolicy, "hand_over", watched_hand_over)
    monkeypatch.setattr(RolloutCollector, "with_reference", watched_reference)
    training = {**TRAINING, "max_steps": 4, "learning_rate": 3e-3, "logging_steps": 1}
    rollout = {"top_p": 1.0, "max_new_tokens": 12, "async": 1}
    run = run_self_training(recipe(folder, 4, lora=lora, rollout=rollout, training=training), tmp_path / "run")
    logged = [row for _, row in read_jsonl(run.path / "metrics.jsonl") if "loss" in row]
    assert [row["rollout/staleness"] for row in logged] == [0, 1, 1, 1]
    assert all(math.isfinite(row["loss"]) for row in logged)
    assert len(handed_over) == len(seen) == 4
    to_then, to_now = zip(*seen, strict=True)
    assert max(to_then) < 1e-2
    assert to_now[0] < 1e-2
    assert min(to_now[1:]) > 0.05  # the policy has moved by a step
