"""Who judges rollouts: the frozen start, the policy as it is, or a model on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served_model import ServedModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase, TrainerCallback

from selfjudge.data.io import read_jsonl
from selfjudge.data.load import prepare_data
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.engines.save import save_model
from selfjudge.errors import EngineError
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Comparison, Message, Verdict
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.arguments import training_arguments
from selfjudge.training.assembly import self_judge_trainer
from selfjudge.training.pair_source import rollout_prompts
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training

TRAINING = {"max_steps": 3, "learning_rate": 1e-2, "save_strategy": "no"}
PAIR = Comparison(
    id="p", prompt=(Message(role="user", content="Name two things of the sea."),), response_a="tide", response_b="oak"
)
ROWS = [([5, 6, 7], [300, 301]), ([8], [302])]


class Watch(TrainerCallback):
    """Notes after every step what the judge says, what the policy would say, and what the reference gives."""

    def __init__(self, collector: Any, policy: Judge) -> None:
        self.collector, self.policy = collector, policy
        self.seen: list[tuple[Verdict, Verdict, list[float]]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        verdicts = (judge.judge([PAIR])[0] for judge in (self.collector.judge, self.policy))
        self.seen.append((*verdicts, self.collector.reference.response_logprobs(ROWS)))


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_dynamic_judge_is_the_policy_and_the_reference_stays(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], kind: str, lora: dict[str, Any] | None
) -> None:
    recipe = tiny_recipe(24, self_training={"lora": lora, "judge": {"kind": kind}, "training": TRAINING})
    loaded = load_model(recipe.model.path, dtype="float32")
    args = training_arguments("self_training", recipe.self_training.training, tmp_path / "c", 0)
    prompts, _ = rollout_prompts(recipe, prepare_data(recipe.data, 0), loaded)
    trainer = self_judge_trainer(recipe, loaded, args, prompts, RunFolder.open(tmp_path / "r", "train", recipe))
    encoder = JudgmentEncoder(load_templates("world"), loaded.chat)
    watch = Watch(trainer._collector, Judge(TransformersEngine(trainer.model, loaded.chat), encoder))
    trainer.add_callback(watch)
    trainer.train()
    judged, of_policy, reference = zip(*watch.seen, strict=True)
    start = load_model(recipe.model.path, dtype="float32")
    assert (judged == of_policy) == (kind == "dynamic")
    assert len({v.strength for v in judged}) == (3 if kind == "dynamic" else 1)
    assert all(r == pytest.approx(TransformersEngine(start.model, start.chat).response_logprobs(ROWS), abs=1e-5)
               for r in reference)  # fmt: skip


@pytest.fixture
def other(
    tmp_path: Path, world_tokenizer: PreTrainedTokenizerBase, tiny_llama: Callable[..., LlamaForCausalLM]
) -> Path:
    """A judge of its own, with other weights and other templates than the recipe's."""
    folder = tmp_path / "other"
    save_model(tiny_llama(world_tokenizer, seed=7), world_tokenizer, folder, load_templates("general"))
    return folder


@pytest.fixture
def served(other: Path, world_chat: ChatEncoder) -> Iterator[ServedModel]:
    with ServedModel(load_model(other, dtype="float32").model, world_chat, max_model_len=512).running() as running:
        yield running


def external(served: ServedModel, other: Path, **section: Any) -> dict[str, Any]:
    judge = {"kind": "external", "url": served.url, "model": str(other)}
    return {"lora": {"r": 4}, "judge": judge, "training": {**TRAINING, "max_steps": 1}, **section}


def test_an_external_judge_has_its_own_weights_and_templates(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], served: ServedModel, other: Path
) -> None:
    run = run_self_training(tiny_recipe(8, self_training=external(served, other)), tmp_path / "r")
    loaded = load_model(other, dtype="float32")
    there = Judge(
        TransformersEngine(loaded.model, loaded.chat), JudgmentEncoder(load_templates("general"), loaded.chat)
    )
    rows = [row for _, row in read_jsonl(run.path / "rollouts.jsonl") if row["verdict"]]
    assert rows
    for row in rows:
        expected = there.compare(row["prompt"], row["response_a"], row["response_b"])
        assert row["verdict"]["preferred"] == expected.preferred
        assert row["verdict"]["strength"] == pytest.approx(expected.strength, rel=1e-4)
    assert all(request["max_tokens"] == 1 for request in served.requests)  # it judges, and samples nothing


def test_a_server_that_does_not_have_the_judge_is_found_out_before_anything_is_written(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], served: ServedModel, other: Path
) -> None:
    section = external(served, other)
    section["judge"]["served_model"] = "nobody"
    with pytest.raises(EngineError, match="does not serve 'nobody'"):
        run_self_training(tiny_recipe(8, self_training=section), tmp_path / "r")
    assert not (tmp_path / "r").exists()
