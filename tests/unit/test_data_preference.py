"""Every TRL preference format, binarised UltraFeedback, and canonical records."""

from typing import Any

import pytest

from selfjudge.data.formats import FORMATS, Pairing, Reject, Row, recognise
from selfjudge.data.formats.preference import split_common_prefix
from selfjudge.records import PreferenceRecord

SYSTEM = {"role": "system", "content": "Be kind."}
ASK = {"role": "user", "content": "Sky?"}
MORE = {"role": "user", "content": "Sure?"}
BLUE = {"role": "assistant", "content": "Blue."}
GREEN = {"role": "assistant", "content": "Green."}


def parse(data: dict[str, Any], name: str = "preference", **settings: Any) -> PreferenceRecord:
    (record,) = FORMATS[name].parse(Row(data, 1, 0, "src"), Pairing(**settings))
    assert isinstance(record, PreferenceRecord)
    return record


def shape(record: PreferenceRecord) -> tuple[list[tuple[str, str]], str, str]:
    return [(message.role, message.content) for message in record.prompt], record.chosen, record.rejected


SIMPLE = ([("user", "Sky?")], "Blue.", "Green.")
LONG = ([("system", "Be kind."), ("user", "Sky?"), ("assistant", "Blue."), ("user", "Sure?")], "Blue.", "Green.")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."}, SIMPLE),
        ({"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}, SIMPLE),
        ({"prompt": "Sky?", "chosen": [BLUE], "rejected": [GREEN]}, SIMPLE),
        ({"prompt": [ASK], "chosen": "Blue.", "rejected": "Green."}, SIMPLE),
        ({"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, SIMPLE),
        ({"chosen": "Sky? Blue.", "rejected": "Sky? Green."}, SIMPLE),
        ({"chosen": "\n\nHuman: Sky?\n\nAssistant: Blue.", "rejected": "\n\nHuman: Sky?\n\nAssistant: Green."}, SIMPLE),
        # binarised UltraFeedback: the sides repeat the prompt
        ({"prompt": "Sky?", "chosen": [ASK, BLUE], "rejected": [ASK, GREEN], "score_chosen": 9.0}, SIMPLE),
        ({"prompt": [ASK], "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, SIMPLE),
        ({"prompt": [SYSTEM, ASK, BLUE, MORE], "chosen": [BLUE], "rejected": [GREEN]}, LONG),
        ({"prompt": [SYSTEM, ASK], "chosen": [BLUE, MORE, BLUE], "rejected": [BLUE, MORE, GREEN]}, LONG),
        ({"chosen": [SYSTEM, ASK, BLUE, MORE, BLUE], "rejected": [SYSTEM, ASK, BLUE, MORE, GREEN]}, LONG),
    ],
)
def test_every_shape_gives_the_same_record(data: dict[str, Any], expected: object) -> None:
    assert FORMATS["preference"].fits(data)
    assert shape(parse(data)) == expected


def test_conversations_split_as_trl_splits_them() -> None:
    extract_prompt = pytest.importorskip("trl.data_utils").extract_prompt
    data = {"chosen": [SYSTEM, ASK, BLUE, MORE, BLUE], "rejected": [SYSTEM, ASK, BLUE, MORE, GREEN]}
    theirs = extract_prompt(data)
    prompt, chosen, rejected = shape(parse(data))
    assert [(message["role"], message["content"]) for message in theirs["prompt"]] == prompt
    assert (theirs["chosen"], theirs["rejected"]) == (
        [{"role": "assistant", "content": chosen}],
        [{"role": "assistant", "content": rejected}],
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is green.", ("The sky is", "blue.", "green.")),
        ("The sky is grey.", "The sky is green.", ("The sky is", "grey.", "green.")),  # not "The sky is gr"
        ("Q: a?\n\nA: b", "Q: a?\n\nC", ("Q: a?", "A: b", "C")),
        ("Say it now", "Say it now please", ("Say it", "now", "now please")),
    ],
)
def test_the_shared_prefix_is_cut_at_white_space(chosen: str, rejected: str, expected: tuple[str, str, str]) -> None:
    prompt, *responses = split_common_prefix(chosen, rejected)
    assert (prompt[0].content, *responses) == expected


SCORED = {"prompt": "Sky?", "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}


def test_scores_in_order_are_kept_and_half_missing_ones_ignored() -> None:
    assert shape(parse({**SCORED, "score_chosen": 8.5, "score_rejected": 3.0})) == SIMPLE
    assert shape(parse({**SCORED, "score_chosen": None, "score_rejected": 3.0})) == SIMPLE
    assert shape(parse({**SCORED, "score_chosen": float("nan"), "score_rejected": 3.0})) == SIMPLE
    assert shape(parse({**SCORED, "chosen-rating": 5, "rejected-rating": 4})) == SIMPLE


def test_equal_scores_follow_the_tie_rule() -> None:
    tie = {**SCORED, "score_chosen": 7.0, "score_rejected": 7.0}
    with pytest.raises(Reject, match=r"^equal scores$"):
        parse(tie)
    assert shape(parse(tie, tie_rule="longer")) == ([("user", "Sky?")], "Green.", "Blue.")
    even = {"prompt": "p", "chosen": "aa", "rejected": "bb", "score_chosen": 1, "score_rejected": 1}
    with pytest.raises(Reject, match=r"^equal scores and lengths$"):
        parse(even, tie_rule="longer")


@pytest.mark.parametrize("names", [("score_chosen", "score_rejected"), ("chosen-rating", "rejected-rating")])
@pytest.mark.parametrize("tie_rule", ["drop", "longer"])
def test_scores_against_the_label_drop_the_row(names: tuple[str, str], tie_rule: str) -> None:
    with pytest.raises(Reject, match="chosen scored below rejected"):
        parse({**SCORED, names[0]: 3.0, names[1]: 4}, tie_rule=tie_rule)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": [SYSTEM], "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": 7, "chosen": "a", "rejected": "b"}, "prompt is not a list of messages"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "empty rejected response"),
        ({"prompt": "p", "chosen": "a", "rejected": " a\n"}, "identical responses"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, "no rejected"),
        ({"prompt": "p", "chosen": "a", "rejected": 5}, "rejected is not a list of messages"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "b"}, "chosen is not valid Unicode"),
        ({"prompt": [ASK, BLUE], "chosen": "a", "rejected": "b"}, "prompt does not end with a user turn"),
        ({"prompt": [ASK, MORE], "chosen": "a", "rejected": "b"}, "turns do not alternate between user and assistant"),
        ({"prompt": [BLUE, ASK], "chosen": "a", "rejected": "b"}, "turns do not alternate between user and assistant"),
        ({"prompt": [ASK, SYSTEM, MORE], "chosen": "a", "rejected": "b"}, "system message after the first turn"),
        ({"prompt": [ASK, {**BLUE, "content": ""}, MORE], "chosen": "a", "rejected": "b"}, "empty turn in the prompt"),
        ({"prompt": [{"role": "tool", "content": "x"}], "chosen": "a", "rejected": "b"}, "prompt has tool calls"),
        ({"prompt": [{"role": "nurse", "content": "x"}], "chosen": "a", "rejected": "b"}, "unknown role"),
        (
            {"prompt": [{"role": "user", "content": [1]}], "chosen": "a", "rejected": "b"},
            "a message of prompt is not text",
        ),
        ({"chosen": [BLUE], "rejected": [GREEN]}, "no prompt column"),
        ({"chosen": [], "rejected": [GREEN]}, "a side does not end with an assistant turn"),
        (
            {"chosen": '{"messages": [{"role": "system", "content": ""}]}', "rejected": "Green."},
            "a side does not end with an assistant turn",
        ),
        ({"chosen": [ASK, BLUE], "rejected": [MORE, GREEN]}, "sides differ before the last turn"),
        ({"chosen": [ASK, BLUE], "rejected": [ASK]}, "a side does not end with an assistant turn"),
        ({"chosen": "Yes", "rejected": "No"}, "chosen and rejected share no prompt"),
        ({"chosen": "Same text", "rejected": "Same text"}, "identical responses"),
    ],
)
def test_rows_that_are_dropped(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(Reject) as caught:
        parse(data)
    assert str(caught.value).endswith(reason)


RECORD = PreferenceRecord.model_validate(
    {
        "id": "x:honesty",
        "prompt": [SYSTEM, ASK],
        "chosen": "Blue.",
        "rejected": "Green.",
        "principle": "honesty",
        "chosen_rationale": "true",
        "source": "s",
    }
)


def test_canonical_records_come_back_as_they_were() -> None:
    data = RECORD.model_dump(mode="json")
    form = recognise([data])
    assert form is FORMATS["records"]
    assert parse(data, "records") == RECORD


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": 5}, "not a valid record (rejected: "),
        ({"prompt": [BLUE]}, "not a valid record (prompt: "),
        ({"rejected": "Blue. "}, "identical responses"),
    ],
)
def test_canonical_records_are_checked(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Reject) as caught:
        parse({**RECORD.model_dump(mode="json"), **change}, "records")
    assert str(caught.value).startswith(reason)
