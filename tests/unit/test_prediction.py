"""How often the chosen is good: predicted by hand, and against tournaments that keep to the assumptions."""

from __future__ import annotations

import random
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom
from test_judging import verdict
from test_match_judges import StrengthJudge

from selfjudge.core.knockout import good_winner
from selfjudge.data.candidates import Candidates
from selfjudge.evaluation import prediction
from selfjudge.evaluation.match_judges import RememberingJudge, SampledJudge
from selfjudge.evaluation.prediction import (
    Measured,
    good_from,
    halves,
    knockout,
    measure,
    predict,
    prediction_sections,
    prediction_table,
)
from selfjudge.evaluation.scaling import by_tournament, choose, scale, sections
from selfjudge.judge import as_messages

WIN, LOSS, TIE, SOFT = (verdict((s, 1 - s), (1 - s, s)) for s in (0.9, 0.1, 0.5, 0.6))


def row(id_: str, *scores: float) -> Candidates:
    return Candidates(
        id_, as_messages(f"Prompt {id_}."), tuple(f"{id_} {i}: {s}" for i, s in enumerate(scores)), scores
    )


@pytest.mark.parametrize(
    ("scores", "quantile", "threshold"),
    [
        ((1, 2, 3, 4), 0.5, 3),
        ((1, 2, 3, 4), 0.0, 2),  # the lowest score is never good
        ((1, 2, 3, 4), 1.0, 4),
        ((0, 0, 0, 1), 0.5, 1),
        ((5, 5, 5), 0.5, None),
    ],
)
def test_what_is_good(scores, quantile, threshold):
    assert good_from([row("a", *scores[:2]), row("b", *scores[2:])], quantile) == threshold


def test_halves_share_nothing():
    measured, observed = halves(7, 0)
    assert (len(measured), len(observed)) == (3, 4)
    assert sorted(measured + observed) == list(range(7))
    assert halves(7, 0) == (measured, observed) != halves(7, 1)


def test_pairs_of_a_good_and_a_bad_candidate_are_judged():
    judge = StrengthJudge(lambda a, b: 0.9)
    rows = [row("x", 0, 1, 1, 1, 0, 1), row("y", 0, 0, 1, 1, 0, 0)]
    found = measure(judge, rows, 4, 1, every=False)
    assert [(m.candidates, m.good, len(m.verdicts)) for m in found] == [(6, 4, 1), (6, 2, 0)]
    assert [(c.response_a, c.response_b) for c in judge.asked] == [("x 1: 1", "x 0: 0")]  # the good one is A
    found = measure(judge, rows, 4, 1, every=True)
    assert [len(m.verdicts) for m in found] == [3, 4]
    assert measure(judge, rows, 5, 1, every=False)[0].verdicts  # an odd one is left over


def test_prediction_by_hand():
    # p_comp: (1 + .5) / 2 = .75 of the first prompt, 0 of the second: .375. Of two candidates drawn from four with two
    # good: none 1/6, one 4/6, both 1/6; with three good: one 3/6, both 3/6. The third prompt has no pair.
    rows = [Measured(4, 2, [WIN, TIE]), Measured(4, 3, [LOSS]), Measured(4, 4, [])]
    found = knockout(rows, (1, 2), None)
    assert (found.p_comp.rate, found.p_comp.n) == (pytest.approx(0.375), 2)
    assert found.predicted[0].rate == pytest.approx((0.5 + 0.75 + 1) / 3)
    by_prompt = (1 / 6 + 4 / 6 * 0.375, 1 / 2 + 1 / 2 * 0.375, 1)
    assert found.predicted[1].rate == pytest.approx(sum(by_prompt) / 3)
    assert all(p.low <= p.rate <= p.high and p.n == 3 for p in found.predicted)
    assert found.guaranteed == pytest.approx([0.75, 0])


def test_prediction_of_repeats_by_hand():
    rows = [Measured(2, 1, [WIN]), Measured(2, 1, [SOFT])]
    assert knockout(rows, (2,), 1).predicted[0].rate == pytest.approx((0.9 + 0.6) / 2)
    three = ((0.9**3 + 3 * 0.9**2 * 0.1) + (0.6**3 + 3 * 0.6**2 * 0.4)) / 2
    assert knockout(rows, (2,), 3).predicted[0].rate == pytest.approx(three)
    assert knockout(rows, (2,), None).predicted[0].rate == 1
    # 1 - (.5^2 + exp(-2 * 5 * .25^2)): .75 is the p_comp of one comparison, five of which make a match.
    assert knockout(rows, (2,), 5).guaranteed == pytest.approx([0.214739], abs=1e-6)


def test_too_little_to_predict_from():
    assert knockout([Measured(2, 1, [WIN]), Measured(2, 2, [])], (2,), None) is None
    rows = [row(str(i), 1, 1) for i in range(4)]
    judge = StrengthJudge(lambda a, b: 0.9)
    arguments = ((1, 2), {"tournament": [[1.0] * 4] * 2}, {"tournament": None}, 0.5, 0)
    assert predict(judge, rows, *arguments, every=True) is None
    assert predict(judge, [row("0", 0, 1), row("1", 0, 1)], *arguments, every=True) is None  # one prompt in a half


def test_the_interval_covers(monkeypatch):
    """Prompts with their own p_gen and p_comp; the truth is the mean over prompts at the mean p_comp."""
    monkeypatch.setattr(prediction, "RESAMPLES", 100)
    rng = np.random.default_rng(0)
    n, hits = 4, 0
    grid = rng.beta(2, 3, 20_000)
    truth = float((binom.pmf(np.arange(n + 1)[:, None], n, grid).mean(1) * good_winner(n, 0.7)).sum())
    for _ in range(200):
        rows = []
        for p_gen, p_comp in zip(rng.beta(2, 3, 60), rng.beta(7, 3, 60), strict=True):
            good = rng.binomial(8, p_gen)
            wins = rng.random(4 if 0 < good < 8 else 0) < p_comp
            rows.append(Measured(8, int(good), [WIN if won else LOSS for won in wins]))
        found = knockout(rows, (n,), None).predicted[0]
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 200 <= 0.98


@pytest.mark.parametrize("every", [True, False])
def test_predicted_is_observed_where_the_assumptions_hold(every):
    """Every good candidate beats a bad one with .75, whichever round it is."""
    rng = random.Random(0)
    rows = [row(str(i), *(int(rng.random() < rng.choice((0.1, 0.5))) for _ in range(8))) for i in range(1200)]

    def strength(a: str, b: str) -> float:
        good = int(a[-1]) - int(b[-1])
        if good == 0:
            return 0.5
        draws = random.Random("|".join(sorted((a, b)))).random() < 0.75
        return 0.7 if draws == (good > 0) else 0.3

    inner = StrengthJudge(strength)
    inner.engine = SimpleNamespace(reusing_prefixes=lambda: nullcontext(None))
    judge = RememberingJudge(inner)
    tournaments = {"tournament": None, "drawn": 3}
    judges = {"tournament": judge, "drawn": SampledJudge(judge, 3, 0)}
    ns = (1, 3, 4, 8)
    scores = choose(rows, ns, {name: by_tournament(one, 0) for name, one in judges.items()})
    found = predict(judge, rows, ns, scores, tournaments, 0.5, 0, every=every)
    assert found.p_gen.n + found.observed["best"][0].n == 1200
    assert found.knockouts["tournament"].p_comp.rate == pytest.approx(0.75, abs=0.04)
    for name in tournaments:
        for k in range(len(ns)):
            # 600 prompts: a standard error of .02 observed, and .015 predicted.
            assert found.observed[name][k].rate == pytest.approx(found.knockouts[name].predicted[k].rate, abs=0.075)
    assert found.observed["tournament"][3].rate > found.observed["drawn"][3].rate + 0.05
    assert set(found.observed) == {"tournament", "drawn", "best"}


def test_what_is_measured_and_what_is_observed_are_other_prompts():
    measured, _ = halves(7, 0)
    rows = [row(str(i), 0, 1, 0, 0) if i in measured else row(str(i), 1, 1, 1, 0) for i in range(7)]
    chosen = [0.0 if i in measured else 1.0 for i in range(7)]
    judge = StrengthJudge(lambda a, b: 0.9)
    found = predict(judge, rows, (4,), {"tournament": [chosen]}, {"tournament": None}, 0.5, 0, every=True)
    assert (found.p_gen.rate, found.p_gen.n) == (0.25, 3)
    assert (found.observed["tournament"][0].rate, found.observed["tournament"][0].n) == (1, 4)


def test_table_and_page():
    rows = [row(str(i), 0, 1) for i in range(8)]
    judge = StrengthJudge(lambda a, b: 0.9 if a[-1] > b[-1] else 0.1)
    scores = {"tournament": [[0.0] * 8, [1.0] * 8], "random": [[0.5] * 8] * 2, "league": [[1.0] * 8] * 2}
    found = predict(judge, rows, (1, 2), scores, {"tournament": None}, 0.5, 0, every=False)
    table = prediction_table(found, (1, 2))
    assert [line[0] for line in table] == [
        "", "tournament: predicted", "tournament: observed", "tournament: guaranteed", "league: observed",
    ]  # fmt: skip
    assert [str(rate)[:7] for rate in table[2][1:]] == ["0.0 % [", "100.0 %"]
    page = prediction_sections(found, (1, 2))
    assert "a score of 1 or more" in page[0].text
    assert "<svg" in page[0].charts[0][1]
    whole = sections(scale(scores, (1, 2), 0, found))
    assert [section.title for section in whole][-3:] == [section.title for section in page]
    assert len(sections(scale(scores, (1, 2), 0))) == len(whole) - 3
