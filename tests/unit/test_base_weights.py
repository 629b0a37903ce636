"""An adapter goes on the weights it was trained on, whatever dtype they are loaded in, and on no others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from selfjudge.engines.adapter_load import refuse_other_files
from selfjudge.engines.base_weights import (
    BASE_WEIGHTS,
    first_difference,
    read_base,
    sample_files,
    sample_weights,
    write_base,
)
from selfjudge.engines.load import load_model
from selfjudge.engines.vllm_engine import VllmCore
from selfjudge.errors import ModelError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.result import save_adapter
from selfjudge.training.self_training import run_self_training


def adapt(model: Any, folder: Path, **config: Any) -> PeftModel:
    values = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM", **config}
    adapted = get_peft_model(model, LoraConfig(**values))
    save_adapter(adapted, folder)
    return adapted


@pytest.fixture
def adapter(tmp_path: Path, tiny_model_folder: Path) -> Path:
    adapt(load_model(tiny_model_folder).model, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def changed(tmp_path: Path, tiny_model_folder: Path) -> Callable[[Callable[[Any], None]], Path]:
    """Makes a copy of the tiny model with other weights."""

    def make(change: Callable[[Any], None]) -> Path:
        folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "changed"))
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            change(model)
        model.save_pretrained(folder)
        return folder

    return make


def nudge(model: Any) -> None:
    for weight in model.parameters():
        weight.mul_(1.001)


@pytest.mark.parametrize("trained_in", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("used_in", ["float32", "bfloat16", "float16"])
def test_the_dtype_of_neither_side_counts(
    tmp_path: Path, tiny_model_folder: Path, trained_in: Any, used_in: Any
) -> None:
    adapt(load_model(tiny_model_folder, dtype=trained_in).model, tmp_path / "adapter")
    loaded = load_model(tiny_model_folder, dtype=used_in, adapter=tmp_path / "adapter")
    assert isinstance(loaded.model, PeftModel)


def test_slightly_other_weights_are_others(
    adapter: Path, changed: Callable[..., Path], tiny_model_folder: Path
) -> None:
    with pytest.raises(
        ModelError, match=r"adapter was trained on other weights than those of .*changed' \(.* differs"
    ) as e:
        load_model(changed(nudge), adapter=adapter)
    assert f"name the model it was trained on ({str(tiny_model_folder)!r} at that time)." in str(e.value)
    assert "\n" not in str(e.value)


def test_one_changed_matrix_is_found(adapter: Path, changed: Callable[..., Path]) -> None:
    def change(model: Any) -> None:
        model.model.layers[1].mlp.up_proj.weight.mul_(1.01)

    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight differs"):
        load_model(changed(change), adapter=adapter)


def test_where_no_sample_is_nothing_is_compared(adapter: Path, changed: Callable[..., Path]) -> None:
    (adapter / BASE_WEIGHTS).unlink()
    assert isinstance(load_model(changed(nudge), adapter=adapter).model, PeftModel)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"dtype": 1, "shapes": {"a": [2]}, "values": "AA=="}', '{"shapes": {"a": ["x"]}}', "9" * 5000],
)
def test_a_damaged_sample(adapter: Path, tiny_model_folder: Path, content: str) -> None:
    (adapter / BASE_WEIGHTS).write_text(content)
    with pytest.raises(ModelError, match=rf"{BASE_WEIGHTS} is damaged: .* remove this file"):
        load_model(tiny_model_folder, adapter=adapter)


def test_the_sample_is_of_the_base_under_the_adapter(tiny_model_folder: Path) -> None:
    model = load_model(tiny_model_folder).model
    plain = sample_weights(model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"]))
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(1)
    under = sample_weights(adapted)
    assert plain.shapes == under.shapes
    assert set(plain.shapes) == set(load_file(tiny_model_folder / "model.safetensors"))
    assert first_difference(plain, under) is None


def test_files_are_compared_without_loading_them(
    tmp_path: Path, adapter: Path, changed: Callable[..., Path], tiny_model_folder: Path
) -> None:
    refuse_other_files(tiny_model_folder, adapter)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    refuse_other_files(tmp_path / "shards", adapter)
    of_files, of_model = sample_files(tmp_path / "shards", [*sample_weights(model).shapes]), sample_weights(model)
    assert of_files.shapes == of_model.shapes
    assert all(torch.equal(of_files.values[name], values) for name, values in of_model.values.items())
    with pytest.raises(ModelError, match="trained on other weights"):
        refuse_other_files(changed(nudge), adapter)


def test_vllm_takes_an_adapter_of_its_weights_alone(adapter: Path, changed: Callable[..., Path]) -> None:
    core = VllmCore.__new__(VllmCore)  # vLLM itself is not asked
    core._base = str(changed(nudge))
    with pytest.raises(ModelError, match="trained on other weights"):
        core.load_adapter(adapter)


def test_numbers_that_are_none_are_the_same_number(tmp_path: Path, tiny_model_folder: Path) -> None:
    model = load_model(tiny_model_folder).model
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    write_base(get_peft_model(model, LoraConfig(target_modules="all-linear")), tmp_path)
    base = read_base(tmp_path)
    assert base is not None
    assert first_difference(base, sample_weights(model)) is None


def test_not_on_the_model_it_is_merged_into(
    tmp_path: Path, tiny_model_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    training = {"max_steps": 2, "learning_rate": 1e-2, "save_strategy": "no"}
    section = {"lora": {"r": 4}, "training": training, "rounds": 2}
    run = run_self_training(tiny_recipe(16, self_training=section), tmp_path / "run")
    last = run.path / "round-2"
    # By the run, by its folder, by the whole run's result, and of an adapter from before there were samples.
    (last / "adapter" / BASE_WEIGHTS).unlink()
    for model in (last, last / "final", run.path):
        with pytest.raises(ModelError, match=r"round-2/adapter is already merged into .*final'") as said:
            load_model(model, adapter=last)
        assert "\n" not in str(said.value)
    assert isinstance(load_model(run.path / "round-1", adapter=last).model, PeftModel)
    with pytest.raises(ModelError, match="trained on other weights"):
        load_model(last, adapter=run.path / "round-1")


def test_the_adapter_in_a_checkpoint_knows_its_base(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    section = {"training": {"max_steps": 2, "save_steps": 1, "learning_rate": 0.1}, "lora": {"r": 2}}
    run = run_self_training(tiny_recipe(16, self_training=section), tmp_path / "run")
    checkpoint = run.path / "checkpoints" / "checkpoint-2"
    base = run.info["start"]
    last = load_model(base, adapter=run.path / "adapter").model.state_dict()
    assert all(
        torch.equal(last[name], w) for name, w in load_model(base, adapter=checkpoint).model.state_dict().items()
    )
    with pytest.raises(ModelError, match="checkpoint-2 was trained on other weights"):
        load_model(run.path, adapter=checkpoint)


@pytest.mark.parametrize("sampled", [True, False], ids=["ours", "another's"])
@pytest.mark.parametrize("other", ["wider", "deeper", "shallower", "gpt2"])
def test_an_adapter_of_another_make(
    tmp_path: Path,
    world_tokenizer: PreTrainedTokenizerFast,
    tiny_model_folder: Path,
    tiny_gpt2: Callable[..., Any],
    sampled: bool,
    other: str,
) -> None:
    if other == "gpt2":
        model = tiny_gpt2(world_tokenizer)
    else:
        config = AutoModelForCausalLM.from_pretrained(tiny_model_folder).config
        config.update(
            {"wider": {"hidden_size": 64}, "deeper": {"num_hidden_layers": 3}}.get(other, {"num_hidden_layers": 1})
        )
        model = LlamaForCausalLM(config)
    adapt(model, tmp_path / "adapter", target_modules=["c_attn"] if other == "gpt2" else ["q_proj", "v_proj"])
    if not sampled:
        (tmp_path / "adapter" / BASE_WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"adapter (does not fit|was trained on other weights)") as said:
        load_model(tiny_model_folder, adapter=tmp_path / "adapter")
    assert "\n" not in str(said.value)
    assert "name the model it was trained on" in str(said.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"peft_type": "LORA", "r": "x"}', '{"peft_type": "NONE"}'])
def test_a_damaged_config_of_an_adapter(adapter: Path, tiny_model_folder: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match="does not fit"):
        load_model(tiny_model_folder, adapter=adapter)


def test_what_is_beside_the_adapter(adapter: Path) -> None:
    content = json.loads((adapter / BASE_WEIGHTS).read_text())
    assert content["dtype"] == "float32"
    assert (adapter / BASE_WEIGHTS).stat().st_size < 20_000
