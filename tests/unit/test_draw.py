"""The draw of one token: which tokens can be drawn, and each in its share of the random numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from selfjudge.engines.decode import draw

# Not in the order of their probabilities. In that order they are 3, 1, 4, 0: .4, .3, .2, .1; token 2 has none at all.
P = (0.1, 0.3, 0.0, 0.4, 0.2)
LOGITS = torch.tensor(P).log()
N = 1000


def shares(logits: torch.Tensor, temperature: float = 1.0, top_p: float = 1.0) -> dict[int, Fraction]:
    """The share of each token over numbers spread evenly over [0, 1)."""
    u = (torch.arange(N) + 0.5) / N
    tokens, logprobs = draw(logits.expand(N, -1), u, temperature, top_p)
    assert logprobs == pytest.approx(logits.log_softmax(-1)[tokens])  # those of the model, whatever was drawn from
    return {token: Fraction(tokens.tolist().count(token), N) for token in sorted(set(tokens.tolist()))}


def of(*parts: int) -> list[pytest.approx]:
    """The shares of these parts, within two of the numbers."""
    return [pytest.approx(part / sum(parts), abs=2 / N) for part in parts]


@pytest.mark.parametrize(
    ("top_p", "kept", "parts"),
    [
        (0.01, [3], [4]),  # the first alone exceeds it, and is the set
        (0.39, [3], [4]),
        (0.41, [1, 3], [3, 4]),  # what crosses top_p belongs to the set
        (0.69, [1, 3], [3, 4]),
        (0.71, [1, 3, 4], [3, 4, 2]),
        (0.89, [1, 3, 4], [3, 4, 2]),
        (0.91, [0, 1, 3, 4], [1, 3, 4, 2]),
        (1.0, [0, 1, 3, 4], [1, 3, 4, 2]),
    ],
)
def test_the_smallest_set_that_holds_top_p_and_the_model_s_odds_within(
    top_p: float, kept: list[int], parts: list[int]
) -> None:
    found = shares(LOGITS, top_p=top_p)
    assert list(found) == kept
    assert [float(share) for share in found.values()] == of(*parts)


def test_a_peaked_distribution_gives_its_peak() -> None:
    assert shares(torch.tensor([0.0, 8.0, 1.0, 2.0]), top_p=0.9) == {1: 1}


def test_temperature_comes_before_top_p() -> None:
    # At 0.5 the probabilities are squares: 1, 9, 16, 4 of 30. The first two are 25 / 30, and .7 of 1 before.
    found = shares(LOGITS, temperature=0.5, top_p=0.75)
    assert list(found) == [1, 3]
    assert [float(share) for share in found.values()] == of(9, 16)
    assert list(shares(LOGITS, temperature=1.0, top_p=0.75)) == [1, 3, 4]
    # At 2 they are square roots.
    found = shares(LOGITS, temperature=2.0)
    assert [float(share) for share in found.values()] == [
        pytest.approx(math.sqrt(P[token]) / sum(map(math.sqrt, P)), abs=2 / N) for token in found
    ]
    assert shares(LOGITS, temperature=0, top_p=0.01) == {3: 1}


def test_tokens_without_mass_are_not_drawn_at_either_end() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(3, -1)
    u = torch.tensor([0.0, 0.5, 1 - 2**-24])
    for top_p in (1.0, 0.99):
        assert draw(logits, u, 1.0, top_p)[0].tolist() == [1, 3, 3]


def test_each_row_has_its_own_distribution_and_number() -> None:
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    for top_p in (0.5, 1.0):
        tokens = draw(logits, torch.tensor([0.05, 0.999]), 1.0, top_p)[0].tolist()
        alone = [draw(logits[i : i + 1], torch.tensor([u]), 1.0, top_p)[0].item() for i, u in enumerate([0.05, 0.999])]
        assert tokens == alone
    assert draw(logits, torch.tensor([0.05, 0.05]), 1.0, 1.0)[0].tolist() == [0, 0]
    assert draw(logits, torch.tensor([0.999, 0.999]), 1.0, 1.0)[0].tolist() == [4, 4]
    assert draw(logits, torch.tensor([0.999, 0.999]), 1.0, 0.2)[0].tolist() == [3, 1]
