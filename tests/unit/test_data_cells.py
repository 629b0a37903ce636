"""Whatever a cell holds comes out as the same messages, or the row is dropped under a reason that says why."""

import json
from typing import Any

import pytest

from selfjudge.data.formats import Reject, Row
from selfjudge.data.formats.cells import read_turns
from selfjudge.records import Role

ASK = {"role": "user", "content": "Sky?"}
BLUE = {"role": "assistant", "content": "Blue."}
TWO = [("user", "Sky?"), ("assistant", "Blue.")]


def read(value: Any, plain: Role = "assistant") -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The turns of a cell, and what the account lists."""
    row = Row({"cell": value}, 1, 0, "src")
    turns = [(message.role, message.content) for message in read_turns(row, row.get("cell"), "cell", plain)]
    return turns, row.unused()


def reason(value: Any, plain: Role = "assistant") -> str:
    with pytest.raises(Reject) as caught:
        read(value, plain)
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        [ASK, BLUE],
        [{"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue."}],
        [{"from": "user", "value": "Sky?"}, {"from": "ChatGPT", "value": "Blue."}],
        [{"role": "Human", "content": "Sky?"}, {"role": "model", "content": "Blue."}],
        {"messages": [ASK, BLUE]},
        {"messages": [ASK, BLUE], "tools": []},
        [{**ASK, "name": None, "weight": None}, {**BLUE, "tool_calls": [], "function_call": None}],
        [{"role": "user", "content": [{"type": "text", "text": "Sk"}, {"type": "text", "text": "y?"}]}, BLUE],
        [{"role": "user", "content": [{"type": "text", "text": "Sky?", "image_url": None}]}, BLUE],
        json.dumps([ASK, BLUE]),
        json.dumps({"messages": [ASK, BLUE]}, indent=2),
        repr([ASK, BLUE]),
        "\n\nHuman: Sky?\n\nAssistant: Blue.",
        "<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\nBlue.<|im_end|>\n",
        "<|im_start|>user\nSky?<|im_end|><|im_start|>assistant\nBlue.",
    ],
)
def test_a_dialogue_in_every_spelling(value: object) -> None:
    assert read(value) == (TWO, {})
    assert read(value, "user") == (TWO, {})


@pytest.mark.parametrize(
    ("text", "plain", "expected"),
    [
        ("Sky?", "user", [("user", "Sky?")]),
        (" Blue. ", "assistant", [("assistant", " Blue. ")]),
        ("Blue.<|im_end|>\n", "assistant", [("assistant", "Blue.")]),
        ("Human: Sky?\n\nAssistant:", "user", [("user", "Sky?")]),
        ("\n\nHuman: Sky?", "user", [("user", "Sky?")]),
        ("Human: Sky?", "user", [("user", "Human: Sky?")]),
        ("\n\nAssistant: Blue.", "assistant", [("assistant", "Blue.")]),
        ("<|im_start|>user\nSky?<|im_end|>\n<|im_start|>assistant\n", "user", [("user", "Sky?")]),
        ("<|im_start|>assistant\nBlue.<|im_end|>", "assistant", [("assistant", "Blue.")]),
        (
            "Blue.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>",
            "assistant",
            [("assistant", "Blue."), ("user", "Sure?"), ("assistant", "Yes.")],
        ),
        # What is said may look like structure, and is no dialogue.
        ('{"role": "admin", "rights": []}', "assistant", [("assistant", '{"role": "admin", "rights": []}')]),
        ('[{"role": "nurse", "content": "x"}]', "assistant", [("assistant", '[{"role": "nurse", "content": "x"}]')]),
        ('{"users": [{"role": "user", }', "assistant", [("assistant", '{"users": [{"role": "user", }')]),
        ("[1, 2]", "assistant", [("assistant", "[1, 2]")]),
        ("What does <|im_start|> mean?", "user", [("user", "What does <|im_start|> mean?")]),
        ("Use [INST] there.", "user", [("user", "Use [INST] there.")]),
        ("<s>old</s>", "assistant", [("assistant", "<s>old</s>")]),
    ],
)
def test_text(text: str, plain: Role, expected: list[tuple[str, str]]) -> None:
    assert read(text, plain) == (expected, {})


def test_one_message_and_developers() -> None:
    assert read(BLUE) == ([("assistant", "Blue.")], {})
    assert read({"from": "gpt", "value": "Blue."}) == ([("assistant", "Blue.")], {})
    assert read([{"role": "developer", "content": "Be kind."}, ASK])[0][0] == ("system", "Be kind.")


@pytest.mark.parametrize(
    ("value", "listed"),
    [
        ([ASK, {**BLUE, "reasoning_content": "Hm."}], {"cell[].reasoning_content": "Hm."}),
        ([ASK, {**BLUE, "thinking": "Hm.", "weight": 0}], {"cell[].thinking": "Hm.", "cell[].weight": 0}),
        ([{**ASK, "name": "ann"}, BLUE], {"cell[].name": "ann"}),
        ([ASK, {"role": "assistant", "content": "<think>\nHm.</think>\n\nBlue."}], {"cell: <think>": "\nHm."}),
        ([ASK, {"role": "assistant", "content": "<think>\n\n</think>\n\nBlue."}], {}),
        ([ASK, {**BLUE, "from": "gpt"}], {"cell[].from": "gpt"}),
        (
            [ASK, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, "Blue."]}],
            {"cell[].content[].thinking": "Hm."},
        ),
        (
            [ASK, {"role": "assistant", "content": [{"type": "text", "text": "Blue.", "cache": 1}]}],
            {"cell[].content[].cache": 1},
        ),
        ({"messages": [ASK, BLUE], "parallel_tool_calls": True}, {"cell.parallel_tool_calls": True}),
    ],
)
def test_what_is_left_out_is_listed(value: object, listed: dict[str, Any]) -> None:
    assert read(value) == (TWO, listed)


def test_a_thought_before_a_plain_answer() -> None:
    assert read("<think>Hm.</think>Blue.") == ([("assistant", "Blue.")], {"cell: <think>": "Hm."})
    assert read("<think>Hm.</think>Blue.", "user") == ([("user", "<think>Hm.</think>Blue.")], {})
    assert read("Say <think> and </think>.") == ([("assistant", "Say <think> and </think>.")], {})
    assert reason("<think>Hm.") == "cell has a thought without an end"
    assert reason("Hm.</think>Blue.") == "cell has a thought without a beginning"


CALL = [{"function": {"name": "look"}}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "no cell"),
        (7, "cell is not a list of messages"),
        ({"a": 1}, "cell is not a list of messages"),
        (["Sky?", "Blue."], "cell is not a list of messages"),
        ([ASK, {"role": "nurse", "content": "x"}], "cell has a message of an unknown role"),
        ([ASK, {"role": "assistant", "content": None}], "a message of cell is not text"),
        ([ASK, {**BLUE, "tool_calls": CALL}], "cell has tool calls"),
        ([ASK, {**BLUE, "function_call": {"name": "look"}}], "cell has tool calls"),
        ([ASK, {"role": "assistant", "content": None, "tool_calls": CALL}], "cell has tool calls"),
        ([{"from": "human", "value": "x"}, {"from": "observation", "value": "y"}], "cell has tool calls"),
        ([ASK, {"role": "tool", "content": "x"}, BLUE], "cell has tool calls"),
        (json.dumps([ASK, {"role": "tool", "content": "x"}]), "cell has tool calls"),
        ("<|im_start|>tool\nx<|im_end|>", "cell has tool calls"),
        ({"messages": [ASK], "tools": CALL}, "has tools"),
        ([{**ASK, "images": ["a.png"]}], "cell has images"),
        ([{**ASK, "content": [{"type": "image_url", "image_url": {"url": "a"}}]}], "cell has images"),
        ([{**ASK, "content": [{"type": "image"}]}], "cell has images"),
        ([{**ASK, "content": [{"type": "input_audio", "input_audio": {}}]}], "cell has audio"),
        ([{**ASK, "content": [{"type": "video", "video": "a"}]}], "cell has videos"),
        ([{**ASK, "content": [{"type": "tool_use", "name": "x"}]}], "cell has tool calls"),
        ([{**ASK, "content": [{"type": "sculpture", "text": "x"}]}], "cell has content of an unknown type"),
        ("\ud800", "cell is not valid Unicode"),
        ([{**ASK, "content": "\ud800"}], "a message of cell is not valid Unicode"),
        (json.dumps([{**ASK, "content": "\ud800"}]), "a message of cell is not valid Unicode"),
        # as pandas writes an array of NumPy into a CSV file
        ("[{'role': 'user', 'content': 'Sky?'}\n {'role': 'assistant', 'content': 'Blue.'}]", "unreadable"),
        ("array([{'role': 'user', 'content': 'Sky?'}], dtype=object)", "unreadable"),
        (json.dumps([ASK, BLUE])[:-9], "unreadable"),
    ],
)
def test_a_cell_that_drops_the_row(value: object, expected: str) -> None:
    expected = "cell is text of messages that cannot be read" if expected == "unreadable" else expected
    assert reason(value) == expected


@pytest.mark.parametrize(
    "text",
    [
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nSky?<|eot_id|>",
        "<s>[INST] Sky? [/INST]",
        "[INST] Sky? [/INST] Blue.</s>",
        "<bos><start_of_turn>user\nSky?<end_of_turn>\n<start_of_turn>model\n",
        "<|user|>\nSky?</s>\n<|assistant|>\n",
        "<|start|>user<|message|>Sky?<|end|>",
        "<｜begin▁of▁sentence｜><｜User｜>Sky?<｜Assistant｜>",
        "Blue.<|eot_id|>",
        "Blue.<end_of_turn>\n",
        "Blue.</s>",
    ],
)
def test_another_chat_template_is_named(text: str) -> None:
    assert reason(text, "user") == reason(text) == "cell is text of another chat template"


@pytest.mark.parametrize(
    "text",
    ["### Human: Sky?\n### Assistant:", "Human: Sky?\nAssistant:", "USER: Sky? ASSISTANT:", "Do.\n\n### Response:\n"],
)
def test_a_prompt_that_ends_with_the_mark_of_an_answer(text: str) -> None:
    assert reason(text, "user") == "cell is text of another chat template"
    assert read(text) == ([("assistant", text)], {})


def test_broken_chatml_is_named() -> None:
    for text in (
        "You are kind.<|im_start|>user<|im_sep|>Sky?<|im_end|>",
        "<|im_start|>user\nSky?\n<|im_start|>assistant\nBlue.<|im_end|>",
        "<|im_start|>user\nSky?<|im_end|>\nmore",
    ):
        assert reason(text) == "cell is ChatML that cannot be read"


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'user', 'content': " + "[" * 100_000,
        '[{"role": "user", "content": ' + "[" * 100_000,
        "[{'role': 'user', 'content': " + "-" * 200_000 + "1}]",
        "[{'role': 'user', 'content': " + "1+" * 200_000 + "1}]",
        "[{'role': 'user', 'content': " + "9" * 10_000 + "}]",
        "[{'role': 'user', 'content': 'x'}, " + "'x'," * 500_000,
        "[{'role': 'user', 'content': '\\d \x00'}]",
    ],
)
def test_hostile_text_drops_the_row_and_no_more(text: str) -> None:
    assert reason(text).startswith(("cell is text of messages", "a message of cell is not text"))


def test_long_runs_of_space_take_no_time() -> None:
    text = "x" + " " * 400_000 + "y"
    assert read(text)[0] == [("assistant", text)]
    assert read(text, "user")[0] == [("user", text)]


def test_an_empty_system_message_is_none() -> None:
    row = Row({}, 1, 0, "s")
    talk = [{"role": "system", "content": " "}, {"role": "user", "content": "Sky?"}]
    assert [turn.role for turn in read_turns(row, talk, "prompt", "user")] == ["user"]
    told = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Sky?"}]
    assert [turn.role for turn in read_turns(row, told, "prompt", "user")] == ["system", "user"]
