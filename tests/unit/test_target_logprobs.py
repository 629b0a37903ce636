"""Log-probabilities of chosen tokens, a chunk of positions at a time: as if everything were computed at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from selfjudge.core import logprobs as core
from selfjudge.engines.target_logprobs import target_logprobs

VOCAB = 50
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def llama(*, tied: bool = False, bias: bool = False) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    if bias:
        head = nn.Linear(16, VOCAB)
        head.weight = model.lm_head.weight
        nn.init.normal_(head.bias)
        model.set_output_embeddings(head)
    return model


def with_lora(model: LlamaForCausalLM, modules: str | list[str] = "all-linear", dropout: float = 0.0) -> nn.Module:
    config = LoraConfig(
        r=3, lora_dropout=dropout, target_modules=modules, task_type="CAUSAL_LM", init_lora_weights=False
    )
    return get_peft_model(model, config)


def checkpointed(model: PreTrainedModel) -> PreTrainedModel:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def autocast(model: PreTrainedModel) -> PreTrainedModel:
    """As accelerate prepares a model: its forward alone runs in bfloat16."""
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
    return model


def gemma2() -> Gemma2ForCausalLM:
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=2.0))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "untied head": llama,
    "tied head": lambda: llama(tied=True),
    "head with bias": lambda: llama(bias=True),
    "activation checkpointing": lambda: checkpointed(llama()),
    "LoRA": lambda: with_lora(llama()),
    "LoRA on the head": lambda: with_lora(llama(), ["lm_head", "q_proj"]),
    "LoRA, its head trained as it is": lambda: with_lora_and_head(llama()),
    "capped logits": gemma2,
    "scaled logits": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
    "autocast": lambda: autocast(llama()),
}
CAPPED = ("capped logits", "scaled logits")


def with_lora_and_head(model: LlamaForCausalLM) -> nn.Module:
    config = LoraConfig(r=3, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    return get_peft_model(model, config)


IDS = torch.randint(1, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 7 + [0] * 2, [1] * 4 + [0] * 5])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
# Row 0: its second token and its last four; row 1: two; row 2: one. Seven of 27 positions.
TARGETS = torch.tensor([1, 5, 6, 7, 8, 9 + 3, 9 + 6, 18 + 3])
WEIGHTS = torch.linspace(0.5, 2.0, len(TARGETS))


def chunks_of(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    monkeypatch.setattr(core, "CHUNK_BYTES", 4 * VOCAB * positions)


def plain(model: nn.Module) -> Tensor:
    """All logits of all positions, and of them what is asked for."""
    logprobs = model(**INPUTS, use_cache=False).logits[:, :-1].log_softmax(-1)
    each = logprobs.gather(-1, IDS[:, 1:].unsqueeze(-1)).squeeze(-1)
    rows, columns = TARGETS // 9, TARGETS % 9
    return each[rows, columns - 1]


def gradients(model: nn.Module, logprobs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (logprobs * WEIGHTS).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_the_plain_ones(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().train()
    exact = name != "autocast"
    if exact:
        model = model.double()
    expected = plain(model)
    wanted = gradients(model, expected)
    chunks_of(monkeypatch, chunk)
    found = target_logprobs(model, INPUTS, TARGETS)
    # In bfloat16 a head gives other roundings for other numbers of rows; head and input are cast all the same.
    tolerance = {"rtol": 1e-6, "atol": 1e-9} if exact else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found, expected, **tolerance)
    given = gradients(model, found)
    assert given.keys() == wanted.keys()
    assert len(given) >= 3
    for key, gradient in given.items():
        torch.testing.assert_close(gradient, wanted[key], **tolerance, msg=lambda text, key=key: f"{key}: {text}")


def test_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = llama()
    expected = plain(model)
    wanted = gradients(model, expected)
    chunks_of(monkeypatch, 3)
    found = target_logprobs(model, INPUTS, TARGETS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for key, gradient in gradients(model, found).items():
        scale = float(wanted[key].abs().max())
        torch.testing.assert_close(gradient, wanted[key], rtol=1e-5, atol=1e-6 * scale)


def seen_by_the_head(model: PreTrainedModel) -> list[tuple[int, torch.dtype]]:
    """Fills with the positions and the dtype of each call of the head."""
    calls: list[tuple[int, torch.dtype]] = []

    def note(logits: Tensor) -> Tensor:
        calls.append((logits.numel() // VOCAB, logits.dtype))
        return logits

    head = model.get_output_embeddings()
    own = head.forward
    head.forward = lambda hidden: note(own(hidden))
    return calls


@pytest.mark.parametrize("training", [True, False])
def test_the_head_sees_the_targets_alone_and_a_chunk_at_a_time(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    calls = seen_by_the_head(model)
    chunks_of(monkeypatch, 3)
    target_logprobs(model, INPUTS, TARGETS)  # the first call tries the head on a token
    calls.clear()
    with torch.set_grad_enabled(training):
        found = target_logprobs(model, INPUTS, TARGETS)
    assert sorted(n for n, _ in calls) == [2, 3, 3]  # chunks of eight targets
    if training:
        calls.clear()
        found.sum().backward()
        assert sorted(n for n, _ in calls) == [2, 3, 3]


def test_what_autograd_keeps_of_chunks_is_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    chunks_of(monkeypatch, 3)
    largest = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.numel() if x.shape[-1] == VOCAB and x.shape != (16, VOCAB) else 0)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        target_logprobs(model, INPUTS, TARGETS)
    assert largest == 0


def test_a_model_that_changes_its_logits_gives_those_of_the_targets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gemma2()
    calls = seen_by_the_head(model)
    chunks_of(monkeypatch, 3)
    with torch.no_grad():
        target_logprobs(model, INPUTS, TARGETS)
    assert [n for n, _ in calls] == [1, len(TARGETS)]


def test_the_head_runs_in_the_dtype_of_the_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = autocast(llama())
    calls = seen_by_the_head(model)
    chunks_of(monkeypatch, 3)
    target_logprobs(model, INPUTS, TARGETS).sum().backward()
    assert {dtype for _, dtype in calls} == {torch.bfloat16}


def test_with_the_adapter_off_it_is_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    base = llama()
    chunks_of(monkeypatch, 3)
    with torch.no_grad():
        expected = target_logprobs(base, INPUTS, TARGETS)
        model = with_lora(base, ["lm_head", "q_proj"])
        assert not torch.allclose(target_logprobs(model, INPUTS, TARGETS), expected, atol=1e-2)
        with model.disable_adapter():
            torch.testing.assert_close(target_logprobs(model, INPUTS, TARGETS), expected)


def test_dropout_is_the_same_when_a_chunk_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout in the head's adapter: the gradient is that of the values, by finite differences along one direction."""
    torch.manual_seed(0)
    model = with_lora(llama().double(), ["lm_head"], dropout=0.5).double().train()
    chunks_of(monkeypatch, 3)
    weight = next(p for name, p in model.named_parameters() if "lora_B" in name)
    direction = torch.randn_like(weight)

    def value(step: float) -> Tensor:
        with torch.no_grad():
            weight.add_(direction, alpha=step)
        torch.manual_seed(1)
        total = target_logprobs(model, INPUTS, TARGETS).sum()
        with torch.no_grad():
            weight.sub_(direction, alpha=step)
        return total

    value(0.0)  # the first call tries the head on a token
    torch.manual_seed(1)
    target_logprobs(model, INPUTS, TARGETS).sum().backward()
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert float((weight.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_what_modules_return_is_what_is_used() -> None:
    # DeepSpeed puts functions of its own behind each module's output, and waits for all of them in the backward pass.
    model = llama()
    plain = target_logprobs(model, INPUTS, TARGETS)
    model.lm_head.register_forward_hook(lambda module, args, logits: 2 * logits)
    assert torch.equal(target_logprobs(model, INPUTS, TARGETS), 2 * plain)


def test_logits_that_are_rounded_behind_the_head_count_as_changed() -> None:
    class Rounding(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits.bfloat16()
            return output

    torch.manual_seed(0)
    model = Rounding(LlamaConfig(**SIZES))
    logits = model(**INPUTS).logits.float().log_softmax(-1).flatten(0, 1)
    expected = logits[TARGETS - 1].gather(1, INPUTS["input_ids"].flatten()[TARGETS][:, None])[:, 0]
    assert torch.allclose(target_logprobs(model, INPUTS, TARGETS).float(), expected, atol=1e-3)


def test_trying_the_head_leaves_the_randomness_alone() -> None:
    model = with_lora(llama(), dropout=0.5).train()
    torch.manual_seed(3)
    first = target_logprobs(model, INPUTS, TARGETS)
    torch.manual_seed(3)
    assert torch.equal(target_logprobs(model, INPUTS, TARGETS), first)


def test_no_targets_give_no_logprobs_but_a_graph() -> None:
    model = llama()
    found = target_logprobs(model, INPUTS, TARGETS[:0])
    assert found.shape == (0,)
    found.sum().backward()
