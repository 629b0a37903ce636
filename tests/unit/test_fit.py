"""A model, its files, its config and its tokenizer belong together, or one sentence says what does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from selfjudge.baselines.scorer import load_scorer
from selfjudge.engines.fit import tokenizer_problems
from selfjudge.engines.load import load_model
from selfjudge.errors import ModelError, SelfJudgeError
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.jsft import run_jsft
from selfjudge.training.self_training import run_self_training
from selfjudge.world.model import build_tokenizer


@pytest.fixture
def model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ModelError) as said:
        load_model(folder)
    assert "\n" not in str(said.value)
    for word in (f"The model {str(folder)!r} cannot be used: ", *words):
        assert word in str(said.value)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_weights_that_are_missing(model: Path) -> None:
    change_weights(model, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    refused(model, "1 of its weights are not in its files and would be random", "model.layers.1.mlp.up_proj.weight")


def test_a_head_that_is_missing(model: Path) -> None:
    change_weights(model, lambda weights: weights.pop("lm_head.weight"))
    refused(model, "lm_head.weight", "random")


def test_more_layers_in_the_files_than_in_the_config(model: Path) -> None:
    change_config(model, num_hidden_layers=1)
    refused(model, "9 weights in its files have no place", "model.layers.1.")


def test_more_layers_in_the_config_than_in_the_files(model: Path) -> None:
    change_config(model, num_hidden_layers=3)
    refused(model, "9 of its weights are not in its files", "model.layers.2.")


def test_a_config_of_another_size(model: Path) -> None:
    change_config(model, intermediate_size=32)
    refused(model, "config.json does not fit its weights", "[32, 64] in the file and [32, 32] by the config")


@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_is_no_language_model(model: Path, tied: bool) -> None:
    change_config(model, tie_word_embeddings=tied)
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    classifier.save_pretrained(model)
    refused(model, "LlamaForSequenceClassification", "name a causal language model")


def test_a_reward_model_with_a_missing_head(model: Path) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    classifier.config.pad_token_id = 0
    classifier.save_pretrained(model)
    load_scorer(model)
    change_weights(model, lambda weights: weights.pop("score.weight"))
    with pytest.raises(ModelError, match=r"would be random \(score.weight\)"):
        load_scorer(model)


def test_weights_of_parts_that_a_language_model_has_not(model: Path) -> None:
    change_weights(
        model,
        lambda weights: weights.update(
            {
                "vision_tower.layer.weight": torch.ones(2),
                "model.visual.weight": torch.ones(2),
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            }
        ),
    )
    load_model(model)


@pytest.mark.parametrize("special", [False, True])
def test_a_token_without_an_embedding_that_rows_can_have(model: Path, special: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    size = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<think>", special=special)], special_tokens=special)
    if special:  # such a token comes from the chat template alone
        tokenizer.chat_template = "<think>" + tokenizer.chat_template
    tokenizer.save_pretrained(model)
    refused(model, f"'<think>', id {size}, of {size} embeddings", "resize_token_embeddings")


def test_padding_without_an_embedding(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(model)
    refused(model, "1 of its tokenizer's ids have no embedding", "'<pad>'")


def test_a_special_token_that_no_chat_has_needs_no_embedding(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(model)
    loaded = load_model(model)
    size = loaded.model.get_input_embeddings().weight.shape[0]
    assert max(loaded.chat.prompt_ids([Message(role="user", content="What is <image>?")])) < size


@pytest.mark.parametrize("more", [1, 39, 64, 2400])
def test_embeddings_beyond_the_tokenizer_are_usual(model: Path, more: int) -> None:
    found = AutoModelForCausalLM.from_pretrained(model)
    found.resize_token_embeddings(found.config.vocab_size + more)
    found.save_pretrained(model)
    load_model(model)


def test_a_tokenizer_that_lacks_the_models_end(model: Path, world_tokenizer: PreTrainedTokenizerFast) -> None:
    found = AutoModelForCausalLM.from_pretrained(model)
    found.resize_token_embeddings(1000)
    found.config.eos_token_id = found.generation_config.eos_token_id = [3, 777]
    found.save_pretrained(model)
    refused(model, "ends texts with id 777", f"tokenizer of {len(world_tokenizer)} tokens")


def test_a_tokenizer_of_a_much_smaller_vocabulary() -> None:
    chat = ChatEncoder(build_tokenizer())
    config = LlamaConfig(
        vocab_size=6000, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    assert tokenizer_problems(chat, model) == [
        f"its tokenizer has {len(chat.tokenizer)} tokens and it has 6000 embeddings: save it with the tokenizer it was "
        "trained with."
    ]


def test_a_tokenizer_of_a_larger_vocabulary(model: Path, chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    found = AutoModelForCausalLM.from_pretrained(model)
    found.resize_token_embeddings(300)
    found.save_pretrained(model)
    chatml_tokenizer.save_pretrained(model)
    refused(model, f"{len(chatml_tokenizer) - 300} of its tokenizer's ids have no embedding")


@pytest.mark.parametrize("stage", [run_jsft, run_self_training])
def test_it_is_said_before_there_is_a_run(
    model: Path, tmp_path: Path, tiny_recipe: Callable[..., Recipe], stage: Callable[..., Any]
) -> None:
    change_weights(model, lambda weights: weights.pop("lm_head.weight"))
    recipe = tiny_recipe(self_training={"start": str(model)})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(model)})})
    with pytest.raises(SelfJudgeError, match="would be random"):
        stage(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
