"""Which norms run as one kernel, and that it computes what they do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from selfjudge.benchmarks.inputs import random_model
from selfjudge.benchmarks.task import Settings
from selfjudge.benchmarks.tasks import make_task
from selfjudge.engines import fast_kernels
from selfjudge.engines.fast_kernels import _norm, is_plain_norm
from selfjudge.engines.judging_way import judging_way


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
        (nn.RMSNorm(16, eps=1e-5), True),
        (nn.RMSNorm(16, eps=1e-5, elementwise_affine=False), False),
        (LlamaRMSNorm(16, 1e-5).bfloat16(), True),
    ],
)
def test_norms_are_tried(norm: nn.Module, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_kernels, "_PLAIN", {})
    before, heard = deepcopy(norm.state_dict()), []
    listened_to = [p.expand_as(p).grad_fn.next_functions[0][0] for p in norm.parameters()]  # as DDP does
    for node in listened_to:
        node.register_hook(lambda *args: heard.append(args))
    assert is_plain_norm(norm) is fits
    for p in norm.parameters():
        p.sum().backward()
    assert len(heard) == len(before)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_the_norm_norm_is_the_norm(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(64, 1e-3).to(dtype)
    norm.weight.data = torch.randn(64, dtype=dtype)
    x = torch.randn(5, 3, 64).to(dtype).requires_grad_()
    ours, theirs = _norm(norm, x), norm(x)
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
        assert _norm(norm, x).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_and_its_gradients_are_pefts(
    dtype: torch.dtype,
    chatml_tokenizer: PreTrainedTokenizerFast,
    tiny_llama: Callable[..., LlamaForCausalLM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(chatml_tokenizer).to(dtype), LoraConfig(r=4, target_modules="all-linear"))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    weights = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in weights} == {torch.float32}
    ids = torch.randint(5, 60, (1, 60))

    def in_float32(kept: torch.Tensor) -> int:
        return kept.nbytes if kept.dtype == torch.float32 and kept.shape[-1] != model.config.vocab_size else 0

    def gradients() -> tuple[torch.Tensor, int]:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(in_float32(t)) or t, lambda t: t):
            loss = model(ids).logits.float().log_softmax(-1)[0, :, 5].sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]), sum(kept)

    pefts, peft_kept = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = gradients()
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(fast_kernels, "_on_gpu", lambda model: True)
        on_gpu.setattr(fast_kernels, "is_plain_norm", lambda norm: False)  # they have a test of their own
        with fast_kernels.FastKernels(model).in_use():
            ours, ours_kept = gradients()
    if dtype == torch.float32:
        torch.testing.assert_close(ours, pefts, atol=1e-5, rtol=1e-5)
        return
    model.float()
    exact, _ = gradients()
    # As exact as PEFT's under autocast, and what a layer reads is not kept in float32.
    assert (ours - exact).norm() <= 1.2 * (mixed - exact).norm()
    assert (ours - exact).norm() <= 0.05 * exact.norm()
    config = model.config
    read = 6 * config.hidden_size + config.intermediate_size  # by the seven matrices of a layer
    assert peft_kept - ours_kept >= ids.numel() * 4 * config.num_hidden_layers * read


def test_within_it_norms_are_norm_and_afterwards_as_they_were(
    chatml_tokenizer: PreTrainedTokenizerFast,
    tiny_llama: Callable[..., LlamaForCausalLM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()
    ids = torch.tensor([[5, 6, 7]])
    calls: list[nn.Module] = []
    monkeypatch.setattr(fast_kernels, "_norm", lambda norm, x: calls.append(norm) or _norm(norm, x))
    with torch.no_grad():
        expected = model(ids).logits
        with fast_kernels.FastKernels(model).in_use():  # a CPU
            model(ids)
        assert not calls
        monkeypatch.setattr(fast_kernels, "_on_gpu", lambda model: True)
        kernels = fast_kernels.FastKernels(model)
        norm = model.model.norm
        with sdpa_kernel(SDPBackend.MATH), kernels.in_use():
            first = norm.forward
            assert not torch.backends.cuda.flash_sdp_enabled()  # as somebody wants it
        assert not torch.backends.cuda.is_built() or torch.backends.cuda.cudnn_sdp_enabled()
        with kernels.in_use():
            assert norm.forward is first  # or a compiled model would be compiled anew
            assert not torch.backends.cuda.cudnn_sdp_enabled()
        with suppress(KeyError), fast_kernels.FastKernels(model).in_use():
            torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=0)
            assert len(calls) == 2 * model.config.num_hidden_layers + 1
            raise KeyError
        assert torch.equal(model(ids).logits, expected)
    assert len(calls) == 2 * model.config.num_hidden_layers + 1


@pytest.mark.parametrize("name", ["judge", "sample", "step", "jsft"])
def test_engine_and_trainers_work_within_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = random_model("tiny", "cpu", torch.float32)
    judging_way(loaded.model)  # what is tried once does not count
    seen: list[bool] = []
    loaded.model.register_forward_pre_hook(lambda model, args: seen.append("forward" in model.model.norm.__dict__))
    monkeypatch.setattr(fast_kernels, "_on_gpu", lambda model: True)
    make_task(name, loaded, Settings(2, "world", tmp_path, new_tokens=2)).ours()
    tried = 1 if name in ("step", "jsft") else 0  # the trainer tries the model's head on one token
    assert len(seen) > tried
    assert all(seen[tried:])
