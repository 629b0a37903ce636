"""What does not take an adapter is refused in one sentence, before a run folder exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from families import FAMILIES, tiny_model
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from selfjudge.engines import sampling_way as module
from selfjudge.errors import ModelError, RecipeError
from selfjudge.recipes.schema import LoraSection, Recipe
from selfjudge.training.jsft import run_jsft
from selfjudge.training.lora import check_lora, put_adapter
from selfjudge.training.self_training import run_self_training

PACKED_EXPERTS = {"deepseek_v3", "minimax", "mixtral", "qwen3_moe", "qwen3_next"}
STATE_SPACES = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory, world_tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("mixtral") / "model"
    tiny_model("mixtral", vocab_size=len(world_tokenizer)).save_pretrained(folder)
    world_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_the_check_says_is_what_happens(family: str) -> None:
    model = tiny_model(family)
    lora = LoraSection(dropout=0.1)
    if family in PACKED_EXPERTS:
        sentence = "set lora.dropout=0, or name lora.target_modules without them"
    elif family in STATE_SPACES:
        sentence = "lora.target_modules: .* incompatible with Mamba-based models"
    else:
        check_lora(model, lora)
        assert not any("lora" in name for name, _ in model.named_modules())
        assert isinstance(put_adapter(model, lora), PeftModel)
        return
    for work in (check_lora, put_adapter):
        with pytest.raises(RecipeError, match=sentence):
            work(model, lora)
    check_lora(model, None)
    if family in PACKED_EXPERTS:
        check_lora(model, LoraSection(dropout=0))


@pytest.mark.parametrize("run", [run_jsft, run_self_training])
def test_the_run_folder_is_not_made(
    tiny_recipe: Callable[..., Recipe], mixtral: Path, tmp_path: Path, run: Callable[..., object]
) -> None:
    recipe = tiny_recipe(
        jsft={"lora": {"dropout": 0.1}}, self_training={"start": str(mixtral), "lora": {"dropout": 0.1}}
    )
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(mixtral)})})
    with pytest.raises(RecipeError, match=r"lora.dropout=0.1: the experts of MixtralForCausalLM are one weight"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nor_is_it_for_a_model_that_cannot_be_sampled(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_is_right", lambda *_: False)
    with pytest.raises(ModelError, match="cannot be sampled from"):
        run_self_training(tiny_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
