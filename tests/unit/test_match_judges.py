"""The judges of many tournaments on the same candidates."""

from __future__ import annotations

import pytest
from test_judging import pair, verdict
from test_tournament import ScoreEngine

from selfjudge.core.knockout import majority
from selfjudge.evaluation.match_judges import RememberingJudge, SampledJudge
from selfjudge.judge import Judge
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates


class StrengthJudge:
    """Knows the strength of every pair by a function of its texts, and counts what it is asked."""

    engine = encoder = None

    def __init__(self, strength):
        self.strength = strength
        self.asked = []

    def judge(self, comparisons, progress=None):
        self.asked += comparisons
        p = [self.strength(c.response_a, c.response_b) for c in comparisons]
        return [verdict((s, 1 - s), (1 - s, s)) for s in p]


def share_of_a(strength: float, repeats: int, pairs: int = 4000) -> float:
    judge = SampledJudge(StrengthJudge(lambda a, b: strength), repeats, seed=0)
    found = judge.judge([pair(str(i), "other", None) for i in range(pairs)])
    assert {v.preferred for v in found} <= {"A", "B"}
    return sum(v.preferred == "A" for v in found) / pairs


@pytest.mark.parametrize(("strength", "repeats"), [(0.7, 1), (0.7, 2), (0.7, 3), (0.6, 9), (0.5, 4)])
def test_draws_follow_the_probability_and_the_majority(strength, repeats):
    # Four standard errors of 4,000 draws.
    assert share_of_a(strength, repeats) == pytest.approx(majority(strength, repeats), abs=0.032)


def test_many_repeats_are_the_verdict_as_it_is():
    assert share_of_a(0.6, 2001, pairs=100) == 1
    assert share_of_a(0.4, 2001, pairs=100) == 0


def test_draws_depend_on_the_seed_and_the_pair_alone():
    pairs = [pair(str(i), "other", None) for i in range(50)]
    first, again, other = (
        [v.preferred for v in SampledJudge(StrengthJudge(lambda a, b: 0.5), 3, seed).judge(pairs)] for seed in (1, 1, 2)
    )
    assert first == again != other
    backwards = SampledJudge(StrengthJudge(lambda a, b: 0.5), 3, 1).judge(pairs[::-1])
    assert [v.preferred for v in backwards[::-1]] == first


def test_only_the_preference_is_drawn():
    (found,) = SampledJudge(StrengthJudge(lambda a, b: 0.8), 1, 0).judge([pair("a", "b", None)])
    assert found.strength == pytest.approx(0.8)


def test_no_pair_is_judged_twice():
    strengths = {"ab": 0.8, "ac": 0.3, "bc": 0.5, "aa": 0.5}
    inner = StrengthJudge(lambda a, b: strengths[a + b])
    judge = RememberingJudge(inner)
    first = judge.judge([pair("a", "b", None), pair("a", "c", None), pair("a", "b", None)])
    assert [v.strength for v in first] == pytest.approx([0.8, 0.3, 0.8])
    later = judge.judge([pair("b", "a", None), pair("b", "c", None), pair("c", "a", None), pair("a", "a", None)])
    assert [v.strength for v in later] == pytest.approx([0.2, 0.5, 0.7, 0.5])
    assert [v.preferred for v in later] == ["B", "tie", "A", "tie"]
    assert [(c.response_a, c.response_b) for c in inner.asked] == [("a", "b"), ("a", "c"), ("b", "c"), ("a", "a")]


def test_both_orders_in_one_call_are_one_judgment():
    inner = StrengthJudge(lambda a, b: 0.8 if a == "a" else 0.2)
    found = RememberingJudge(inner).judge([pair("a", "b", None), pair("b", "a", None)])
    assert [v.strength for v in found] == pytest.approx([0.8, 0.2])
    assert len(inner.asked) == 1


def test_the_same_texts_under_another_prompt_are_another_pair():
    inner = StrengthJudge(lambda a, b: 0.5)
    other = pair("a", "b", None).model_copy(update={"prompt": (pair("", "", None).prompt[0].model_copy(
        update={"content": "y"}),)})  # fmt: skip
    RememberingJudge(inner).judge([pair("a", "b", None), other])
    assert len(inner.asked) == 2


def test_a_remembered_verdict_is_that_of_the_other_order(world_chat):
    judge = Judge(ScoreEngine(world_chat), JudgmentEncoder(load_templates("world"), world_chat))
    ab, ba = pair("score 3", "score 2", None), pair("score 2", "score 3", None)
    remembering = RememberingJudge(judge)
    assert remembering.judge([ab]) == judge.judge([ab])
    assert remembering.judge([ba]) == judge.judge([ba])
