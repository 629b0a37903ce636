"""Judging on a GPU: the same probabilities with and without shared beginnings, and as on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu.tiny import DEVICE, grouped_query_model, needs_device

from selfjudge.benchmarks.inputs import generated_candidates, generated_prompts
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates

needs_device()

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}


def judgments(loaded: LoadedModel) -> list[JudgmentPrompt]:
    """Both orders of each two of four responses to each of ten prompts: much of them begins alike."""
    encoder = JudgmentEncoder(load_templates("world"), loaded.chat)
    (principle,) = encoder.principles.values()
    return [
        principle.prompt(prompt, a, b)
        for prompt, responses in zip(generated_prompts(10), generated_candidates(10, 4), strict=True)
        for a in responses
        for b in responses
        if a != b
    ]


def flattened(loaded: LoadedModel) -> LoadedModel:
    """The labels' probabilities are to differ, but not to be 0 or 1."""
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(0.2)
    return loaded


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
def test_shared_beginnings_change_nothing(dtype: torch.dtype) -> None:
    loaded = flattened(grouped_query_model(dtype))
    asked = judgments(loaded)
    shared, dense = (
        TransformersEngine(loaded.model, loaded.chat, share_prefixes=s, packed=False, token_budget=8192)
        for s in (True, False)
    )
    counts = shared.counts()
    expected = dense.label_probabilities(asked)
    assert np.ptp(np.log(expected)) > 0.5
    found = shared.label_probabilities(asked)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=10 * tolerance)
    assert np.abs(np.log(found) - np.log(expected)).mean() < tolerance
    with shared.reusing_prefixes():
        for _ in range(2):
            again = shared.label_probabilities(asked)
            np.testing.assert_allclose(np.log(again), np.log(expected), atol=10 * tolerance)
    assert counts.prefix_reuse > 0.2


def test_probabilities_are_those_of_a_cpu() -> None:
    there, here = (flattened(grouped_query_model(device=device)) for device in (DEVICE, "cpu"))
    asked = judgments(here)
    found, expected = (TransformersEngine(m.model, m.chat).label_probabilities(asked) for m in (there, here))
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=1e-3)


def test_response_logprobs_are_those_of_a_cpu() -> None:
    there, here = (grouped_query_model(device=device) for device in (DEVICE, "cpu"))
    rows = [(p.token_ids[:60], p.token_ids[60:90]) for p in judgments(here)[::5]]
    found, expected = (TransformersEngine(m.model, m.chat).response_logprobs(rows) for m in (there, here))
    np.testing.assert_allclose(found, expected, atol=1e-2, rtol=1e-4)
