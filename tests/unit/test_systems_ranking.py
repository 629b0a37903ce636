"""Systems with their answers, ranked by an evaluator: figures by hand, table, matrix and page."""

from __future__ import annotations

import pytest

from selfjudge.data.eval_prompts import EvalPrompt
from selfjudge.evaluation.evaluators import Scored, by_check, by_value
from selfjudge.evaluation.page import write_page
from selfjudge.evaluation.ranking import rank, sections
from selfjudge.judge import as_messages

pytest.importorskip("evalica", reason="evalica is not installed: pip install 'selfjudge[eval]'")

PROMPTS = [EvalPrompt(str(i), as_messages(f"Question {i}?")) for i in range(4)]
ANSWERS = {"short": ["a", "b", "c", "d"], "long": ["aaa", "bbb", "ccc", "d"], "mid_": ["aa", "bb", "cc", "dd"]}


def by_length(asked=None):
    def value(pairs, texts):
        if asked is not None:
            asked.extend(texts)
        return [float(len(text)) for text in texts]

    return by_value(value)


def test_systems_by_their_values():
    asked = []
    found = rank(PROMPTS, ANSWERS, by_length(asked))
    assert [(s.name, s.rank) for s in found.systems] == [("long", 1), ("mid_", 2), ("short", 3)]
    # On the last prompt long and short tie, and mid_ is above both.
    rates = [[r and r.rate for r in row] for row in found.rates]
    assert rates == [[None, 0.75, 0.875], [0.25, None, 1], [0.125, 0, None]]
    assert [s.value.value for s in found.systems] == [2.5, 2, 1]
    assert [s.texts.characters.value for s in found.systems] == [2.5, 2, 1]
    assert all(s.pass_rate is None for s in found.systems)
    assert (found.n, found.agreement) == (4, None)
    assert len(asked) == 11  # each answer once: of the last prompt two are the same


def test_the_shares_that_pass():
    found = rank(PROMPTS, ANSWERS, by_check(PROMPTS, lambda prompt, text: len(text) > 1))
    assert {s.name: s.pass_rate.rate for s in found.systems} == {"long": 0.75, "mid_": 1, "short": 0}
    assert all(s.value is None for s in found.systems)
    mid = found.systems[0]
    assert mid.name == "mid_"
    assert mid.pass_rate.low < 1


def test_both_orders_of_a_judge():
    # Three comparisons of four prompts each. By prompt: yes yes -, yes - no, - - -, no no no.
    agree = [True, True, None, False, True, None, None, False, None, False, None, False]

    def judge(pairs):
        return [Scored(0.5, a) for a in agree]

    found = rank(PROMPTS, ANSWERS, judge)
    assert found.agreement.rate == pytest.approx((1 + 1 / 2 + 0) / 3)  # the third prompt has none
    assert found.agreement.n == 3
    assert [s.rank for s in found.systems] == [1, 1, 1]


def test_the_tables_have_what_the_evaluator_gives():
    found = rank(PROMPTS, ANSWERS, by_length())
    head, first, *_ = found.table()
    assert head == ["System", "Rank", "Score", "Value", "Characters"]
    assert first[:2] == ["long", "1"]
    assert first[2].startswith("+")
    matrix = found.matrix()
    assert matrix[0] == ["beats", "long", "mid_", "short"]
    assert [row[0] for row in matrix[1:]] == ["long", "mid_", "short"]
    assert matrix[1][1] == ""
    assert matrix[2][3].startswith("100.0 % [")
    names = [("long beats mid_", 0.75), ("long beats short", 0.875), ("mid_ beats short", 1)]
    assert [(name, rate.rate) for name, rate in found.pairs()] == names


def test_the_page_has_the_matrix_and_all_answers(tmp_path):
    page = tmp_path / "r.html"
    found = rank(PROMPTS, ANSWERS, by_length())
    write_page(page, "Ranking", [], sections(found, PROMPTS, ANSWERS))
    html = page.read_text()
    assert "<td>mid_</td><td>25.0\u00a0%\n[" in html
    assert "<th>beats</th><th>long</th><th>mid_</th><th>short</th>" in html
    assert all(f"</span> {text}</pre>" in html for text in ("Question 1?", "b", "bbb", "bb"))
    assert 'name="viewport"' in html
