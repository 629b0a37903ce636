"""Every family of causal LMs: a batch gives what each row gives alone, computed by the model's own forward."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from families import FAMILIES, bare_chat, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.judging_way import judging_way
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.engines.stepwise import SAME_LENGTH, TOGETHER, UNCACHED
from selfjudge.templates.encode import JudgmentPrompt

NEW = 12
LABELS = (5, 6)
OTHER_WAYS = {"minimax": SAME_LENGTH, "recurrent_gemma": UNCACHED, "rwkv": UNCACHED}
SHARE = {
    "apertus",
    "deepseek_v3",
    "diffllama",
    "glm4_moe",
    "gpt2",
    "granite",
    "llama",
    "llama (dynamic rope)",
    "mixtral",
    "nemotron",
    "olmo2",
    "opt",
    "phi3 (longrope)",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[str, PreTrainedModel]:
    return request.param, tiny_model(request.param)


def texts(*lengths: int, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 96, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def logprobs_after(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """What a model that has seen nothing else predicts after one row: without a cache, a mask or padding."""
    logits = copy.deepcopy(model)(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits.float().log_softmax(-1)


def greedy(model: PreTrainedModel, prompt: list[int], stop: int | None = None) -> tuple[list[int], list[float]]:
    ids, logprobs = list(prompt), []
    while len(logprobs) < NEW and (not logprobs or ids[-1] != stop):
        found = logprobs_after(model, ids)
        ids.append(int(found.argmax()))
        logprobs.append(float(found.max()))
    return ids[len(prompt) :], logprobs


def test_a_batch_of_samples_is_what_each_row_gives_alone(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    prompts = texts(5, 18, 9, 18)  # some cross the border of longrope and dynamic rope, and all a window
    stop = greedy(model, prompts[0])[0][2]  # so that rows leave
    expected = [greedy(model, prompt, stop) for prompt in prompts]
    chat = bare_chat(stop)
    found = TransformersEngine(model, chat).sample(prompts, SamplingParams(n=2, temperature=0, max_new_tokens=NEW))
    assert sampling_way(model) is OTHER_WAYS.get(name, TOGETHER)
    assert len(found[0][0].ids) <= 3
    assert max(len(row[0].ids) for row in found) == NEW
    for row, (ids, logprobs) in zip(found, expected, strict=True):
        for completion in row:
            assert list(completion.ids) == ids
            assert completion.logprobs == pytest.approx(logprobs, abs=1e-3)


def test_a_batch_of_verdicts_is_what_each_prompt_gives_alone(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    head = texts(18)[0]
    prompts = [*texts(30, 7, 22, 45), *([*head, *rest] for rest in texts(3, 5, 9, 20, seed=2))]
    expected = [logprobs_after(model, prompt)[list(LABELS)].exp().tolist() for prompt in prompts]
    assert np.ptp(expected) > 1e-3
    chat = bare_chat(2)
    asked = [JudgmentPrompt(tuple(prompt), LABELS) for prompt in prompts]
    assert judging_way(model).shares == (name in SHARE)
    for packed in {False, None}:
        engine = TransformersEngine(model, chat, packed=packed)
        counts = engine.counts()
        with engine.reusing_prefixes():
            for _ in range(2):
                np.testing.assert_allclose(engine.label_probabilities(asked), expected, rtol=2e-3, atol=1e-5)
        assert (counts.computed < counts.asked) == (name in SHARE)
