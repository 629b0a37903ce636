"""What does not take an adapter is refused in one sentence, before a run folder exists."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import FAMILIES, tiny_model
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedTokenizerFast

from selfjudge.engines import sampling_way as module
from selfjudge.errors import ModelError, RecipeError
from selfjudge.recipes.schema import LoraSection, Recipe
from selfjudge.training.jsft import run_jsft
from selfjudge.training.lora import check_lora, put_adapter, unfit_modules
from selfjudge.training.self_training import run_self_training

PACKED_EXPERTS = {"deepseek_v3", "glm4_moe", "minimax", "mixtral", "qwen3_moe", "qwen3_next"}
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
        sentence = r"set lora.dropout=0 in the stage's section .* or name lora.target_modules without them"
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


@pytest.mark.parametrize("family", sorted(STATE_SPACES))
def test_mamba_layers_get_adapters_but_on_what_peft_refuses(family: str) -> None:
    model = tiny_model(family)
    with pytest.raises(RecipeError, match="Module 'out_proj' is incompatible with Mamba-based models"):
        check_lora(model, LoraSection(target_modules=["in_proj", "out_proj"]))
    adapted = put_adapter(model, LoraSection(dropout=0))
    names = {
        name.rpartition(".lora_A")[0].rpartition(".")[2] for name, _ in adapted.named_parameters() if "lora_A" in name
    }
    assert "in_proj" in names
    assert "out_proj" not in names


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_adapter_is_trained(family: str) -> None:
    model = put_adapter(tiny_model(family), LoraSection(r=2, dropout=0)).train()
    ids = torch.randint(3, 96, (2, 20), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)[..., 5].sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if "lora_B" in name}
    assert gradients
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"bloom"}))  # it does so with slow_but_exact, off by default
def test_no_adapter_is_on_a_weight_that_the_model_reads_directly(family: str) -> None:
    """Kernels of a GPU do so where a CPU does not: the model's own source tells."""
    model = put_adapter(tiny_model(family), LoraSection(r=2, dropout=0)).get_base_model()
    for parent in model.modules():
        source = inspect.getsource(type(parent)) if type(parent).__module__.startswith("transformers.models") else ""
        read = set(re.findall(r"self\.(\w+)\.weight\b(?!\.(?:dtype|device|shape))", source))
        assert not [n for n, m in parent.named_children() if n in read and isinstance(m, BaseTunerLayer)], parent


def test_layers_that_share_a_weight_take_no_adapter(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("zamba2")
    shared = {name for name in unfit_modules(model) if not name.endswith(".out_proj")}
    assert {name.split(".")[2] for name in shared} == {"1", "3"}
    assert all(".shared_transformer." in name for name in shared)
    with pytest.raises(RecipeError, match=r"shared_transformer.* takes no adapter \(its weight is that of several"):
        check_lora(model, LoraSection(target_modules=["q_proj"]))
    check_lora(model, LoraSection())
    assert "LoRA on all linear layers leaves out" in caplog.text
    trained = {name for name, weight in put_adapter(model, LoraSection()).named_parameters() if weight.requires_grad}
    assert trained
    assert not any("shared_transformer.self_attn" in name for name in trained)


def test_a_router_that_gives_two_tensors_takes_no_adapter() -> None:
    model = tiny_model("llama4_text")
    assert {name.rpartition(".")[2] for name in unfit_modules(model)} == {"router"}
    with pytest.raises(
        RecipeError, match=r"router of Llama4ForCausalLM takes no adapter \(it gives more than a linear"
    ):
        check_lora(model, LoraSection(target_modules=["router"]))
    put_adapter(model, LoraSection())(input_ids=torch.tensor([[1, 2, 3]]))


def test_a_linear_layer_of_a_class_of_its_own_takes_one() -> None:
    assert unfit_modules(tiny_model("falcon")) == {}


@pytest.mark.parametrize("run", [run_jsft, run_self_training])
def test_the_run_folder_is_not_made(
    tiny_recipe: Callable[..., Recipe], mixtral: Path, tmp_path: Path, run: Callable[..., object]
) -> None:
    recipe = tiny_recipe(
        jsft={"lora": {"dropout": 0.1}},
        self_training={"start": str(mixtral), "lora": {"dropout": 0.1}, "keep_lora_dropout": True},
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
