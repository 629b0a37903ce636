"""Baselines on pairs of another policy: stop rules still see the policy, and training does not notice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from served_model import NAME, served_models
from transformers import LlamaModel

from selfjudge.baselines.replay import ReplayCollector
from selfjudge.baselines.run import run_baseline
from selfjudge.data.io import read_jsonl
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.engines.save import save_model
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Completion, Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.pairing import PairRules, RolloutPrompt
from selfjudge.training.rollout import Rollout, RolloutCollector
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer
from selfjudge.training.self_training import run_self_training

Make = Callable[..., Recipe]
TRAINING = {"max_steps": 12, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "save_steps": 2}
METHODS = ("offline", "off-policy")


def recipe(make: Make, **section: Any) -> Recipe:
    training = {**TRAINING, **section.pop("training", {})}
    return make(24, self_training={"lora": None, "training": training, **section})


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(run.path / "metrics.jsonl") if "loss" in row]


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


def often_ending(model: str, folder: Path) -> Path:
    """Saves a model that ends its answers sooner than the tiny one, so that there is something to grow."""
    loaded = load_model(model, dtype="float32")
    with torch.no_grad():
        head = loaded.model.lm_head.weight
        head[list(loaded.chat.stop_ids)] += 3 * head.std()
    save_model(loaded.model, loaded.chat.tokenizer, folder)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_policy_that_drifts_is_stopped_by_its_kl(tmp_path: Path, tiny_recipe: Make, method: Any) -> None:
    made = recipe(tiny_recipe, stop={"max_kl": 0.5, "window": 2}, training={"learning_rate": 3e-3})
    run = run_baseline(method, made, tmp_path / "run")
    rows = metrics(run)
    assert len(rows) < 12
    assert run.info["stopped"].startswith("KL to the reference")
    kl = [row["kl"] for row in rows]
    assert kl[0] == 0  # the policy is still the reference
    assert min(kl) >= 0
    assert sum(kl[-2:]) / 2 > 0.5 >= sum(kl[-3:-1]) / 2
    if method == "off-policy":  # the pairs say the contrary: they become less likely
        assert rows[-1]["rewards/chosen"] + rows[-1]["rewards/rejected"] < -0.1


def test_answers_that_grow_are_stopped_though_the_pairs_stay_as_long(tmp_path: Path, tiny_recipe: Make) -> None:
    made = recipe(tiny_recipe, stop={"max_length_ratio": 1.1, "window": 2})
    made.self_training.start = str(often_ending(made.self_training.start, tmp_path / "start"))
    run = run_baseline("offline", made, tmp_path / "run")
    rows = metrics(run)
    assert len(rows) < 12
    assert run.info["stopped"].startswith("responses grew from")
    own, of_pairs = ([row[name] for row in rows] for name in ("own/length", "rollout/length"))
    assert own[-1] + own[-2] > 1.1 * (own[0] + own[1])
    assert of_pairs[-1] + of_pairs[-2] < 1.1 * (of_pairs[0] + of_pairs[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.1}], ids=["full", "lora"])
def test_training_does_not_notice(
    tmp_path: Path, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch, method: Any, lora: dict[str, Any] | None
) -> None:
    # A replay of JSFT rows and dropout draw random numbers as well.
    made = recipe(tiny_recipe, lora=lora, replay=0.5, training={"max_steps": 4})
    watched = run_baseline(method, made, tmp_path / "watched")
    monkeypatch.setattr(ReplayCollector, "_own", lambda *args: None)
    blind = run_baseline(method, made, tmp_path / "blind")
    assert weights(watched) == weights(blind)
    own = {"kl", "own/length", "own/disagreement_rate", "rollout/samples_per_second"}
    seen, unseen = ([{k: v for k, v in row.items() if k not in own} for row in metrics(r)] for r in (watched, blind))
    assert seen == unseen
    assert all(own <= row.keys() for row in metrics(watched))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_cut_off_ends_where_the_whole_one_does(
    tmp_path: Path, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """Cut off after the first of a rollout's two steps; the reason to stop has the mean over all six steps in it."""
    made = recipe(
        tiny_recipe,
        rollout={"top_p": 1.0, "max_new_tokens": 8, "steps": 2},
        stop={"max_kl": 0.1, "window": 6},
        training={"learning_rate": 3e-3, "max_steps": 20, "save_steps": 1, "per_device_train_batch_size": 4},
    )
    whole = run_baseline(method, made, tmp_path / "whole")
    assert whole.info["steps"] == 6
    collect, calls = ReplayCollector.collect, []

    def cut(self: ReplayCollector, *args: Any) -> Rollout:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return collect(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ReplayCollector, "collect", cut)
        with pytest.raises(KeyboardInterrupt):
            run_baseline(method, made, tmp_path / "cut")
    for checkpoint in sorted((tmp_path / "cut" / "checkpoints").glob("checkpoint-[4-9]")):
        shutil.rmtree(checkpoint)
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-3").is_dir()
    run = run_baseline(method, made, tmp_path / "cut", resume=True)
    assert (run.info["steps"], run.info["stopped"]) == (whole.info["steps"], whole.info["stopped"])
    assert weights(run) == weights(whole)
    clock = "rollout/samples_per_second"
    found, expected = ([{k: v for k, v in row.items() if k != clock} for row in metrics(r)] for r in (run, whole))
    assert found == expected


class Drawn:
    """Notes what is drawn after each hand-over, by whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rollouts: list[tuple[Rollout, float, float]] = []
        draw = RolloutCollector.draw

        def watched(collector: RolloutCollector, *args: Any, **kwargs: Any) -> Rollout:
            rollout = draw(collector, *args, **kwargs)
            rows = [(j.prompt.ids, s.ids) for j in rollout.judged for s in j.samples]
            own = [sum(s.logprobs or ()) for j in rollout.judged for s in j.samples]
            of_policy, of_start = (
                max(abs(a - b) for a, b in zip(own, engine.response_logprobs(rows), strict=True))
                for engine in (collector.policy, collector.reference)
            )
            self.rollouts.append((rollout, of_policy, of_start))
            return rollout

        monkeypatch.setattr(RolloutCollector, "draw", watched)


@pytest.mark.parametrize("method", METHODS)
def test_they_are_two_samples_of_the_policy_as_it_is_for_a_quarter_of_the_prompts(
    tmp_path: Path, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    drawn = Drawn(monkeypatch)
    rollout = {"top_p": 1.0, "max_new_tokens": 8, "samples": 3}
    run = run_baseline(method, recipe(tiny_recipe, rollout=rollout, training={"max_steps": 4}), tmp_path / "run")
    assert len(drawn.rollouts) == 4
    for number, ((rollout, of_policy, of_start), row) in enumerate(zip(drawn.rollouts, metrics(run), strict=True)):
        assert [len(j.samples) for j in rollout.judged] == [2, 2]  # places 0 and 7 of 8
        assert of_policy < 1e-3
        assert (of_start > 1e-2) == (number > 0)
        assert row["own/length"] == pytest.approx(rollout.stats.response_length)
        assert row.get("own/disagreement_rate", 0.0) == pytest.approx(rollout.stats.disagreement_rate, nan_ok=True)
        assert row["kl"] == 0 if number == 0 else row["kl"] > 0


def test_they_come_from_servers_that_sample_with_the_adapter_of_the_step(
    tmp_path: Path, tiny_recipe: Make, tiny_model_folder: Path, world_chat: ChatEncoder
) -> None:
    start = load_model(tiny_model_folder, dtype="float32").model
    with served_models(start, world_chat) as serve:
        server = serve(takes_adapters=True)
        section = {"engine": "openai", "servers": {"url": server.url}, "lora": {"r": 4, "dropout": 0.0}}
        run = run_baseline("off-policy", recipe(tiny_recipe, **section, training={"max_steps": 3}), tmp_path / "run")
    sampled = [body["model"] for body in server.requests if body["max_tokens"] > 1]
    assert list(dict.fromkeys(sampled)) == [NAME, *server.loaded]  # the pairs by the start, then the policy
    assert len(set(server.loaded)) == 3
    kl = [row["kl"] for row in metrics(run)]
    assert kl[0] == 0
    assert min(kl[1:]) > 1e-3


@pytest.mark.parametrize(("method", "most"), [("train", 0.0), ("off-policy", 0.15), ("offline", 0.25)])
def test_what_kl_and_own_samples_take_of_the_tokens_of_a_step(
    tmp_path: Path, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch, method: Any, most: float
) -> None:
    """docs/self-training.md and docs/baselines.md have these shares, of the shapes of world-study; -s prints them."""
    phases, tokens = ["other"], Counter[str]()
    forward = LlamaModel.forward

    def counted(self: LlamaModel, *args: Any, **kwargs: Any) -> Any:
        # Training goes back as well, which takes twice what a forward does.
        tokens[phases[-1]] += kwargs["input_ids"].numel() * (3 if torch.is_grad_enabled() else 1)
        return forward(self, *args, **kwargs)

    def named(owner: type, name: str, phase: str) -> None:
        method = getattr(owner, name)

        def within(*args: Any) -> Any:
            phases.append(phase)
            try:
                return method(*args)
            finally:
                phases.pop()

        monkeypatch.setattr(owner, name, within)

    made = tiny_recipe(
        240,
        self_training={
            "lora": None,
            "rollout": {"top_p": 1.0, "max_new_tokens": 16},
            "training": {"max_steps": 2, "per_device_train_batch_size": 60, "save_strategy": "no"},
        },
    )
    monkeypatch.setattr(LlamaModel, "forward", counted)
    train = SelfJudgeTrainer.train
    monkeypatch.setattr(SelfJudgeTrainer, "train", lambda *args, **kw: (tokens.clear(), train(*args, **kw))[1])
    named(TransformersEngine, "response_kl", "kl")
    named(ReplayCollector, "_own", "own")
    if method == "train":
        run_self_training(made, tmp_path / "run")
    else:
        run_baseline(method, made, tmp_path / "run")
    shares = {phase: count / tokens.total() for phase, count in tokens.items()}
    print(method, {phase: f"{share:.1%}" for phase, share in shares.items()})
    assert 0.02 < shares["kl"] < (0.06 if method == "offline" else 0.04)  # offline draws nothing itself
    assert shares.get("own", 0.0) <= most


class Unheard:
    """A policy that must not be asked for what does not fit: its context has 20 tokens."""

    max_length = 20

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def sample(self, prompts: Any, params: SamplingParams, progress: Any = None) -> list[list[Completion]]:
        self.asked = [tuple(prompt) for prompt in prompts]
        assert params.n == 2
        return [[Completion(ids=(7,), text="a", finish_reason="stop")] * 2 for _ in prompts]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_left_out(tiny_model_folder: Path, tiny_recipe: Make) -> None:
    loaded = load_model(tiny_model_folder, dtype="float32")
    engine, policy = TransformersEngine(loaded.model, loaded.chat), Unheard()
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), loaded.chat))
    params = SamplingParams(n=4, max_new_tokens=8)
    collector = RolloutCollector(policy, judge, engine, params, PairRules(), lambda rows: [1.0] * len(rows))
    lengths = [13, 1, 1, 1, 1, 1, 1, 12, 1, 1, 3]  # in places 0, 7 and 10; 12 tokens and 8 new ones are all there is
    prompts = [
        RolloutPrompt(str(i), (Message(role="user", content="Name two things."),), (i,) * length)
        for i, length in enumerate(lengths)
    ]
    given = (
        Completion(ids=(5, 6), text="x", finish_reason="stop"),
        Completion(ids=(8,), text="y", finish_reason="stop"),
    )
    replay = ReplayCollector(collector, {p.id: given for p in prompts})
    rollout = replay.collect(prompts, 0)
    assert policy.asked == [(7,) * 12, (10,) * 3]
    assert rollout.of_policy is rollout.own
    assert (rollout.own.samples, rollout.own.kl, rollout.own.kl_responses) == (4, 1.0, 2)
    assert (rollout.stats.samples, rollout.stats.response_length) == (22, 1.5)
    assert replay.collect(prompts[:1], 0).own.samples == 0
