"""What labels go with, counted by hand."""

import pytest

from selfjudge.data.label_bias import BiasCounter, first_position, markdown, refuses
from selfjudge.records import Message, PreferenceRecord


def record(chosen: str, rejected: str) -> PreferenceRecord:
    prompt = (Message(role="user", content="Tell Ada what he said."),)
    return PreferenceRecord(id="x", prompt=prompt, chosen=chosen, rejected=rejected)


RECORDS = [
    record("# A title\n- one\n- two", "A title: one, two"),  # longer, more Markdown
    record("I'm sorry, but I can't say.", "He said that his dog barked at John."),  # shorter, refuses, no word for men
    record("She and Ada agree.", "Ada and she agree!"),  # equal in all but the words' order
    record("She and her mother", "She"),
]


def test_each_feature_is_counted_over_the_pairs_that_differ() -> None:
    counter = BiasCounter()
    for each in RECORDS:
        counter.add(each)
    found = counter.rates()
    assert {name: (rate.rate, rate.n) for name, rate in found.items() if rate.n} == {
        "longer": (2 / 3, 3), "more Markdown": (1, 1), "refuses": (1, 1), "more words for women": (1, 1),
        "more words for men": (0, 1), "more names of men": (0, 1),
    }  # fmt: skip
    assert found["more names of women"].n == 0


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("plain text - with a dash, 2 * 3, #1 and a_b", 0),
        ("## Title\n1. one\n 2) two\n> quote", 4),
        ("**bold** `code` [link](http://x)", 3),
        ("```\ncode\n```\n| a | b |", 3),
    ],
)
def test_markdown_marks(text: str, marks: int) -> None:
    assert markdown(text) == marks


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("I'm sorry, but no.", 1),
        ("I’m not able to help with that.", 1),
        ("I cannot do that.", 1),
        ("As an AI, I have no feelings.", 1),
        ("I must decline.", 1),
        ("The word sorry is sad; can't is short.", 0),
        ("Here is a story. " * 20 + "I cannot go on.", 0),
    ],
)
def test_refusals(text: str, is_one: int) -> None:
    assert refuses(text) == is_one


def test_the_position_of_the_better_one() -> None:
    rate = first_position({"label": label} for label in ("A", "A", "B", "tie", None))
    assert (rate.rate, rate.n) == (2 / 3, 3)
