"""Rows whose rotary positions depend on their length: each gets what it gets alone, whatever was computed before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from families import BORDER, bare_chat, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from selfjudge.core.logprobs import token_kl
from selfjudge.data.collate import JsftCollator
from selfjudge.data.rows import Row
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.own_rope import own_rope, row_lengths
from selfjudge.engines.responses import response_logprobs
from selfjudge.engines.target_logprobs import target_logprobs
from selfjudge.templates.encode import JudgmentPrompt
from selfjudge.training.pairs import Pair, collate_pairs

CHAT = bare_chat(2)
FAMILIES = ["phi3 (longrope)", "llama (dynamic rope)"]
both = pytest.mark.parametrize("model", FAMILIES, indirect=True)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


def ids(*lengths: int, seed: int = 1) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, 96, (length,), generator=generator).tolist()) for length in lengths]


ROWS = list(zip(ids(5, 20, 11, 30, 9), ids(4, 4, 14, 7, 13, seed=2), strict=True))
"""Rows of 9, 24, 25, 37 and 22 tokens: up to the border of 24, beyond it, and across it."""


@torch.no_grad()
def alone(model: PreTrainedModel, row: tuple[int, ...]) -> Tensor:
    """The logits of one row, by a model that has seen nothing else."""
    return copy.deepcopy(model)(input_ids=torch.tensor([row]), use_cache=False).logits[0].float()


def response_alone(model: PreTrainedModel, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    logprobs = alone(model, prompt + response).log_softmax(-1)
    return sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(response))


@both
def test_kinds_change_at_the_border(model: PreTrainedModel) -> None:
    rope = own_rope(model)
    assert rope.border == BORDER == 24
    grows = model.config.model_type == "llama"
    assert rope.kinds([1, 24, 25, 40]) == [(0,), (0,), (25 if grows else 1,), (40 if grows else 1,)]
    plain = own_rope(tiny_model("llama"))
    assert plain.border is None
    assert plain.kinds([3, 500]) == [(), ()]


def test_rows_end_with_their_last_target() -> None:
    rows = torch.zeros(2, 6, dtype=torch.long)
    assert row_lengths(rows, torch.tensor([1, 3, 10]), None).tolist() == [[4] * 6, [5] * 6]
    packed = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
    assert row_lengths(rows, torch.tensor([1, 2, 4, 9]), packed).tolist() == [[3] * 3 + [2] * 3, [4] * 6]


@both
def test_log_probabilities_and_gradients_are_those_of_a_row_alone(model: PreTrainedModel) -> None:
    expected = [response_alone(model, *row) for row in ROWS]
    assert TransformersEngine(model, CHAT).response_logprobs(ROWS) == pytest.approx(expected, abs=2e-3)
    pairs = [Pair(ROWS[0][0], ROWS[0][1], ROWS[3][0] + ROWS[3][1], 1.0), Pair(*ROWS[1], ROWS[2][1], 1.0)]
    found = response_logprobs(model, collate_pairs(pairs, 0))
    rows = [(p.prompt_ids, y) for side in ("chosen_ids", "rejected_ids") for p in pairs for y in [getattr(p, side)]]
    assert found.tolist() == pytest.approx([response_alone(model, *row) for row in rows], abs=2e-3)
    found[0].backward()  # the gradient of the short row, beside the long ones
    gradient = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    logits = model(input_ids=torch.tensor([rows[0][0] + rows[0][1]]), use_cache=False).logits[0].log_softmax(-1)
    sum(logits[len(rows[0][0]) + i - 1, token] for i, token in enumerate(rows[0][1])).backward()
    torch.testing.assert_close(gradient, model.get_input_embeddings().weight.grad, rtol=1e-3, atol=1e-4)


@both
@pytest.mark.parametrize("packing", [False, True])
def test_jsft_rows_are_those_of_a_row_alone(model: PreTrainedModel, packing: bool) -> None:
    rows = [Row("policy", "x", x + y, (False,) * len(x) + (True,) * len(y)) for x, y in ROWS]
    batch = JsftCollator(0, packing=packing)([{"rows": (row,)} for row in rows])
    assert len(batch["input_ids"]) == (4 if packing else 5)  # two rows share a sequence
    inputs = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
    with torch.no_grad():
        found = target_logprobs(model, inputs, batch["targets"])
    assert float(found.sum()) == pytest.approx(sum(response_alone(model, *row) for row in ROWS), abs=5e-3)


@both
def test_the_kl_is_that_of_rows_alone(model: PreTrainedModel) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.1)
    expected = [float(token_kl(*(alone(m, x + y)[len(x) - 1 : -1] for m in (model, other))).sum()) for x, y in ROWS]
    found = TransformersEngine(model, CHAT).response_kl(TransformersEngine(other, CHAT), ROWS)
    assert found == pytest.approx(expected, rel=1e-3)


@both
def test_a_short_verdict_is_the_same_beside_a_long_one_and_after_it(model: PreTrainedModel) -> None:
    short, long = (JudgmentPrompt(x + y, (5, 6)) for x, y in (ROWS[0], ROWS[3]))
    expected = alone(model, short.token_ids)[-1].softmax(-1)[[5, 6]].tolist()
    with torch.no_grad():  # dynamic rope remembers the longest row it has seen
        beside = model(torch.tensor([[*short.token_ids, *[0] * 28], long.token_ids])).logits[0, 8].softmax(-1)
    assert abs(float(beside[6]) - expected[1]) > 0.01 * expected[1]  # what is prevented
    engine = TransformersEngine(model, CHAT)
    for asked in ([short, long], [long], [short]):
        found = dict(zip(asked, engine.label_probabilities(asked), strict=True))
        if short in found:
            np.testing.assert_allclose(found[short], expected, rtol=1e-3)


@both
def test_static_sampling_leaves_rows_across_the_border_to_the_other(model: PreTrainedModel) -> None:
    model.set_attn_implementation("sdpa")
    params = SamplingParams(n=2, max_new_tokens=10, temperature=0)
    found, expected = (
        TransformersEngine(model, CHAT, static_cache=static).sample([x for x, _ in ROWS], params)
        for static in (True, False)
    )
    assert [[c.ids for c in row] for row in found] == [[c.ids for c in row] for row in expected]
