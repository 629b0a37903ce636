"""Scored candidates and quality against their number, by hand."""

from __future__ import annotations

import pytest
from test_judge_sets import SHARED, write
from test_match_judges import StrengthJudge
from test_tournament import ScoreEngine

from selfjudge.data.candidates import Candidates, load_candidates
from selfjudge.errors import DataError
from selfjudge.evaluation import scaling
from selfjudge.evaluation.scaling import (
    by_league,
    by_score,
    by_tournament,
    choose,
    fits,
    longest,
    most_probable,
    scale,
    sections,
)
from selfjudge.judge import Judge, as_messages
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates

PROMPT = as_messages("Name a fox.")


@pytest.fixture
def judge(world_chat) -> Judge:
    engine = ScoreEngine(world_chat)
    return Judge(engine, JudgmentEncoder(load_templates("world"), world_chat))


def scored(id_: str, *scores: int, **more) -> Candidates:
    return Candidates(id_, PROMPT, tuple(f"score {s}" for s in scores), tuple(map(float, scores)), **more)


def test_every_format(tmp_path):
    rows = [
        {"id": "own", "prompt": "q", "candidates": ["a", "b"], "scores": ["0.5", 1]},
        {"prompt": "q", "samples": [{"response": "a", "score": 2}, {"response": "unscored"}]},
        {"prompt": "q", "samples": [{"response": "a", "gpt4turbo_winrate_vs_gpt35turbo": 0.0}]},
        {"prompt": "q", "best": {"response": "good"}, "losers": [{"response": "bad"}, {"response": "worse"}]},
    ]
    found = load_candidates(write(tmp_path / "c.jsonl", rows))
    assert [(c.id, c.texts, c.scores) for c in found] == [
        ("own", ("a", "b"), (0.5, 1.0)),
        ("1", ("a",), (2.0,)),
        ("2", ("a",), (0.0,)),
        ("3", ("good", "bad", "worse"), (1.0, 0.0, 0.0)),
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "there is no row"),
        ([{"prompt": "q"}], "line 1: none of the columns candidates"),
        ([{"prompt": "q", "candidates": ["a"], "scores": [1, 2]}], "line 1: candidates and scores differ"),
        ([{"prompt": "q", "candidates": ["a"]}], "line 1: scores is not a list"),
        ([{"prompt": "q", "candidates": ["a"], "scores": [True]}], "line 1: a score is not a number"),
        ([{"prompt": "q", "samples": [{"response": "a"}]}], "line 1: a score is not a number"),
    ],
)
def test_bad_candidates_are_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        load_candidates(write(tmp_path / "c.jsonl", rows))


@pytest.mark.parametrize(("name", "n"), [("bon_tulu2_alpacaeval_dev", 11), ("bon_rmb_helpful_dev", 2)])
def test_public_candidates(name, n):
    path = SHARED / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip("the public data is not here")
    found = load_candidates(path)
    assert len(found) > 500
    assert sum(len(c.texts) >= n for c in found) > 0.9 * len(found)


def test_subsets_are_nested_and_drawn_by_the_seed():
    row = scored("x", *range(8), logprobs=tuple(-float(i) for i in range(8)))
    drawn = row.shuffled(1)
    assert sorted(drawn.scores) == sorted(row.scores)
    assert drawn.first(4).texts == drawn.first(8).texts[:4]
    assert drawn.logprobs == tuple(-s for s in drawn.scores)  # text, score and log-prob stay together
    assert drawn == row.shuffled(1) != row.shuffled(2)


def test_the_rules(judge):
    rows = [
        Candidates("0", PROMPT, ("score 3", "score 15", "score 2"), (0.0, 1.0, 2.0), (-1.0, -3.0, -0.5)),
        Candidates("1", PROMPT, ("score 4", "score 1", "score 2"), (0.0, 1.0, 2.0), (-1.0, -3.0, -2.0)),
    ]
    assert by_tournament(judge, 0)(rows) == [1, 0]
    assert longest(rows) == [1, 0]  # the first of equals
    assert most_probable(rows) == [2, 0]
    assert by_score(lambda some: [row.scores for row in some])(rows) == [2, 2]


STRENGTHS = {"ab": 0.51, "ac": 0.51, "bc": 0.99}


def test_the_league_is_won_by_mean_probability(monkeypatch):
    """a wins both of its matches, 1.02 in all; b loses one of them, .49 + .99."""
    judge = StrengthJudge(lambda x, y: STRENGTHS[x + y])
    rows = [Candidates("0", PROMPT, ("a", "b", "c"), (0, 0, 0)), Candidates("1", PROMPT, ("a",), (0,)),
            Candidates("2", PROMPT, ("b", "c"), (0, 0)), Candidates("3", PROMPT, ("a", "c"), (0, 0))]  # fmt: skip
    assert by_league(judge)(rows) == [1, 0, 0, 0]
    assert len(judge.asked) == 3 + 0 + 1 + 1
    for pairs in (3, 1):  # one prompt a call, also where it alone has more pairs
        monkeypatch.setattr(scaling, "_PAIRS", pairs)
        assert by_league(judge)(rows) == [1, 0, 0, 0]
    assert by_league(judge)([]) == []


@pytest.mark.parametrize(
    ("strengths", "winner"),
    [
        # Strengths are for the first of two; each answer has the sum of its shares in its three matches.
        ({"ab": 0.4, "ac": 0.4, "ad": 0.4, "bc": 0.4, "bd": 0.4, "cd": 0.4}, 3),  # 1.2, 1.4, 1.6, 1.8
        ({"ab": 0.2, "ac": 0.3, "ad": 0.6, "bc": 0.7, "bd": 0.5, "cd": 0.9}, 1),  # 1.1, 2.0, 1.9, 1.0
        ({"ab": 0.2, "ac": 0.3, "ad": 0.6, "bc": 0.5, "bd": 0.5, "cd": 0.9}, 2),  # 1.1, 1.8, 2.1, 1.0
        ({"ab": 0.8, "ac": 0.7, "ad": 0.4, "bc": 0.5, "bd": 0.5, "cd": 0.9}, 0),  # 1.9, 1.2, 1.7, 1.2
    ],
)
def test_the_second_of_two_has_what_the_first_has_not(strengths, winner):
    rows = [Candidates(str(i), PROMPT, tuple("abcd"), (0,) * 4) for i in range(2)]
    assert by_league(StrengthJudge(lambda x, y: strengths[x + y]))(rows) == [winner] * 2


def test_of_equals_the_league_takes_the_first(judge):
    row = Candidates("0", PROMPT, ("score 1", "score 3", "score 3"), (0, 0, 0))
    assert by_league(judge)([row]) == [1]


def test_quality_and_gain_by_hand(judge):
    rows = [scored("0", 1, 2, 3, 4), scored("1", 5, 5, 5, 9), scored("2", 0, 0, 0, 0)]
    scores = choose([row.shuffled(0) for row in rows], (1, 4), {"tournament": by_tournament(judge, 0)})
    found = scale(scores, (1, 4), left_out=3)
    assert (found.n, found.prompts, found.left_out) == ((1, 4), 3, 3)
    assert set(found.quality) == {"tournament", "random", "best"}
    at_1, at_4 = found.quality["tournament"]
    assert at_1.value == found.quality["random"][0].value == found.quality["best"][0].value
    assert at_4.value == found.quality["best"][1].value == pytest.approx((4 + 9 + 0) / 3)
    assert found.quality["random"][1].value == pytest.approx((2.5 + 6 + 0) / 3)
    assert found.gain["tournament"][1].value == pytest.approx((1.5 + 3 + 0) / 3)
    assert found.gain["tournament"][0].value == 0
    shown = sections(found)
    assert shown[1].table[0] == ("", "N = 1", "N = 4")
    assert "<svg" in shown[0].charts[0][1]


def test_the_order_of_a_file_does_not_matter():
    """Files may be sorted: the first candidate of each prompt is the worst here."""
    rows = [scored(str(i), 0, 1, 2, 3) for i in range(200)]
    found = scale(choose([row.shuffled(0) for row in rows], (1,), {}), (1,), left_out=0).quality["random"][0]
    assert found.low < 1.5 < found.high


def test_answers_that_are_too_long_to_judge(judge):
    assert fits(judge, Candidates("0", PROMPT, ("fox", "owl"), (0, 0)))
    assert not fits(judge, Candidates("0", PROMPT, ("owl " * 300, "fox", "owl"), (0, 0, 0)))
