"""Policy and reference are computed alike: where nothing is learnt, nothing lies between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import tiny_model
from transformers import AutoConfig, GPT2LMHeadModel, PreTrainedTokenizerFast

from selfjudge.baselines.run import run_baseline
from selfjudge.data.io import read_jsonl
from selfjudge.recipes.comparison import BaselinesSection
from selfjudge.recipes.schema import Recipe
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training

DROPOUT = 0.1
BETWEEN = ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins")
STAYS = {"max_steps": 3, "learning_rate": 0.0, "gradient_accumulation_steps": 2, "save_strategy": "no"}
LORA = {"r": 4, "dropout": DROPOUT}


@pytest.fixture
def recipe(
    tmp_path: Path,
    world_tokenizer: PreTrainedTokenizerFast,
    tiny_gpt2: Callable[..., GPT2LMHeadModel],
    tiny_recipe: Callable[..., Recipe],
) -> Callable[..., Recipe]:
    """Makes recipes of a GPT-2 with dropout."""
    model = tiny_gpt2(world_tokenizer, context=256)
    assert {model.config.resid_pdrop, model.config.embd_pdrop, model.config.attn_pdrop} == {DROPOUT}
    model.save_pretrained(tmp_path / "gpt2")
    world_tokenizer.save_pretrained(tmp_path / "gpt2")

    def make(lora: dict[str, Any] | None, training: dict[str, Any], **section: Any) -> Recipe:
        return tiny_recipe(
            40, self_training={"start": str(tmp_path / "gpt2"), "lora": lora, "training": training, **section}
        )

    return make


def logged(run: RunFolder) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(run.path / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("lora", [None, LORA], ids=["frozen copy", "lora"])
@pytest.mark.parametrize("training", [{}, {"gradient_checkpointing": True}, {"bf16": True}], ids=str)
def test_at_learning_rate_0_nothing_lies_between_policy_and_reference(
    tmp_path: Path, recipe: Callable[..., Recipe], lora: Any, training: dict[str, Any]
) -> None:
    rows = logged(run_self_training(recipe(lora, {**STAYS, **training}), tmp_path / "run"))
    assert len(rows) == STAYS["max_steps"]
    for row in rows:
        assert row["kl"] == 0
        assert [row[name] for name in BETWEEN] == [0] * 4
        assert row["logps/chosen"] < -1


def test_nor_in_16_bits_where_a_batch_decides_how_rows_are_rounded(
    tmp_path: Path, world_tokenizer: PreTrainedTokenizerFast, tiny_recipe: Callable[..., Recipe]
) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 256}  # smaller ones round alike
    ids = {key: getattr(world_tokenizer, key) for key in ("pad_token_id", "eos_token_id")}
    tiny_model("llama", len(world_tokenizer), **sizes, **ids, bos_token_id=None).save_pretrained(tmp_path / "model")
    world_tokenizer.save_pretrained(tmp_path / "model")
    made = tiny_recipe(
        40,
        self_training={
            "start": str(tmp_path / "model"),
            "lora": {"r": 4},
            "rollout": {"top_p": 1.0, "max_new_tokens": 40},
            "training": {**STAYS, "per_device_train_batch_size": 4, "bf16": True},
        },
    )
    for row in logged(run_self_training(made, tmp_path / "run")):
        assert [row[name] for name in BETWEEN] == [0] * 4


@pytest.mark.parametrize("method", ["offline", "off-policy"])
def test_nor_where_the_pairs_come_from_elsewhere(tmp_path: Path, recipe: Callable[..., Recipe], method: Any) -> None:
    for row in logged(run_baseline(method, recipe(LORA, STAYS), tmp_path / "run")):
        assert [row[name] for name in BETWEEN] == [0] * 4


@pytest.mark.parametrize("lora", [None, LORA], ids=["frozen copy", "lora"])
def test_nor_in_trls_dpo(tmp_path: Path, recipe: Callable[..., Recipe], lora: Any) -> None:
    made = recipe(lora, STAYS)
    made = made.model_copy(update={"baselines": BaselinesSection(start=made.self_training.start)})
    rows = logged(run_baseline("dpo", made, tmp_path / "run"))
    assert len(rows) == STAYS["max_steps"]
    for row in rows:
        assert [row[name] for name in BETWEEN[1:]] == pytest.approx([0] * 3, abs=1e-6)


def test_trls_dpo_takes_experts_as_self_training_does(
    tmp_path: Path, world_tokenizer: PreTrainedTokenizerFast, tiny_recipe: Callable[..., Recipe]
) -> None:
    tiny_model("qwen3_moe", len(world_tokenizer), bos_token_id=None).save_pretrained(tmp_path / "experts")
    world_tokenizer.save_pretrained(tmp_path / "experts")
    start = str(tmp_path / "experts")
    made = tiny_recipe(16, self_training={"start": start, "lora": LORA, "training": {**STAYS, "max_steps": 1}})
    made = made.model_copy(update={"baselines": BaselinesSection(start=start)})
    assert run_baseline("dpo", made, tmp_path / "run").info["status"] == "finished"


def test_the_model_keeps_its_own_rates(tmp_path: Path, recipe: Callable[..., Recipe]) -> None:
    run = run_self_training(recipe(None, {**STAYS, "max_steps": 1}), tmp_path / "run")
    assert AutoConfig.from_pretrained(run.model).resid_pdrop == DROPOUT


def test_adapters_dropout_is_kept_where_it_is_asked_for(tmp_path: Path, recipe: Callable[..., Recipe]) -> None:
    training = {**STAYS, "learning_rate": 1e-2}
    runs = {
        name: logged(run_self_training(recipe(*settings, **section), tmp_path / name))
        for name, settings, section in (
            ("off", (LORA, training), {}),
            ("none", ({**LORA, "dropout": 0.0}, training), {}),
            ("kept", (LORA, training), {"keep_lora_dropout": True}),
        )
    }
    names = ("loss", *BETWEEN)
    off, none, kept = ([[row[name] for name in names] for row in runs[name]] for name in ("off", "none", "kept"))
    assert off == none
    # An adapter begins at zero, so dropout shows once it is trained.
    assert kept[0] == off[0]
    assert kept[1] != off[1]
