"""Switching an adapter off: the base model's answers, and everything afterwards as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from peft import AdaptionPromptConfig, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from selfjudge.engines.adapters import AdapterSwitch

IDS = torch.tensor([[5, 9, 30, 7]])


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
        LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, modules_to_save=["lm_head"]),
        AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
)
@torch.no_grad()
def test_the_base_model_answers_for_a_while(
    config: object, chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    torch.manual_seed(0)
    model = tiny_llama(chatml_tokenizer).eval()
    base = model(IDS).logits
    policy = get_peft_model(model, config).eval()  # type: ignore[arg-type]
    assert isinstance(policy, PeftModel)
    for name, p in policy.named_parameters():
        if "modules_to_save" in name or "adaption" in name:
            p.add_(1)
    adapted = policy(IDS).logits
    trainable = [p.requires_grad for p in policy.parameters()]
    switch = AdapterSwitch(policy)
    with suppress(KeyError), switch.off():
        assert torch.equal(policy(IDS).logits, base)
        raise KeyError
    assert torch.equal(policy(IDS).logits, adapted)
    assert not torch.equal(adapted[:, -4:], base)
    with policy.disable_adapter():  # off already, it stays so
        with switch.off():
            assert torch.equal(policy(IDS).logits, base)
        assert torch.equal(policy(IDS).logits, base)
    assert [p.requires_grad for p in policy.parameters()] == trainable
