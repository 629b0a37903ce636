"""The published way to train does the work that our trainers do: the same losses, and both change the adapter."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from selfjudge.benchmarks import training
from selfjudge.benchmarks.inputs import prompt_ids, random_model
from selfjudge.benchmarks.published_training import PaddedJsft, PublishedStep
from selfjudge.benchmarks.task import Settings
from selfjudge.benchmarks.training import Epoch, jsft_examples, jsft_task, step_task
from selfjudge.engines.load import LoadedModel
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.pairs import Pair, collate_pairs
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer

TASKS = {"step": step_task, "jsft": jsft_task}


@pytest.fixture
def loaded() -> LoadedModel:
    model = random_model("tiny", "cpu", torch.float32)
    model.model.model.layers = model.model.model.layers[:2]
    model.model.model.config.num_hidden_layers = 2
    return model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(4, "world", tmp_path, new_tokens=5, train_batch=2)


def adapter(model: PeftModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def perturbed(model: PeftModel) -> PeftModel:
    """The adapter is no longer nothing, so that policy and reference differ; and no dropout."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model.eval()


def own_trainer(task_of: object, loaded: LoadedModel, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> object:
    """The trainer that a task puts together."""
    found: list[object] = []

    class Kept(Epoch):
        def __init__(self, trainer: object, **options: bool) -> None:
            found.append(trainer)
            super().__init__(trainer, **options)

    monkeypatch.setattr(training, "Epoch", Kept)
    task_of(loaded, settings)
    return found[0]


def test_both_steps_have_the_same_loss(
    loaded: LoadedModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = own_trainer(step_task, loaded, settings, monkeypatch)
    assert isinstance(trainer, SelfJudgeTrainer)
    model = perturbed(trainer.model)
    prompts, rng = prompt_ids(loaded.chat, 3), random.Random(1)
    chosen, rejected = ([tuple(rng.choices(range(3, 8192), k=rng.randrange(4, 20))) for _ in range(3)] for _ in "ab")
    with torch.no_grad():
        published = PublishedStep(model, loaded.chat, JudgmentEncoder(load_templates("world"), loaded.chat))
        theirs = published.loss(prompts, [*chosen, *rejected])
        rows = [*zip(2 * prompts, [*chosen, *rejected], strict=True)]
        reference = trainer._collector.reference.response_logprobs(rows)
        pairs = [Pair(*row, 1.0, *reference[i::3]) for i, row in enumerate(zip(prompts, chosen, rejected, strict=True))]
        ours = trainer.compute_loss(model, collate_pairs(pairs, 0))
    assert float(ours) == pytest.approx(float(theirs), abs=1e-4)
    assert abs(float(theirs) - 0.6931) > 0.01


def test_both_ways_of_jsft_have_the_same_loss(
    loaded: LoadedModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = own_trainer(jsft_task, loaded, settings, monkeypatch)
    assert isinstance(trainer, JsftTrainer)
    model = perturbed(trainer.model)
    data = jsft_examples(loaded, settings)
    assert {row.kind for example in data[:3] for row in example} == {"policy", "judgment"}
    with torch.no_grad():
        theirs = PaddedJsft(model, 0, 8).loss([row for example in data[:3] for row in example])
        ours = trainer.compute_loss(model, trainer.data_collator([{"rows": example} for example in data[:3]]))
    assert float(ours) == pytest.approx(float(theirs), abs=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_each_side_changes_the_adapter(name: str, loaded: LoadedModel, settings: Settings) -> None:
    task = TASKS[name](loaded, settings)
    assert isinstance(task.model, PeftModel)
    for side in (task.ours, task.other):
        before = adapter(task.model)
        side()
        after = adapter(task.model)
        assert all(not torch.equal(after[name], before[name]) for name in before if "lora_B" in name)
        assert all(p.grad is None for p in task.model.parameters())


def test_a_step_trains_on_every_prompt_at_full_length(
    loaded: LoadedModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = own_trainer(step_task, loaded, settings, monkeypatch)
    batches: list[dict[str, Tensor]] = []
    step = trainer.training_step

    def kept(model: object, inputs: dict[str, Tensor], items: Tensor) -> Tensor:
        batches.append(inputs)
        return step(model, inputs, items)

    monkeypatch.setattr(trainer, "training_step", kept)
    epoch = Epoch(trainer)
    epoch()
    assert [len(b["strength"]) for b in batches] == [2, 2]  # four prompts, two at a time
    assert all(b["response_mask"].all() and b["response_mask"].shape[1] == 5 for b in batches)
    pad = loaded.chat.tokenizer.pad_token_id
    real = sum(int((b["input_ids"] != pad).sum()) for b in batches)
    assert real == sum(2 * (len(ids) + 5) for ids in prompt_ids(loaded.chat, 4))
    assert epoch.padding_share(real) == pytest.approx(1 - real / sum(b["input_ids"].numel() for b in batches))
    assert trainer.state.global_step == 1
    assert set(epoch.seconds) == {"batches", "training"}


def test_jsft_counts_the_tokens_of_its_rows(loaded: LoadedModel, settings: Settings) -> None:
    rows = [row for example in jsft_examples(loaded, settings) for row in example]
    assert len(rows) == 3 * 4
    assert jsft_task(loaded, settings).amount == sum(len(row.ids) for row in rows)


def test_activations_are_checkpointed_on_our_side_alone(
    loaded: LoadedModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = own_trainer(step_task, loaded, settings, monkeypatch)
    layer = loaded.model.model.layers[0]
    seen: list[bool] = []
    step = trainer.training_step

    def watched(*args: object) -> Tensor:
        seen.append(layer.gradient_checkpointing)
        return step(*args)

    monkeypatch.setattr(trainer, "training_step", watched)
    Epoch(trainer, checkpointing=True)()
    assert seen == [True, True]
    assert not layer.gradient_checkpointing
