"""Within training a model's own dropout can be off: it then computes what it does in eval mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedModel,
)

from selfjudge.recipes.load import load_recipe
from selfjudge.recipes.schema import LoraSection, SelfTrainingSection
from selfjudge.training.dropout import OwnDropout

IDS = torch.arange(5, 45).view(2, 20)
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SIZES, "intermediate_size": 32, "num_key_value_heads": 2}
CONFIGS: dict[str, Any] = {
    # Rates in nn.Dropout; as numbers of layers; read from the config in the forward; of whole layers; of a router.
    "modules": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4),
    "numbers": LlamaConfig(**WIDE, attention_dropout=0.5),
    "config": FalconConfig(**SIZES, hidden_dropout=0.5, attention_dropout=0.5),
    "layers": OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=32, dropout=0.5, attention_dropout=0.5, layerdrop=0.5),
    "router": MixtralConfig(**WIDE, num_local_experts=4, router_jitter_noise=0.5),
}


def made(config: Any, attention: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def logits(model: Any, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return model(input_ids=IDS, use_cache=False).logits.detach()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CONFIGS)
def test_training_computes_what_evaluating_does(name: str, attention: str) -> None:
    model = made(CONFIGS[name], attention)
    before = model.config.to_dict()
    wanted = logits(model.eval())
    model.train()
    drawn = logits(model)
    assert (drawn - wanted).abs().max() > 1e-3
    dropout = OwnDropout(model)
    with dropout.off():
        assert model.training
        assert torch.equal(logits(model, seed=1), wanted)
    assert torch.equal(logits(model), drawn)
    assert model.config.to_dict() == before


def test_rates_come_back_after_an_error() -> None:
    model = made(CONFIGS["modules"], "eager").train()
    drawn = logits(model)
    with pytest.raises(KeyError), OwnDropout(model).off():
        raise KeyError
    assert torch.equal(logits(model), drawn)


def test_the_dropout_of_an_adapter_stays() -> None:
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(made(CONFIGS["modules"], "eager"), config)
    wanted = logits(model.eval())
    model.train()
    with OwnDropout(model).off():
        assert not torch.allclose(logits(model), wanted)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout) and module.p == 0.5:
                module.p = 0.0
        assert torch.equal(logits(model), wanted)


def test_the_adapter_in_training_has_dropout_where_it_is_kept() -> None:
    lora = {"r": 4, "dropout": 0.3}
    assert SelfTrainingSection(lora=lora).policy_lora == LoraSection(r=4, dropout=0.0)
    assert SelfTrainingSection(lora=lora, keep_lora_dropout=True).policy_lora == LoraSection(r=4, dropout=0.3)
    assert SelfTrainingSection(lora=None, keep_lora_dropout=True).policy_lora is None


@pytest.mark.parametrize("end", ["hh-helpful", "ultrafeedback", "ultrafeedback-principles"])
def test_the_published_settings_keep_the_published_dropout(end: str) -> None:
    lora = load_recipe(f"llama2-7b-{end}").self_training.policy_lora
    assert lora == LoraSection(r=8, alpha=16, dropout=0.1)
