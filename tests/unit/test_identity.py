"""Texts that read the same are the same; rows are told apart by their place."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from selfjudge.data.formats import Pairing, Reject, Row, find_format
from selfjudge.data.identity import (
    KEY_BYTES,
    first_of_each,
    folded,
    pair_key,
    prompt_key,
    text_key,
    written_key,
)
from selfjudge.data.rows import build_judgment_rows, build_policy_rows, examples
from selfjudge.data.sources import split_by_prompt
from selfjudge.engines.load import load_tokenizer
from selfjudge.records import Message, PreferenceRecord
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates

COMPOSED = "Wie heißt der Käse?"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def record(prompt: str = "Name a cheese.", **values: Any) -> PreferenceRecord:
    defaults = {"id": "r1", "chosen": "Gouda.", "rejected": "Granite."}
    return PreferenceRecord(prompt=(Message(role="user", content=prompt),), **(defaults | values))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a\r\nb\rc\nd", "a b c d"),
        ("  two \t words\u00a0here\u2003now\n\n", "two words here now"),
        (DECOMPOSED, COMPOSED),
        ("", ""),
        ("Same case, same marks!", "Same case, same marks!"),
    ],
)
def test_folding(written: str, read: str) -> None:
    assert folded(written) == read
    assert text_key(written) == text_key(read)
    assert len(text_key(written)) == KEY_BYTES


def test_texts_that_differ_have_keys_of_their_own() -> None:
    texts = ["a b", "ab", "a", "A b", "a b.", "b a", "", "ﬁne", "fine"]  # NFC keeps a ligature as it is
    assert len({text_key(text) for text in texts}) == len(texts)


def test_a_prompt_is_its_roles_and_texts() -> None:
    def key(*turns: tuple[Any, str]) -> bytes:
        return prompt_key([Message(role=role, content=text) for role, text in turns])

    assert key(("user", "Hi  there\r\n")) == key(("user", "Hi there"))
    others = [
        key(("user", "Hi there")),
        key(("system", "Hi there"), ("user", "Hi there")),
        key(("user", "Hi"), ("user", "there")),
        key(("user", "Hi"), ("assistant", "there")),
    ]
    assert len(set(others)) == len(others)


def test_a_pair_is_all_of_its_texts_and_its_principle() -> None:
    same = record("Name  a cheese.", id="other", chosen="Gouda.\n")
    assert pair_key(record()) == pair_key(same)
    assert written_key(record()) != written_key(same)
    assert written_key(record()) == written_key(record(id="other"))
    swapped = record(chosen="Granite.", rejected="Gouda.")
    for key in (pair_key, written_key):
        assert len({key(r) for r in (record(), swapped, record(principle="honesty"), record("Name one."))}) == 4


def test_the_first_of_each_stays_as_it_is_written() -> None:
    assert [*first_of_each(["b ", "a", "b", "a\n", "c"], text_key)] == ["b ", "a", "c"]


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("Yes.\r\nNo.", "Yes.\nNo. "), (DECOMPOSED, COMPOSED), ("a  b", "a b")]
)
def test_responses_that_read_the_same_are_identical(chosen: str, rejected: str) -> None:
    data = {"prompt": "Which?", "chosen": chosen, "rejected": rejected}
    with pytest.raises(Reject, match=r"^identical responses$"):
        list(find_format([data], "f").parse(Row(data, 1, 0, "f"), Pairing()))


@pytest.mark.parametrize(
    "other", [DECOMPOSED, COMPOSED.replace(" ", "  "), COMPOSED.replace(" ", "\r\n"), COMPOSED + " "]
)
def test_a_prompt_is_held_out_however_it_is_spelled(other: str) -> None:
    for seed in range(20):
        train, held = split_by_prompt([record(COMPOSED), record(other)], 0.5, seed)
        assert {len(train), len(held)} == {0, 2}


def test_two_pairs_of_one_id_stay_two_examples() -> None:
    chat = load_tokenizer("builtin:world")
    encoder = JudgmentEncoder(load_templates("general"), chat)
    records = [record(), record("Name two.", chosen="Brie, feta.", rejected="Sand.")]
    built = build_judgment_rows(records, encoder, 999).rows
    assert [[row.name for row in group] for group in examples(built)] == [["r1:overall:AB", "r1:overall:BA"]] * 2
    # One order of each alone: they are of different pairs, and stay apart.
    assert [len(group) for group in examples([built[0], built[3]])] == [1, 1]
    assert len(build_policy_rows(records, chat, 999).rows) == 2


def test_a_policy_row_comes_once_however_it_is_spelled() -> None:
    chat = load_tokenizer("builtin:world")
    built = build_policy_rows([record(), record("Name a  cheese. ", id="r2", chosen="Gouda.\n")], chat, 999)
    assert [row.name for row in built.rows] == ["r1"]
