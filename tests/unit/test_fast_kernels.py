"""Which norms run as one kernel, and that it computes what they do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from selfjudge.engines import fast_kernels
from selfjudge.engines.fast_kernels import _can_fuse, _fused


class Gated(LlamaRMSNorm):
    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * gate


@pytest.mark.parametrize(
    ("norm", "fits"),
    [
        (LlamaRMSNorm(16, 1e-5), True),
        (Qwen3RMSNorm(16, 1e-6), True),
        (GemmaRMSNorm(16), False),  # adds 1 to its weight
        (Gated(16), False),
        (nn.LayerNorm(16), False),
    ],
)
def test_norms_are_tried(norm: nn.Module, fits: bool) -> None:
    before = deepcopy(norm.state_dict())
    assert _can_fuse(norm) is fits
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_the_fused_norm_is_the_norm(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(64, 1e-3).to(dtype)
    norm.weight.data = torch.randn(64, dtype=dtype)
    x = torch.randn(5, 3, 64).to(dtype).requires_grad_()
    ours, theirs = _fused(norm, x), norm(x)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, atol=0, rtol=tolerance)
    grad = torch.randn_like(ours)
    for found, expected in zip(
        torch.autograd.grad(ours, [x, norm.weight], grad),
        torch.autograd.grad(theirs, [x, norm.weight], grad),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=8 * tolerance, rtol=8 * tolerance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _fused(norm, x).dtype == dtype


def test_within_it_norms_are_fused_and_afterwards_as_they_were(
    chatml_tokenizer: PreTrainedTokenizerFast,
    tiny_llama: Callable[..., LlamaForCausalLM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()
    ids = torch.tensor([[5, 6, 7]])
    calls: list[nn.Module] = []
    monkeypatch.setattr(fast_kernels, "_fused", lambda norm, x: calls.append(norm) or _fused(norm, x))
    with torch.no_grad():
        expected = model(ids).logits
        with fast_kernels.fast_kernels(model):  # a CPU
            model(ids)
        assert not calls
        monkeypatch.setattr(fast_kernels, "_on_gpu", lambda model: True)
        with suppress(KeyError), fast_kernels.fast_kernels(model):
            torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=0)
            assert len(calls) == 2 * model.config.num_hidden_layers + 1
            raise KeyError
        assert torch.equal(model(ids).logits, expected)
    assert len(calls) == 2 * model.config.num_hidden_layers + 1
