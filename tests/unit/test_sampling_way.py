"""The way a model is sampled: the first that is right, found once, without a trace."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import bare_chat, tiny_model
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from selfjudge.engines import sampling_way as module
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.engines.stepwise import SAME_LENGTH, TOGETHER, UNCACHED, SamplingWay
from selfjudge.errors import ModelError
from selfjudge.templates.encode import JudgmentPrompt

CHAT = bare_chat(2)
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14, 15, 16]]
Forward = Callable[..., Any]


def changed(change: Callable[[Forward, dict[str, Any]], Any]) -> LlamaForCausalLM:
    """A Llama whose forward is another function of its own one."""
    model: Any = tiny_model("llama")
    forward = model.forward

    def other(input_ids: Tensor, **given: Any) -> Any:
        return change(forward, {"input_ids": input_ids, **given})

    other.__signature__ = inspect.signature(forward)
    model.forward = other
    return model


def blind_to_padding(forward: Forward, given: dict[str, Any]) -> Any:
    return forward(**{**given, "attention_mask": None})


def without_a_cache(forward: Forward, given: dict[str, Any]) -> Any:
    return forward(**{**given, "past_key_values": None, "use_cache": False})


def refuses_a_cache(forward: Forward, given: dict[str, Any]) -> Any:
    if given["use_cache"]:
        raise ValueError("This model has no cache.")
    return forward(**given)


def looks_ahead(forward: Forward, given: dict[str, Any]) -> Any:
    output = forward(**given)
    output.logits = output.logits + output.logits[:, -1:]
    return output


def looks_beside(forward: Forward, given: dict[str, Any]) -> Any:
    output = forward(**given)
    output.logits = output.logits + output.logits.flip(0)
    return output


def breaks(forward: Forward, given: dict[str, Any]) -> Any:
    raise ValueError("shapes do not fit")


def runs_out(forward: Forward, given: dict[str, Any]) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("change", "way"),
    [(blind_to_padding, SAME_LENGTH), (without_a_cache, UNCACHED), (refuses_a_cache, UNCACHED)],
)
@pytest.mark.parametrize("n", [1, 3])
def test_what_is_wrong_falls_back_and_is_said_once(
    change: Callable[[Forward, dict[str, Any]], Any], way: SamplingWay, n: int, caplog: pytest.LogCaptureFixture
) -> None:
    model, plain = changed(change), tiny_model("llama")
    engine, params = TransformersEngine(model, CHAT), SamplingParams(n=n, max_new_tokens=9, seed=3)
    assert TransformersEngine(model, CHAT).label_probabilities([JudgmentPrompt((5, 6), (7, 8))]).shape == (1, 2)
    assert not caplog.records  # who judges alone has nothing to try
    found = [engine.sample(PROMPTS, params) for _ in range(2)]
    assert sampling_way(model) is way
    (said,) = caplog.records
    assert (said.levelno, said.getMessage()) == (logging.WARNING, f"LlamaForCausalLM is sampled {way.description}.")
    expected = TransformersEngine(plain, CHAT).sample(PROMPTS, params)
    assert [[[c.ids for c in row] for row in rows] for rows in found] == 2 * [[[c.ids for c in r] for r in expected]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (looks_ahead, "depends on the texts beside it or on what comes after"),
        (looks_beside, "depends on the texts beside it or on what comes after"),
        (breaks, "does not run: shapes do not fit"),
    ],
)
def test_a_model_without_a_right_way_is_refused(change: Callable[[Forward, dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TransformersEngine(changed(change), CHAT).sample(PROMPTS, SamplingParams())


def test_steps_that_are_wrong_in_every_way_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_right", lambda *_: False)
    with pytest.raises(ModelError, match="token by token it gives other logits than for a whole text"):
        sampling_way(tiny_model("llama"))


def test_no_memory_is_no_verdict_on_the_model() -> None:
    model = changed(runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        sampling_way(model)


@pytest.mark.parametrize("family", ["llama", "recurrent_gemma", "llama (dynamic rope)", "rwkv", "qwen3_next"])
def test_nothing_is_left_behind(family: str) -> None:
    model = tiny_model(family)
    names = {name: set(vars(m)) for name, m in model.named_modules()}
    before = copy.deepcopy(model.state_dict())
    tensors = {(n, k): v for n, m in model.named_modules() for k, v in vars(m).items() if isinstance(v, Tensor)}
    model.train()
    model.get_input_embeddings().eval()  # a mixture, as PEFT leaves it
    modes = {name: m.training for name, m in model.named_modules()}
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    sampling_way(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert {name: set(vars(m)) for name, m in model.named_modules()} == names
    after = {(n, k): v for n, m in model.named_modules() for k, v in vars(m).items() if isinstance(v, Tensor)}
    assert after.keys() == tensors.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_model_is_tried_once_also_within_an_adapter() -> None:
    model = tiny_model("llama")
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.register_forward_pre_hook(count)
    policy = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert sampling_way(policy) is TOGETHER
    assert 0 < calls <= 10
    assert sampling_way(policy.get_base_model()) is TOGETHER
    with policy.disable_adapter():
        assert sampling_way(policy) is TOGETHER
    assert calls <= 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("family", "way"),
    [
        ("llama", TOGETHER),
        ("jamba", TOGETHER),
        ("qwen3_moe", TOGETHER),
        ("qwen3_next", TOGETHER),
        ("recurrent_gemma", UNCACHED),
    ],
)
def test_rounding_is_no_error(family: str, way: SamplingWay, dtype: torch.dtype) -> None:
    assert sampling_way(tiny_model(family, dtype=dtype)) is way


def test_tokens_that_a_model_rules_out_do_not_count() -> None:
    def ruled_out(forward: Forward, given: dict[str, Any]) -> Any:
        output = forward(**blind(given))
        output.logits[..., 50:] = -torch.inf
        return output

    def blind(given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "attention_mask": None}

    assert sampling_way(changed(ruled_out)) is SAME_LENGTH


def test_every_way_says_in_one_line_what_it_is() -> None:
    for way in (TOGETHER, SAME_LENGTH, UNCACHED):
        assert way.description.startswith("with")
        assert "\n" not in way.description
    model: PreTrainedModel = tiny_model("llama")
    assert "each read once for all of its samples" in sampling_way(model).description
