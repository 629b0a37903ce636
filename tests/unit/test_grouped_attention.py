"""Attention of one token where heads share keys and values: torch's own numbers, without copies for every head."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from selfjudge.engines.grouped_attention import _NAME, _attention, grouped_attention


@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (4, 1), (3, 3)])
def test_it_is_torchs_attention(heads: int, groups: int) -> None:
    torch.manual_seed(0)
    room = torch.randn(2, 9, groups, 20, 8)  # a part of larger tensors, as in a recorded step
    query = torch.randn(5, heads, 1, 8)
    key, value = (t[:5, :, :13] for t in room)
    seen = torch.rand(5, 1, 1, 13) < 0.7
    seen[..., -1] = True
    mask = torch.zeros(5, 1, 1, 13).masked_fill(~seen, torch.finfo(torch.float32).min)
    found, _ = _attention(torch.nn.Module(), query, key, value, mask, scaling=0.3)
    expected = functional.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_models_use_it_for_a_while_where_heads_share() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    shared, own = (LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=n, **sizes)) for n in (2, 4))
    with grouped_attention(shared), grouped_attention(own):
        assert shared.config._attn_implementation == _NAME
        assert own.config._attn_implementation == "sdpa"
    assert shared.config._attn_implementation == "sdpa"
