"""A merged model that is kept answers as the model with its adapter does, also where embeddings were tied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from selfjudge.baselines.run import run_baseline
from selfjudge.engines.load import load_model
from selfjudge.errors import ModelError
from selfjudge.recipes.schema import Recipe
from selfjudge.training import merge as merge_module
from selfjudge.training.jsft import run_jsft
from selfjudge.training.merge import check_saved, merge, probe_logits
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training

IDS = torch.arange(1, 601).view(3, 200)  # embeddings are trained of the tokens in the data only
STEPS = {"max_steps": 3, "learning_rate": 3e-2, "lr_scheduler_type": "constant", "save_strategy": "no"}
TIED = {"all linear": "all-linear", "head": ["lm_head", "q_proj"], "embeddings": ["embed_tokens"]}
TIED |= {"both": ["embed_tokens", "lm_head"]}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


@pytest.fixture
def tied_folder(tmp_path: Path, world_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., Any]) -> Path:
    model = tiny_llama(world_tokenizer, context=256)
    config = type(model.config)(**{**model.config.to_dict(), "tie_word_embeddings": True})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    world_tokenizer.save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


@pytest.mark.parametrize("targets", TIED.values(), ids=TIED.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_read_back_answers_as_base_and_adapter_did(
    tmp_path: Path, tied_folder: Path, targets: Any, dtype: torch.dtype
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tied_folder, dtype=dtype)
    assert base.lm_head.weight is base.model.embed_tokens.weight
    before = logits(base)
    torch.manual_seed(1)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.2)
    wanted = logits(adapted)
    merged = merge(adapted)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=dtype)
    assert again.config.tie_word_embeddings == (targets == "all-linear")
    assert (logits(again) - wanted).norm() / wanted.norm() < (1e-5 if dtype is torch.float32 else 0.05)
    assert (before - wanted).norm() / wanted.norm() > 0.3


@pytest.mark.parametrize("targets", TIED.values(), ids=TIED.keys())
def test_both_stages_leave_what_they_trained(
    tmp_path: Path, tied_folder: Path, tiny_recipe: Callable[..., Recipe], targets: Any
) -> None:
    lora = {"r": 4, "dropout": 0.0, "target_modules": targets}
    sections = {"lora": lora, "training": STEPS}
    recipe = tiny_recipe(16, jsft=sections, self_training={**sections, "start": str(tmp_path / "jsft")})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(tied_folder)})})
    jsft = run_jsft(recipe, tmp_path / "jsft")
    run = run_self_training(recipe, tmp_path / "train")
    adapted = load_model(jsft.path, adapter=run.path).model
    assert isinstance(adapted, PeftModel)
    torch.testing.assert_close(logits(load_model(run.path).model), logits(adapted), atol=1e-4, rtol=0)
    assert (logits(load_model(jsft.path).model) - logits(adapted)).abs().max() > 0.05


@pytest.fixture
def bad_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that goes wrong: tied embeddings stay tied."""
    monkeypatch.setattr(merge_module, "_plain", lambda side: type("Own", (), {"weight": object()}))


@pytest.mark.usefixtures("bad_merge")
@pytest.mark.parametrize("stage", ["jsft", "train", "sft"])
def test_a_merged_model_that_answers_otherwise_is_not_kept_but_its_adapter_is(
    tmp_path: Path, tied_folder: Path, tiny_recipe: Callable[..., Recipe], stage: str
) -> None:
    sections = {"lora": {"r": 4, "target_modules": ["embed_tokens"]}, "training": STEPS}
    recipe = tiny_recipe(16, jsft=sections, self_training={**sections, "start": str(tied_folder)})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(tied_folder)})})
    run = tmp_path / "run"
    stages = {"jsft": run_jsft, "train": run_self_training, "sft": partial(run_baseline, "sft")}
    with pytest.raises(ModelError, match=r"answers otherwise .* use the adapter in .*run/adapter on the model") as said:
        stages[stage](recipe, run)
    assert "\n" not in str(said.value)
    assert not (run / "final").exists()
    assert not list(run.glob("*.partial"))
    kept = load_model(tied_folder, adapter=run).model
    assert (logits(kept) - logits(load_model(tied_folder).model)).abs().max() > 0.05
    assert RunFolder.finished(run) is None


@pytest.mark.usefixtures("bad_merge")
@pytest.mark.parametrize("method", ["raft", "rest"])
def test_a_round_does_not_go_on_from_a_merged_model_that_answers_otherwise(
    tmp_path: Path, tied_folder: Path, reward_folder: Path, tiny_recipe: Callable[..., Recipe], method: Any
) -> None:
    recipe = tiny_recipe(16, self_training={"lora": {"r": 4, "target_modules": ["embed_tokens"]}, "training": STEPS})
    small = {"raft": {"rounds": 2, "candidates": 2}, "rest": {"rounds": 1, "candidates": 2}}
    sections = {**small, "start": str(tied_folder), "reward": str(reward_folder)}
    recipe = Recipe.model_validate({**recipe.model_dump(), "baselines": sections})
    with pytest.raises(ModelError, match=r"answers otherwise .* is not kept: train with other lora\.target_modules\.$"):
        run_baseline(method, recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "final").exists()


def test_jsft_leaves_no_adapter_where_all_is_well(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    run = run_jsft(tiny_recipe(16, jsft={"lora": {"r": 4}, "training": STEPS}), tmp_path / "run")
    assert not [path.name for path in run.path.iterdir() if "adapter" in path.name]


def test_weights_that_are_no_numbers_are_no_match(tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    wanted = probe_logits(model)
    check_saved(folder, type(model), torch.float32, wanted, tmp_path)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="off by nan"):
        check_saved(folder, type(model), torch.float32, wanted, tmp_path)
    assert AutoTokenizer.from_pretrained(folder)
