"""HH transcripts: only alternating paragraph markers open turns, and no text is lost."""

import pytest

from selfjudge.data.formats import FORMATS, Dropped, Pairing, Reject, Row, recognise
from selfjudge.data.formats.rendered import read_transcript
from selfjudge.records import Message, PreferenceRecord

ONE = "\n\nHuman: Hi there\n\nAssistant: Hello"


def turns(text: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in read_transcript(text)]


def parse(chosen: object, rejected: object) -> list[PreferenceRecord | Dropped]:
    return list(FORMATS["hh"].parse(Row({"chosen": chosen, "rejected": rejected}, 8, 7, "hh"), Pairing()))


def test_a_dialogue_of_several_turns() -> None:
    text = "\n\nHuman: a\n\nAssistant: b\nc\n\nd\n\nHuman: e\n\nAssistant: f "
    assert turns(text) == [("user", "a"), ("assistant", "b\nc\n\nd"), ("user", "e"), ("assistant", "f")]


@pytest.mark.parametrize(
    ("human", "kept"),
    [
        ("Who said\n\nHuman: be good", "Who said\n\nHuman: be good"),
        ("It reads Human: x Assistant: y", "It reads Human: x Assistant: y"),
        ("a line\nAssistant: not a paragraph", "a line\nAssistant: not a paragraph"),
    ],
)
def test_markers_that_open_no_turn_are_text(human: str, kept: str) -> None:
    assert turns(f"\n\nHuman: {human}\n\nAssistant: ok") == [("user", kept), ("assistant", "ok")]


def test_a_second_assistant_marker_in_an_assistant_turn_is_text() -> None:
    text = "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c\n\nHuman: d\n\nAssistant: e"
    assert turns(text)[1] == ("assistant", "b\n\nAssistant: c")
    assert len(turns(text)) == 4


def test_nothing_but_markers_and_outer_white_space_is_lost() -> None:
    text = "\n\nHuman: {a} Human: <b>\n\nHuman: c\n\nAssistant:d\n\n\nHuman: e\n\nAssistant: f"
    assert turns(text) == [
        ("user", "{a} Human: <b>\n\nHuman: c"),
        ("assistant", "d"),
        ("user", "e"),
        ("assistant", "f"),
    ]


def test_a_pair_shares_all_but_the_last_turn() -> None:
    lead = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    (record,) = parse(lead + " good", lead + " bad Human: x")
    assert isinstance(record, PreferenceRecord)
    assert [message.role for message in record.prompt] == ["user", "assistant", "user"]
    assert record.prompt[-1] == Message(role="user", content="c")
    assert (record.chosen, record.rejected, record.id) == ("good", "bad Human: x", "hh-7")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (ONE, "\n\nHuman: Other\n\nAssistant: Hello", "sides differ before the last turn"),
        (ONE, ONE + "\n\nHuman: more\n\nAssistant: x", "sides differ before the last turn"),
        (ONE, ONE + " ", "identical responses"),
        (ONE, "\n\nHuman: Hi there\n\nAssistant:", "empty rejected response"),
        (ONE, "\n\nHuman: Hi there", "a side does not end with an assistant turn"),
        (ONE, "Hi there\n\nAssistant: Hello", "transcript does not start with a Human turn"),
        ("\n\nHuman:\n\nAssistant: a", "\n\nHuman:\n\nAssistant: b", "empty prompt"),
        (ONE, None, "no rejected"),
        (ONE, 5, "rejected is not text"),
    ],
)
def test_pairs_that_are_dropped(chosen: object, rejected: object, reason: str) -> None:
    with pytest.raises(Reject) as caught:
        parse(chosen, rejected)
    assert str(caught.value) == reason


def test_recognised_by_its_markers() -> None:
    form = recognise([{"chosen": ONE, "rejected": ONE}])
    assert form is not None
    assert form.name == "hh"
    form = recognise([{"chosen": "Hi Human: x", "rejected": "Hi Human: y"}])
    assert form is not None
    assert form.name == "preference"
