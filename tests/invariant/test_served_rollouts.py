"""Rollouts from servers: the adapter of each step is handed over, and what may go wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served_model import NAME, ServedModel, served_models
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.errors import EngineError, ModelError, RunError
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Comparison
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.rollout import Rollout, RolloutCollector
from selfjudge.training.self_training import run_self_training
from selfjudge.training.served_rollout import ServedPolicy

Make = Callable[..., Recipe]


@pytest.fixture
def servers(tiny_model_folder: Path, world_chat: ChatEncoder) -> Iterator[Callable[..., ServedModel]]:
    with served_models(load_model(tiny_model_folder, dtype="float32").model, world_chat) as start:
        yield start


def recipe(make: Make, url: Any, steps: int = 3, **more: Any) -> Recipe:
    training = {"max_steps": steps, "learning_rate": 1e-2, "save_strategy": "no"}
    section = {"engine": "openai", "servers": {"url": url}, "lora": {"r": 4, "dropout": 0.1}, "training": training}
    return make(24, self_training={**section, **more})


def check(self: RolloutCollector, rollout: Rollout, chat: ChatEncoder) -> tuple[float, float]:
    """Returns how far the samples' log-probabilities are from those of the policy as it is, and of the reference."""
    sampled = [(list(j.prompt.ids), s) for j in rollout.judged for s in j.samples]
    rows = [(prompt, s.ids) for prompt, s in sampled]
    own = [sum(s.logprobs or ()) for _, s in sampled]
    current = TransformersEngine(self.policy.model, chat).response_logprobs(rows)  # type: ignore[attr-defined]
    start = self.reference.response_logprobs(rows)
    return tuple(max(abs(a - b) for a, b in zip(own, other, strict=True)) for other in (current, start))  # type: ignore[return-value]


@pytest.mark.parametrize("behind", [0, 1], ids=["in turn", "beside training"])
def test_samples_are_those_of_the_policy_and_verdicts_those_of_the_start(
    behind: int,
    tmp_path: Path,
    tiny_recipe: Make,
    servers: Callable[..., ServedModel],
    world_chat: ChatEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw, seen, judged = RolloutCollector.draw, [], []

    def watched(self: RolloutCollector, *args: Any, **kwargs: Any) -> Rollout:
        rollout = draw(self, *args, **kwargs)
        if not behind:  # else the policy is trained on meanwhile
            seen.append(check(self, rollout, world_chat))
        pairs = [
            Comparison(id="x", prompt=j.prompt.prompt, response_a=j.samples[0].text, response_b=j.samples[1].text)
            for j in rollout.judged
            if j.verdicts
        ]
        frozen = Judge(servers_of[0].engine, self.judge.encoder).judge(pairs)
        found = [v.strength for j in rollout.judged for v in j.verdicts.values()]
        judged.append(max(abs(a - b.strength) for a, b in zip(found, frozen, strict=True)))
        return rollout

    monkeypatch.setattr(RolloutCollector, "draw", watched)
    servers_of = [servers(takes_adapters=True), servers(takes_adapters=True)]
    rollout = {"top_p": 1.0, "max_new_tokens": 8, "async": behind}
    run = run_self_training(recipe(tiny_recipe, [s.url for s in servers_of], rollout=rollout), tmp_path / "run")
    assert run.info["servers"] == [s.url for s in servers_of]
    assert len(judged) == 3
    assert max(judged) < 1e-4
    for server in servers_of:
        assert len(server.loaded) == len(set(server.loaded)) == 3  # a name of its own for each step's adapter
        assert server.adapters == {}
        sampled = [body["model"] for body in server.requests if body["max_tokens"] > 1]
        judging = [body["model"] for body in server.requests if body["max_tokens"] == 1]
        assert list(dict.fromkeys(sampled)) == [
            NAME,
            *server.loaded,
        ]  # the start is asked first whether it is the start
        assert set(judging) == {NAME}
    assert not list(run.checkpoints.glob("rollout*"))
    if not behind:
        to_current, to_start = zip(*seen, strict=True)
        assert max(to_current) < 1e-3
        assert to_start[0] < 1e-3
        assert min(to_start[1:]) > 0.05


def test_a_dynamic_judge_is_the_adapter(tmp_path: Path, tiny_recipe: Make, servers: Callable[..., ServedModel]) -> None:
    server = servers(takes_adapters=True)
    run_self_training(recipe(tiny_recipe, server.url, 2, judge={"kind": "dynamic"}), tmp_path / "run")
    assert {body["model"] for body in server.requests if body["max_tokens"] == 1} == set(server.loaded)


def test_a_server_that_was_started_anew_gets_the_adapter_again_and_one_that_is_gone_is_done_without(
    tmp_path: Path, tiny_recipe: Make, servers: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    anew, gone = servers(takes_adapters=True), servers(takes_adapters=True)
    hand_over = ServedPolicy.hand_over

    def with_faults(self: ServedPolicy) -> None:
        hand_over(self)
        if len(anew.loaded) == 2:
            anew.adapters.clear()
            gone.failures += [(503, {"error": {"message": "gone"}})] * 1000
            gone.takes_adapters = False

    monkeypatch.setattr(ServedPolicy, "hand_over", with_faults)
    run = run_self_training(recipe(tiny_recipe, [anew.url, gone.url]), tmp_path / "run")
    assert run.info["steps"] == 3
    assert len(anew.loaded) == 4  # one of the three twice
    assert len(set(anew.loaded)) == 3
    assert len(gone.loaded) == 2


@pytest.mark.parametrize(
    ("mode", "options", "said"),
    [
        ("vllm", {}, "does not load the adapter .* start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ("text", {"takes_adapters": True}, "gives no token ids with its samples"),
    ],
)
def test_a_server_that_will_not_do_is_named(
    mode: str,
    options: dict[str, Any],
    said: str,
    tmp_path: Path,
    tiny_recipe: Make,
    servers: Callable[..., ServedModel],
) -> None:
    with pytest.raises((EngineError, RunError), match=said):
        run_self_training(recipe(tiny_recipe, servers(mode, **options).url), tmp_path / "run")
    assert (tmp_path / "run").exists() == (mode == "vllm")  # found out at the first step, or before anything is written


def test_a_server_of_other_weights_is_refused(
    tmp_path: Path,
    tiny_recipe: Make,
    tiny_llama: Callable[..., LlamaForCausalLM],
    world_tokenizer: PreTrainedTokenizerBase,
    world_chat: ChatEncoder,
) -> None:
    other = tiny_llama(world_tokenizer, seed=7)
    with (
        served_models(other, world_chat) as start,
        pytest.raises(ModelError, match=r"serves other weights under 'tiny'.* nats a token"),
    ):
        run_self_training(recipe(tiny_recipe, start(takes_adapters=True).url), tmp_path / "run")
    assert not (tmp_path / "run").exists()
