"""Exchanging people's names and genders, by examples written by hand."""

import pytest

from selfjudge.data.swaps import (
    GENDERED,
    NAMES,
    names_of_men,
    names_of_women,
    swap_genders,
    swap_names,
    swap_people,
    words_for_men,
    words_for_women,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("He left.", "She left."),
        ("HE left, and he's back", "SHE left, and she's back"),
        ("I saw him.", "I saw her."),
        ("I gave it to her and left", "I gave it to him and left"),
        ("his book is here", "her book is here"),
        ("Her **best** friend", "His **best** friend"),
        ('his "friend"', 'her "friend"'),
        ("her\nbook", "him\nbook"),  # a line ends a phrase
        ("the book is his.", "the book is hers."),
        ("That is his, not mine", "That is hers, not mine"),
        ("Call him again", "Call her again"),
        ("the husbands and their wives", "the wives and their husbands"),
        ("Mr John met the ladies", "Mrs Maria met the gentlemen"),
        ("Manchester, theme, heroes", "Manchester, theme, heroes"),
    ],
)
def test_pairs_of_texts_that_are_each_others_swap(one: str, other: str) -> None:
    assert swap_people(one) == other
    back = swap_people(other)
    assert back == one or "\n" in one  # "him book" is no English to come back from


def test_what_the_next_word_cannot_tell() -> None:
    assert swap_genders("told him stories") == "told her stories"
    assert swap_genders("told her stories") == "told his stories"


def test_names_are_written_with_a_capital_and_are_whole_words() -> None:
    assert swap_names("JOHN, Ada's friend, and Johnson") == "MARIA, Ben's friend, and Johnson"
    assert swap_names("the dan grade, a gus") == "the dan grade, a gus"


def test_every_word_and_name_has_one_partner() -> None:
    for pairs in (GENDERED, NAMES):
        words = [word.lower() for pair in pairs for word in pair]
        assert len(words) == len(set(words))
    for man, woman in NAMES:
        assert (swap_names(man), swap_names(woman)) == (woman, man)


def test_words_and_names_are_counted_by_whom_they_are_of() -> None:
    text = "Ada gave him her book, Ben. SHE said: the man is John's."
    assert (words_for_women(text), words_for_men(text)) == (2, 2)
    assert (names_of_women(text), names_of_men(text)) == (1, 2)
