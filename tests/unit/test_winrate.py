"""Evaluators and the win rate, every figure by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_judging import SEA
from test_tournament import ScoreEngine

from selfjudge.core.length_control import length_controlled
from selfjudge.errors import DataError
from selfjudge.evaluation.evaluators import Scored, by_judge, by_value, own_judges, true_utility
from selfjudge.evaluation.winrate import repeated_ngrams, sections, win_rate
from selfjudge.judge import Judge, as_messages
from selfjudge.records import Comparison
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates


def pair(a: str, b: str, prompt: str = SEA) -> Comparison:
    return Comparison(id="0", prompt=as_messages(prompt), response_a=a, response_b=b)


class FirstEngine(ScoreEngine):
    """Prefers what is shown first, whatever it is."""

    def label_probabilities(self, prompts, progress=None):
        return np.array([[0.6, 0.4]] * len(prompts))


def judge_on(engine) -> Judge:
    return Judge(engine, JudgmentEncoder(load_templates("world"), engine.chat))


def test_a_judge_is_asked_in_both_orders(world_chat):
    pairs = [pair("score 2", "score 1"), pair("score 1", "score 2"), pair("score 1", "score 1 ")]
    assert by_judge(judge_on(ScoreEngine(world_chat)))(pairs) == [
        Scored(1, True), Scored(0, True), Scored(0.5, True),
    ]  # fmt: skip


def test_equal_answers_tie_and_leave_nothing_to_agree_on(world_chat):
    assert by_judge(judge_on(FirstEngine(world_chat)))([pair("score 1", "score 1")]) == [Scored(0.5, None)]


def test_orders_that_disagree_count_one_half_each(world_chat):
    assert by_judge(judge_on(FirstEngine(world_chat)))([pair("score 2", "score 1")]) == [Scored(0.5, False)]


def test_the_truth():
    """Two sea words are worth 1.5; one is half too few."""
    score = by_value(true_utility)
    assert score([pair("coral tide", "coral"), pair("coral", "coral tide"), pair("coral tide", "shell crab")]) == [
        Scored(1, None, (1.5, 1.0)), Scored(0, None, (1.0, 1.5)), Scored(0.5, None, (1.5, 1.5)),
    ]  # fmt: skip
    with pytest.raises(DataError):
        score([pair("a", "b", "What is the capital of France?")])


def test_values_are_compared_side_by_side():
    score = by_value(lambda pairs, texts: [len(text) for text in texts])
    assert [s.score for s in score([pair("aaa", "bb"), pair("a", "bb"), pair("a", "b")])] == [1, 0, 0.5]


def test_a_models_judges_are_itself_and_the_start_of_its_run(tmp_path):
    start, run = tmp_path / "jsft", tmp_path / "train"
    start.mkdir()
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"start": str(start)}))
    assert own_judges(str(run)) == {run, start}
    assert own_judges(str(start)) == {start}


def test_repeated_ngrams_by_hand():
    assert repeated_ngrams("a b c d e") == 0
    # a b c d | b c d a | c d a b | d a b c | a b c d: one of five repeats.
    assert repeated_ngrams("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_ngrams("a b c") == 0


def test_the_win_rate_by_hand():
    pairs = [pair("xxxx", "yy"), pair("xx", "yyyy"), pair("", "y"), pair("a b c d a b c d", "y")]
    scored = [Scored(1, True), Scored(0.5, False), Scored(0, True), Scored(1, True)]
    found = win_rate(pairs, scored)
    assert (found.n, found.wins, found.ties, found.losses) == (4, 2, 1, 1)
    assert found.win_rate.rate == pytest.approx(2.5 / 4)
    assert found.win_rate.low < found.win_rate.rate < found.win_rate.high
    assert found.agreement.rate == 0.75
    assert found.texts_a.characters.value == pytest.approx((4 + 2 + 0 + 15) / 4)
    assert found.texts_b.characters.value == pytest.approx((2 + 4 + 1 + 1) / 4)
    assert found.texts_a.repetition.value == pytest.approx(0.05)
    assert (found.texts_a.empty, found.texts_b.empty) == (1, 0)
    assert found.equal_length.rate < found.win_rate.rate  # a wins where it is the longer
    assert found.length_controlled is None
    assert found.longer_a.rate == 0.5
    figures, examples = sections(found, pairs, scored)
    assert figures.table[2][0] == "Win rate of a"
    assert examples.examples[1][0] == ("0:", "score of a 0.5")


def test_difficulties_add_the_length_controlled_win_rate():
    pairs = [pair("xxxx", "yy"), pair("xx", "yyyy"), pair("", "y"), pair("xxxx", "yyyy")]
    scored, difficulties = (
        [Scored(1, True), Scored(0.5, False), Scored(0, True), Scored(0, True)],
        [2.0, 1.0, -1.0, -2.0],
    )
    found = win_rate(pairs, scored, difficulties)
    assert found.length_controlled == length_controlled([1, 0.5, 0, 0], [(4, 2), (2, 4), (0, 1), (4, 4)], difficulties)
    assert dict(found.rows())["… length-controlled, AlpacaEval 2"] == found.length_controlled
    assert found.longer_a.rate == pytest.approx(1.5 / 4)  # equal lengths count one half
    assert "… length-controlled, AlpacaEval 2" not in dict(win_rate(pairs, scored).rows())


@pytest.mark.parametrize(("longer", "caution"), [(0, True), (1, True), (2, False), (18, False), (19, True)])
def test_rates_at_equal_length_are_extrapolated_where_lengths_hardly_overlap(longer, caution):
    pairs = [pair("xxx", "yy")] * longer + [pair("x", "yy")] * (20 - longer)
    found = win_rate(pairs, [Scored(1)] * 10 + [Scored(0)] * 10)
    assert found.extrapolated is caution
    assert ("Caution" in dict(found.rows())) is caution


def test_the_value_of_each_side_is_a_mean_over_prompts():
    found = win_rate([pair("a", "b")] * 2, [Scored(1, None, (1.0, 0.0)), Scored(0.5, None, (1.0, 1.0))])
    assert (found.value_a.value, found.value_b.value) == (1, 0.5)
    assert dict(found.rows())["Value of b"] == found.value_b


def test_an_evaluator_without_orders_has_no_agreement():
    found = win_rate([pair("a", "b")] * 2, [Scored(1), Scored(0)])
    assert found.agreement is found.value_a is found.value_b is found.pass_a is found.pass_b is None
    assert "Both orders agree" not in dict(found.rows())
