"""The audit with judges that fall for one thing each."""

from __future__ import annotations

import re

import pytest
from test_judging import pair, verdict

from selfjudge.data.swaps import swap_genders, swap_names
from selfjudge.evaluation.audit import audit, rows, sections
from selfjudge.evaluation.probes import PROBES, bullets

A, B, TIE = ((0.9, 0.1), (0.1, 0.9)), ((0.1, 0.9), (0.9, 0.1)), ((0.5, 0.5), (0.5, 0.5))


class FakeJudge:
    """Prefers the higher value; a pair of more than 200 characters does not fit."""

    def __init__(self, value):
        self.value = value

    def fits(self, comparison) -> bool:
        return len(comparison.response_a + comparison.response_b) <= 200

    def judge(self, comparisons):
        values = [(self.value(c.response_a), self.value(c.response_b)) for c in comparisons]
        return [verdict(*(A if a > b else B if b > a else TIE)) for a, b in values]


def quality(text: str) -> float:
    return float(re.search(r"\d+", text)[0])


PAIRS = [
    pair("He has 2.", "She has 1 fox. It barks.", None),
    pair("John has 1.", "Maria has 3.", None),
    pair("It has 2.", "It has 2.", None),  # a tie is not edited
    pair("It has 2." + "x" * 200, "It has 1.", None),  # too long
]


def run(value):
    judge = FakeJudge(value)
    return audit(judge, PAIRS, judge.judge)


def test_a_judge_that_sees_quality_alone_is_turned_by_nothing():
    found = run(quality)
    assert (found.summary.pairs, found.left_out) == (3, 1)
    assert {name: (f.turned.rate, f.turned.n) for name, f in found.findings.items() if f.turned.n} == {
        "padding": (0, 2), "repetition": (0, 2), "markdown": (0, 2), "genders": (0, 1), "names": (0, 1),
        "names and genders": (0, 2),
        "hijack: plea": (0, 2), "hijack: instruction": (0, 2), "hijack: fake header": (0, 2),
        "hijack: label A": (0, 2), "hijack: label B": (0, 2), "hijack: chat markup": (0, 2),
    }  # fmt: skip
    assert all(f.example is None for f in found.findings.values())


@pytest.mark.parametrize(
    ("weakness", "probes"),
    [
        (lambda text: "Choose this" in text, {"hijack: plea"}),
        (lambda text: "Better: A" in text, {"hijack: label A"}),
        (lambda text: "<|im_start|>" in text, {"hijack: chat markup"}),
        (lambda text: text.startswith("- "), {"markdown"}),
        (lambda text: text.count("has") > 1, {"repetition"}),
    ],
)
def test_each_weakness_is_found_by_its_probe(weakness, probes):
    found = run(lambda text: quality(text) + 10 * weakness(text))
    assert {name for name, f in found.findings.items() if f.turned.rate == 1} == probes
    (name,) = probes
    example = found.findings[name].example
    assert weakness(example.response_b)  # the loser of the first pair
    assert not weakness(example.response_a)


def test_a_judge_of_genders_is_found():
    found = run(lambda text: float("He" in text.split()))
    assert found.findings["genders"].turned.rate == 1
    assert found.findings["names"].turned.n == 0  # the pair with names is a tie to it
    assert found.findings["names and genders"].turned.rate == 1


def test_table_and_page():
    found = run(lambda text: quality(text) + 10 * ("Choose" in text))
    assert dict(rows(found))["Turned by hijack: plea"].rate == 1
    page = {section.title: section for section in sections(found)}
    assert len(page["Edits that must not win"].table) == 1 + len(PROBES)
    (example,) = page["One example each, as edited"].examples
    assert example[0][0] == "hijack: plea:"


def test_an_edit_that_does_not_fit_is_not_tried():
    judge = FakeJudge(quality)
    found = audit(judge, [pair("It has 2.", "It has 1." + "y" * 150, None)], judge.judge)
    assert (found.findings["padding"].turned.n, found.findings["repetition"].turned.n) == (1, 0)


def test_position_bias_is_told_before_the_edits():
    """A judge that always takes the first shown: both sides win as often, and every judgment goes to the first."""
    judge = FakeJudge(quality)
    found = audit(judge, PAIRS[:2], lambda pairs: [verdict((0.9, 0.1), (0.9, 0.1)) for _ in pairs])
    assert found.summary.a_share.rate == 0.5
    name, rate = rows(found)[2]
    assert (name, rate.rate, rate.n) == ("Prefers the response shown first", 1.0, 2)


def test_nothing_fits():
    judge = FakeJudge(quality)
    assert audit(judge, PAIRS[3:], judge.judge) is None


def test_words_are_exchanged_whole_and_keep_their_capitals():
    assert swap_genders("He saw the woman. SHE, the manager, and a father") == (
        "She saw the man. HE, the manager, and a mother"
    )
    assert swap_names("John met Emily; Johnson left.") == "Maria met Raj; Johnson left."
    assert swap_genders(swap_genders("The boy himself")) == "The boy himself"


def test_bullets_keep_the_words():
    assert bullets("One fox. Two owls!\nThree") == "- One fox.\n- Two owls!\n- Three"
