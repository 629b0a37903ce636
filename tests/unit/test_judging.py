"""The summary of a judge, with every figure worked out by hand."""

from __future__ import annotations

import pytest

from selfjudge.core.verdict import combine, principle_verdict
from selfjudge.evaluation.judging import summarise
from selfjudge.evaluation.world import audit_judge, is_clear, labelled_pairs, true_wins
from selfjudge.judge import as_messages
from selfjudge.records import Comparison, LabelProbabilities, Message, OrderProbabilities, PreferenceRecord
from selfjudge.training.held_out import as_comparisons

PROMPT = (Message(role="user", content="x"),)
SEA = "Name two things of the sea for Ada."
FARM = "Name three things of the farm for Ada."


def verdict(ab: tuple[float, float], ba: tuple[float, float]):
    p = OrderProbabilities(AB=LabelProbabilities(A=ab[0], B=ab[1]), BA=LabelProbabilities(A=ba[0], B=ba[1]))
    return combine([principle_verdict("overall", p)])


def pair(a: str, b: str, label: str | None) -> Comparison:
    return Comparison(id="0", prompt=PROMPT, response_a=a, response_b=b, label=label)


def test_every_figure_by_hand():
    comparisons = [
        pair("long one", "short", "A"),  # judged A: right, orders agree, and the longer
        pair("long one", "short", "B"),  # judged A: wrong, orders disagree, and the longer
        pair("ab", "cd", "A"),  # judged a tie: half right; equal length: half for the longer
        pair("short", "long one", "tie"),  # judged B: not counted for accuracy, the longer
        pair("short", "long one", None),  # judged A, the shorter
    ]
    verdicts = [
        verdict((0.8, 0.1), (0.2, 0.7)),  # s_a = .75, s_b = .15
        verdict((0.9, 0.1), (0.6, 0.4)),  # s_a = .65, s_b = .35; BA prefers b
        verdict((0.5, 0.5), (0.5, 0.5)),
        verdict((0.3, 0.7), (0.6, 0.4)),  # s_a = .35, s_b = .65; both orders prefer b
        verdict((0.9, 0.1), (0.1, 0.9)),
    ]
    s = summarise(comparisons, verdicts)
    assert (s.pairs, s.labelled, s.ties) == (5, 3, 1)
    assert s.accuracy.rate == pytest.approx(1.5 / 3)
    assert s.longer_wins.rate == pytest.approx((1 + 0 + 0.5) / 3)
    assert s.agreement.rate == pytest.approx(3 / 5)
    assert s.a_share.rate == pytest.approx((1 + 1 + 0.5 + 0 + 1) / 5)
    # Won by the first shown, order by order: A B, A A, = =, B A, A B; of each pair the mean of both.
    assert (s.first_shown_rate.rate, s.first_shown_rate.n) == (pytest.approx((0.5 + 1 + 0.5 + 0.5 + 0.5) / 5), 5)
    assert s.longer_share.rate == pytest.approx(3 / 4)  # of the four pairs of unequal length
    assert s.label_mass == pytest.approx((0.9 + 1 + 1 + 1 + 1) / 5)
    assert (s.shorter_right.rate, s.shorter_right.n) == (0, 1)  # the second pair
    # Strengths for A: .75 / .9, .65, .5; A is right, wrong, right.
    assert s.brier == pytest.approx(((1 / 6) ** 2 + 0.65**2 + 0.5**2) / 3)
    # Confidences .8333, .65 and .5, scores 1, 0 and 1/2: the tie says one half, and is one half right.
    assert s.calibration_error == pytest.approx((1 - 0.75 / 0.9 + 0.65 + 0) / 3)
    assert [(b.accuracy.rate, b.accuracy.n) for b in s.reliability] == [(0.5, 1), (0, 1), (1, 1)]
    # Labels A B A tie against A A tie B: p_o = 1/4; p_e = (2 * 2 + 1 * 1 + 1 * 1) / 16 = 6/16; kappa = -2/10.
    assert (s.kappa.value, s.kappa.n) == (pytest.approx(-0.2), 4)


def test_a_judge_that_takes_the_first_shown_is_seen_where_sides_balance():
    """400 pairs, 800 judgments, all for the first shown; who wins a pair is then decided by hundredths."""
    pairs = [
        pair("x", "y", "A" if i % 2 else "B").model_copy(update={"prompt": as_messages(f"Question {i}?")})
        for i in range(400)
    ]
    verdicts = [verdict((0.9, 0.1), (0.89 + 0.02 * (i % 2), 0.1)) for i in range(400)]
    s = summarise(pairs, verdicts)
    assert s.a_share.rate == 0.5
    assert s.first_shown_rate.rate == 1
    assert s.first_shown_rate.low > 0.98
    assert dict(s.rows())["Prefers the response shown first"] == s.first_shown_rate


def test_without_labels_there_is_no_accuracy():
    s = summarise([pair("a", "b", None)], [verdict((0.6, 0.4), (0.4, 0.6))])
    assert s.accuracy is s.longer_wins is s.shorter_right is s.calibration_error is s.brier is s.kappa is None
    assert not any("ccuracy" in name for name, _ in s.rows())


def test_held_out_pairs_put_the_chosen_side_first_about_half_the_time():
    records = [PreferenceRecord(id=str(i), prompt=PROMPT, chosen=f"good {i}", rejected=f"bad {i}") for i in range(400)]
    comparisons = as_comparisons(records)
    assert sorted(c.id for c in comparisons) == sorted(r.id for r in records)
    for c in comparisons:
        chosen = c.response_a if c.label == "A" else c.response_b
        assert chosen.startswith("good")
    assert 150 < sum(c.label == "A" for c in comparisons) < 250


def test_wins_by_the_truth():
    """Two sea words are perfect; one is one too few; equal utilities count one half."""
    found = true_wins(
        [SEA, SEA, SEA, FARM], ["coral tide", "coral", "coral tide", "um"], ["coral", "coral tide", "shell crab", "cow"]
    )
    assert found == {0: [("2 sea", 1), ("2 sea", 0), ("2 sea", 0.5), ("3 farm", 0)]}


def test_labelled_pairs_leave_out_equal_samples():
    pairs = labelled_pairs([SEA, SEA], [["coral", "coral"], ["coral", "coral tide"]])
    assert [(p.id, p.label) for p in pairs] == [("1", "B")]


def test_the_judge_against_the_truth_by_hand():
    def pair_of(prompt: str, a: str, b: str, label: str) -> Comparison:
        return Comparison(id="0", prompt=as_messages(prompt), response_a=a, response_b=b, label=label)

    right, wrong = verdict((0.8, 0.2), (0.2, 0.8)), verdict((0.1, 0.9), (0.2, 0.8))  # of the second the orders disagree
    judged = [
        (pair_of(SEA, "coral tide", "cow hen", "A"), right),
        (pair_of(SEA, "coral", "coral tide", "B"), wrong),  # B is right, and longer: s_b > s_a
        (pair_of(FARM, "cow", "cow hen pig", "B"), right),  # A is wrong, and shorter
        (pair_of(FARM, "coral tide reef", "cow hen", "B"), right),  # A is wrong, and longer
    ]
    found = audit_judge(judged)
    assert found.accuracy.rate == pytest.approx(2 / 4)
    assert found.longer_wins.rate == pytest.approx(3 / 4)
    assert found.agreement.rate == pytest.approx(3 / 4)
    # Two tasks, of means 1 and 0: a t interval of one degree of freedom is wider than the range.
    assert (found.accuracy.low, found.accuracy.high, found.accuracy.n) == (0, 1, 4)
    assert all(is_clear(c) for c, _ in judged)  # utilities 1.5, 0.5 (just enough), 0.67 and 1.17 apart
    assert not is_clear(pair_of(FARM, "cow hen pig", "cow hen", "A"))  # one word of three is missing


def test_pairs_of_one_prompt_are_not_taken_for_independent_ones():
    """40 prompts of 5 pairs: the judge is right on all pairs of 28 and on none of the others."""
    pairs = [
        pair(f"long {i}", "short", "A").model_copy(update={"prompt": as_messages(f"Question {i}?")}) for i in range(40)
    ]
    pairs = [p.model_copy(update={"response_a": f"{p.response_a} {n}"}) for n in range(5) for p in pairs]
    won, lost = verdict((0.9, 0.1), (0.1, 0.9)), verdict((0.1, 0.9), (0.9, 0.1))
    verdicts = [won if i % 40 < 28 else lost for i in range(200)]
    found, once = summarise(pairs, verdicts), summarise(pairs[:40], verdicts[:40])
    assert (found.pairs, found.prompts, found.accuracy.rate, found.accuracy.n) == (200, 40, 0.7, 200)
    assert (once.pairs, once.prompts) == (40, 40)
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((once.accuracy.low, once.accuracy.high), abs=0.01)
    assert dict(found.rows())["Prompts"] == 40
