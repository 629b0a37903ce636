"""Preference files as TRL, Axolotl, LLaMA-Factory, ms-swift and OpenAI describe them."""

from typing import Any

import pytest

from selfjudge.data.formats import FORMATS, Pairing, Reject, Row, recognise
from selfjudge.records import PreferenceRecord

KIND = {"role": "system", "content": "Be kind."}
ASK = {"role": "user", "content": "Sky?"}
BLUE = {"role": "assistant", "content": "Blue."}
GREEN = {"role": "assistant", "content": "Green."}
TEXTS = {"chosen": "Blue.", "rejected": "Green."}
LISTS = {"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}
ONE = {"chosen": BLUE, "rejected": GREEN}
GPT = {"chosen": {"from": "gpt", "value": "Blue."}, "rejected": {"from": "gpt", "value": "Green."}}
HUMAN = [{"from": "human", "value": "Sky?"}]

SKY = [("user", "Sky?")]
SYSTEM = [("system", "Be kind."), *SKY]
EARLIER = [("system", "Be kind."), ("user", "Hi."), ("assistant", "Hello."), *SKY]

ROWS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "orca": ({"system": "Be kind.", "question": "Sky?", **TEXTS}, SYSTEM),
    "orca without a system message": ({"system": "", "question": "Sky?", **TEXTS}, SKY),
    "chatml.argilla": (
        {"system": "Be kind.", "instruction": "Sky?", "chosen_response": "Blue.", "rejected_response": "Green."},
        SYSTEM,
    ),
    "chatml.argilla_chat": (LISTS, SKY),
    "chatml.icr": ({"system": "Be kind.", "input": "Sky?", **TEXTS}, SYSTEM),
    "chatml.prompt_pairs": ({"system": "Be kind.", "prompt": "Sky?", **TEXTS}, SYSTEM),
    "chatml.ultra": ({"system": "Be kind.", "prompt": "Sky?", **LISTS}, SYSTEM),
    "chat_template.default": ({"messages": [KIND, ASK], **ONE}, SYSTEM),
    "LLaMA-Factory alpaca": ({"instruction": "Sky?", "input": "", **TEXTS}, SKY),
    "LLaMA-Factory alpaca, all columns": (
        {"instruction": "Say:", "input": "Sky?", "system": "Be kind.", "history": [["Hi.", "Hello."]], **TEXTS},
        [*EARLIER[:3], ("user", "Say:\nSky?")],
    ),
    "LLaMA-Factory alpaca, as before 2024": ({"instruction": "Sky?", "input": "", "output": ["Blue.", "Green."]}, SKY),
    "LLaMA-Factory sharegpt": ({"conversations": HUMAN, "system": "Be kind.", "tools": "[]", **GPT}, SYSTEM),
    "ms-swift": ({"messages": [KIND, ASK, BLUE], "rejected_response": "Green."}, SYSTEM),
    "ms-swift, messages": ({"messages": [KIND, ASK, BLUE], "rejected_messages": [KIND, ASK, GREEN]}, SYSTEM),
    "ms-swift, last message": ({"messages": [ASK, BLUE], "rejected_messages": [GREEN], "system": "Be kind."}, SYSTEM),
    "ms-swift, query": ({"query": "Sky?", "history": [["Hi.", "Hello."]], "system": "Be kind.", **TEXTS}, EARLIER),
    "OpenAI": (
        {
            "input": {"messages": [KIND, ASK], "tools": [], "parallel_tool_calls": None},
            "preferred_output": [BLUE],
            "non_preferred_output": [GREEN],
        },
        SYSTEM,
    ),
    "TRL, implicit": ({"chosen": "Sky? Blue.", "rejected": "Sky? Green."}, SKY),
    "TRL, explicit": ({"prompt": "Sky?", **TEXTS}, SKY),
    "TRL, conversational": ({"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}, SKY),
    "history in a cell of text": (
        {"prompt": "Sky?", "system_prompt": "Be kind.", "history": "[['Hi.', 'Hello.']]", **TEXTS},
        EARLIER,
    ),
    "history that the prompt repeats": (
        {
            "prompt": [KIND, {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}, ASK],
            "history": [["Hi.", "Hello."]],
            **TEXTS,
        },
        EARLIER,
    ),
    "prompt without the sides' system message": (
        {"prompt": [ASK], "chosen": [KIND, ASK, BLUE], "rejected": [KIND, ASK, GREEN]},
        SYSTEM,
    ),
    "sides without the prompt's system message": ({"prompt": [KIND, ASK], **LISTS}, SYSTEM),
    "an HH dialogue split in three": (
        {"prompt": "\n\nHuman: Sky?\n\nAssistant:", "chosen": " Blue.", "rejected": " Green."},
        SKY,
    ),
    "sides of two kinds": ({"prompt": "Sky?", "chosen": "Blue.", "rejected": [GREEN]}, SKY),
}


def parse(data: dict[str, Any]) -> tuple[PreferenceRecord, dict[str, Any]]:
    """The record, and what the account lists."""
    row = Row(data, 1, 0, "src")
    form = recognise([data])
    assert form is not None
    (record,) = form.parse(row, Pairing())
    assert isinstance(record, PreferenceRecord)
    return record, row.unused()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_each_kind(name: str) -> None:
    data, prompt = ROWS[name]
    record, unused = parse(data)
    assert [(message.role, message.content) for message in record.prompt] == prompt
    assert (record.chosen, record.rejected) == ("Blue.", "Green.")
    assert unused == {}


@pytest.mark.parametrize(
    ("data", "listed"),
    [
        ({"prompt": "Sky?", "question": "Sea?", **TEXTS}, {"question": "Sea?"}),
        ({"prompt": "Sky?", "question": "Sky?", **TEXTS}, {}),
        ({"prompt": "Sky?", "input": "Now.", **TEXTS}, {"input": "Now."}),
        ({"prompt": "Say: Sky?", **LISTS}, {"prompt": "Say: Sky?"}),  # the sides have a prompt of their own
        ({**LISTS, "messages": [ASK, BLUE]}, {}),
        ({"prompt": "Sky?", **LISTS, "messages": [ASK, BLUE]}, {}),
        ({"prompt": "Sky?", **TEXTS, "model": "m", "n": 0, "empty": [], "none": None}, {"model": "m", "n": 0}),
        ({"prompt": "Sky?", **TEXTS, "chosen_response": "Red."}, {"chosen_response": "Red."}),
        ({"prompt": "Sky?", **TEXTS, "source": {"a": 1}, "id": 1.5}, {"source": {"a": 1}, "id": 1.5}),
        ({"prompt": "Sky?", **TEXTS, "source": "s", "id": 7}, {}),
        ({"messages": [ASK, BLUE], "rejected_response": "Green.", "prompt": "Sea?"}, {"prompt": "Sea?"}),
    ],
)
def test_a_column_that_is_not_used_is_listed(data: dict[str, Any], listed: dict[str, Any]) -> None:
    record, unused = parse(data)
    assert [message.content for message in record.prompt] == ["Sky?"]
    assert unused == listed


def test_earlier_turns_before_sides_that_go_on() -> None:
    more = {"role": "user", "content": "Sure?"}
    record, unused = parse({"messages": [ASK, BLUE], "chosen": [more, BLUE], "rejected": [more, GREEN]})
    assert [message.content for message in record.prompt] == ["Sky?", "Blue.", "Sure?"]
    assert unused == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"prompt": "Sky?", "images": ["a.png"], **TEXTS}, "has images"),
        ({"prompt": "Sky?", "image": {"path": "a.png"}, **TEXTS}, "has images"),
        ({"prompt": "Sky?", "videos": ["a.mp4"], **TEXTS}, "has videos"),
        ({"prompt": "Sky?", "audios": ["a.wav"], **TEXTS}, "has audio"),
        ({"prompt": "Sky?", "tools": '[{"name": "look"}]', **TEXTS}, "has tools"),
        ({"input": {"messages": [ASK], "tools": [{}]}, "preferred_output": [BLUE], "non_preferred_output": [GREEN]},
         "has tools"),
        ({"chosen": "\n\nHuman: Sky?\n\nAssistant: Blue.", "rejected": "\n\nHuman: Sky?\n\nAssistant: Green.",
          "images": ["a"]}, "has images"),
        ({"prompt": [KIND, ASK], "system": "Be rude.", **TEXTS}, "two system messages that differ"),
        ({"prompt": "Sky?", "system": "Be kind.", "system_prompt": "Be rude.", **TEXTS},
         "two system messages that differ"),
        ({"prompt": [KIND, ASK], "chosen": [{**KIND, "content": "x"}, ASK, BLUE], "rejected": [GREEN]},
         "two system messages that differ"),
        ({"prompt": "Sky?", "system": [ASK], **TEXTS}, "system is not one system message"),
        ({"prompt": "Sky?", "history": [["Hi."]], **TEXTS}, "history is not a list of messages"),
        ({"prompt": "Sky?", "history": "Hi.", **TEXTS}, "history is text of a list that cannot be read"),
        ({"prompt": "Sky?", "history": [["Hi.", None]], **TEXTS}, "no history"),
        ({"chosen": "Sky? Blue.", "rejected": "Sky? Green.", "topic": "colour"}, "no prompt column"),
        ({"chosen": "Sky? Blue.", "rejected": "Sky? Green.", "system": "Be kind."}, "no prompt column"),
        ({"prompt": [ASK], "chosen": [BLUE, ASK, BLUE], "rejected": [GREEN, ASK, BLUE]},
         "sides differ before the last turn"),
        ({"messages": [ASK], "rejected_response": "Green."}, "a side does not end with an assistant turn"),
    ],
)  # fmt: skip
def test_a_row_that_is_dropped(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(Reject) as caught:
        parse(data)
    assert str(caught.value) == reason


def test_numbers_beside_two_texts_are_no_prompt() -> None:
    record, unused = parse({"chosen": "Sky? Blue.", "rejected": "Sky? Green.", "n": 3, "m": "4.5", "id": "a"})
    assert record.prompt[0].content == "Sky?"
    assert unused == {"n": 3, "m": "4.5"}


def test_more_columns_than_a_record_has() -> None:
    row = {"id": "a", "prompt": [ASK], **TEXTS, "principle": "honesty", "strength": 0.75}
    assert recognise([{**row, "topic": "colour"}]) is FORMATS["records"]
    record, unused = parse({**row, "topic": "colour", "system": "Be kind."})
    assert (record.principle, record.strength, unused) == ("honesty", 0.75, {"topic": "colour"})
    assert [message.content for message in record.prompt] == ["Be kind.", "Sky?"]
    with pytest.raises(Reject, match="has images"):
        parse({**row, "images": ["a"]})
    # The same columns in a file of another kind: its prompt is text.
    assert recognise([{**row, "prompt": "Sky?"}]) is FORMATS["preference"]


def test_an_empty_history_or_system_message_holds_nothing() -> None:
    record, unused = parse({"prompt": "Sky?", "history": [], "system": None, "tools": "", "images": [], **TEXTS})
    assert ([message.content for message in record.prompt], unused) == (["Sky?"], {})
