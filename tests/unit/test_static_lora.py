"""LoRA as two products: the same numbers as PEFT's, and PEFT's own forward where it is more than that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from selfjudge.engines.static_lora import StaticLora

IDS = torch.tensor([[5, 9, 30, 7]])


@pytest.fixture
def model(chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    return tiny_llama(chatml_tokenizer).eval()


def with_lora(model: LlamaForCausalLM, **settings: object) -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=24, target_modules="all-linear", init_lora_weights=False, **settings)
    policy = get_peft_model(model, config).eval()
    assert isinstance(policy, PeftModel)
    return policy


@torch.no_grad()
def test_the_logits_are_pefts_and_follow_an_update(model: LlamaForCausalLM) -> None:
    policy = with_lora(model)
    lora = StaticLora(policy)
    assert sum(len(g._modules) for g in lora._groups) == 7 * model.config.num_hidden_layers
    for _ in range(2):
        lora.update()
        expected = policy(IDS).logits
        with lora.in_use():
            torch.testing.assert_close(policy(IDS).logits, expected, atol=5e-5, rtol=0)
        assert torch.equal(policy(IDS).logits, expected)  # PEFT's own again
        for p in policy.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    with lora.in_use():  # no update yet
        torch.testing.assert_close(policy(IDS).logits, expected, atol=5e-5, rtol=0)
    assert all(group._read is None and not group._low for group in lora._groups)  # nothing of it is held


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.operations += func not in _VIEWS
        return func(*args, **(kwargs or {}))


_VIEWS = {
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.t.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.detach.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.unsqueeze.default,
    torch.ops.aten.slice.Tensor,
    torch.ops.aten.split_with_sizes.default,
    torch.ops.aten.expand.default,
}


@torch.no_grad()
def test_a_layer_takes_fewer_operations_than_pefts(model: LlamaForCausalLM) -> None:
    model = model.to(torch.bfloat16)
    with Count() as plain:
        model(IDS)
    policy = with_lora(model)
    lora = StaticLora(policy)
    lora.update()
    with Count() as pefts:
        policy(IDS)
    with Count() as ours, lora.in_use():
        policy(IDS)
    layers = model.config.num_hidden_layers
    # Queries, keys and values read the same, gate and up do: four first products and seven second ones.
    assert ours.operations - plain.operations == 11 * layers
    assert pefts.operations - plain.operations >= 6 * 7 * layers


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_other_kinds_of_lora_run_as_peft_has_them(model: LlamaForCausalLM, settings: dict[str, object]) -> None:
    assert not StaticLora(with_lora(model, **settings))._groups


@torch.no_grad()
def test_an_adapter_that_is_off_or_merged_stays_so(model: LlamaForCausalLM) -> None:
    policy = with_lora(model)
    with policy.disable_adapter():
        assert not StaticLora(policy)._groups
    policy.merge_adapter()
    assert not StaticLora(policy)._groups
