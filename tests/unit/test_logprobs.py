"""Log-probabilities of given tokens, and the padded batches they are computed on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfjudge.core.logprobs import chunk_length, head_logprobs, token_logprobs
from selfjudge.engines.responses import collate_responses, response_logprobs
from selfjudge.training.pairs import Pair, collate_pairs


def test_by_hand() -> None:
    # Logits log 1 and log 3 are probabilities 1/4 and 3/4; a constant on all logits changes nothing.
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0 + math.log(3)]])
    assert token_logprobs(logits, torch.tensor([1, 0])).tolist() == pytest.approx(
        [math.log(0.75), math.log(0.25)], abs=1e-6
    )


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(1, 1000, dtype=torch.bfloat16)  # uniform: log(1 / 1000) = -6.9077553, in bfloat16 -6.90625
    value = token_logprobs(logits, torch.tensor([3]))
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(-6.9077553, abs=1e-5)


def test_float64_logits_stay_so() -> None:
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    assert token_logprobs(logits, torch.tensor([0])).tolist() == pytest.approx([math.log(0.25)], abs=1e-15)


def test_a_chunk_holds_what_fits_and_one_position_at_least() -> None:
    assert chunk_length(65_536) == 1024  # 2^28 bytes, 4 x 2^16 a position
    assert chunk_length(152_064) == 441  # 441.3
    assert chunk_length(2**28) == 1
    assert type(chunk_length(152_064)) is int


class Head(torch.nn.Module):
    """A linear head over 11 tokens that notes how many positions it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(11, 5, generator=torch.Generator().manual_seed(0)))
        self.seen: list[int] = []

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(hidden))
        return hidden @ self.weight.T


@pytest.mark.parametrize(
    ("chunk", "forward", "backward"),
    [
        (3, [3, 3, 1], [1, 3, 3]),  # the backward computes each chunk's logits again, the last first
        (6, [6, 1], [1, 6]),
        (7, [7], []),  # one chunk is computed once
        (8, [7], []),
    ],
)
def test_chunks_change_neither_values_nor_gradients(chunk: int, forward: list[int], backward: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 5, generator=generator, requires_grad=True)
    ids, weights = torch.randint(0, 11, (7,), generator=generator), torch.randn(7, generator=generator)
    head = Head()
    found = head_logprobs(head, hidden, ids, chunk)
    assert head.seen == forward
    expected = (hidden @ head.weight.T).log_softmax(-1)[range(7), ids]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    inputs = (hidden, head.weight)
    gradients = zip(*(torch.autograd.grad((weights * x).sum(), inputs) for x in (found, expected)), strict=True)
    for ours, plain in gradients:
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-5)
    assert head.seen == forward + backward


def test_positions_and_ids_are_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        head_logprobs(Head(), torch.randn(3, 5), torch.zeros(6, dtype=torch.long), 3)


def test_rows_are_padded_on_the_right() -> None:
    batch = collate_responses([([1, 2, 3], [4]), ([5], [6, 7])], pad_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 9]]
    assert batch["response_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["targets"].tolist() == [3, 5, 6]
    assert set(batch) == {"input_ids", "targets", "response_mask"}


def test_pairs_are_all_chosen_then_all_rejected() -> None:
    pairs = [Pair((1,), (2, 3), (4,), 0.9, -1.0, -2.0), Pair((5,), (6,), (7,), 0.6, -3.0, -4.0)]
    batch = collate_pairs(pairs, pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 6, 0], [1, 4, 0], [5, 7, 0]]
    assert batch["reference"].tolist() == [-1.0, -3.0, -2.0, -4.0]
    assert batch["strength"].tolist() == pytest.approx([0.9, 0.6])


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_padding_changes_nothing(
    family: str, request: pytest.FixtureRequest, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    make: Callable[..., PreTrainedModel] = request.getfixturevalue(family)
    model = make(chatml_tokenizer)
    texts = [("Name two things.", " oak"), ("Why?", " because it rained all day"), ("And of the sea, then?", " t")]
    rows = [tuple(chatml_tokenizer(t, add_special_tokens=False)["input_ids"] for t in pair) for pair in texts]
    expected = []
    for prompt, response in rows:
        p = model(torch.tensor([prompt + response])).logits[0].softmax(-1).detach()
        expected.append(math.log(math.prod(float(p[len(prompt) + i - 1, t]) for i, t in enumerate(response))))
    with torch.no_grad():
        found = response_logprobs(model, collate_responses(rows, 0))
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
