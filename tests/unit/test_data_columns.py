"""Columns are named by the user, used, or listed; what would be lost without a word is an error or a reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfjudge.data.columns import Unused, parse_columns
from selfjudge.data.formats import Dropped, Pairing, Reject, Row, recognise
from selfjudge.data.formats.messages import holds
from selfjudge.data.sources import Loaded, load_preferences
from selfjudge.errors import DataError

ROW = {"question": "Sky?", "better_answer": "Blue.", "other": "Green.", "topic": "colour"}
NAMES = {"prompt": "question", "chosen": "better_answer", "rejected": "other"}


def load(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Loaded:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_preferences(path, **options)


def texts(loaded: Loaded) -> tuple[str, str, str]:
    (record,) = loaded.records
    return record.prompt[-1].content, record.chosen, record.rejected


def refusal(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(tmp_path, *rows, **options)
    return str(caught.value).removeprefix(f"{tmp_path}/own.jsonl: ")


def test_columns_under_names_of_the_file(tmp_path: Path) -> None:
    loaded = load(tmp_path, ROW, columns=NAMES)
    assert texts(loaded) == ("Sky?", "Blue.", "Green.")
    assert loaded.unused == (Unused("topic", 1, "colour"),)


def test_a_column_in_whose_place_another_is_read_is_listed(tmp_path: Path) -> None:
    row = {"prompt": "Say it.", "question": "Sky?", "chosen": "Blue.", "rejected": "Green."}
    loaded = load(tmp_path, row, columns={"prompt": "question"})
    assert texts(loaded) == ("Sky?", "Blue.", "Green.")
    assert loaded.unused == (Unused("prompt (the file's own)", 1, "Say it."),)
    assert load(tmp_path, row).unused == (Unused("question", 1, "Sky?"),)


def test_columns_change_places(tmp_path: Path) -> None:
    row = {"prompt": "Sky?", "chosen": "Green.", "rejected": "Blue."}
    loaded = load(tmp_path, row, columns={"chosen": "rejected", "rejected": "chosen"})
    assert (texts(loaded), loaded.unused) == (("Sky?", "Blue.", "Green."), ())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promt": "question"}, "columns: no format reads `promt`; choose a name such as prompt"),
        ({"zzz": "question"}, "columns: no format reads `zzz`; choose a name such as prompt, chosen, rejected, "),
        ({"prompt": "ask"}, "columns: the first rows have no `ask` to be `prompt`; choose from better_answer, other, "),
        ({"prompt": "topic", "chosen": "topic"}, "columns: `topic` is to be both `prompt` and `chosen`; name two"),
    ],
)
def test_names_that_cannot_be_meant(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    assert refusal(tmp_path, ROW, columns=columns).startswith(message)


def test_columns_on_the_command_line() -> None:
    assert parse_columns("prompt=question, chosen=a=b") == {"prompt": "question", "chosen": "a=b"}
    for text in ("prompt", "prompt=", "=question", "prompt=a,"):
        with pytest.raises(DataError, match="does not say which column holds what; write prompt=NAME"):
            parse_columns(text)
    with pytest.raises(DataError, match="a column for `prompt` twice"):
        parse_columns("prompt=a,prompt=b")


def test_the_refusal_of_unknown_columns_shows_how_to_name_them(tmp_path: Path) -> None:
    message = refusal(tmp_path, ROW)
    option = "prompt=question,chosen=better_answer,rejected=other"
    assert f"`--columns {option}`" in message
    assert "`columns: {prompt: question, chosen: better_answer, rejected: other}` in a recipe's source" in message
    loaded = load(tmp_path, ROW, columns=parse_columns(option))
    assert texts(loaded) == ("Sky?", "Blue.", "Green.")


@pytest.mark.parametrize(
    ("row", "option"),
    [
        ({"ask": "Sky?", "winning": "Blue.", "losing": "Green."}, "prompt=ask,chosen=winning,rejected=losing"),
        ({"the task": "Sky?", "good": "Blue.", "b": "Green."}, "'prompt=the task,chosen=good,rejected=b'"),
        ({"n": "3", "x": "Sky?", "accepted": "a", "y": "b"}, "prompt=PROMPT,chosen=accepted,rejected=WORSE"),
        # Nothing tells which of the two is better, and nothing is suggested.
        ({"prompt": "Sky?", "answer_1": "Blue.", "answer_2": "Green."}, "chosen=BETTER,rejected=WORSE"),
    ],
)
def test_the_suggested_names(tmp_path: Path, row: dict[str, Any], option: str) -> None:
    assert f"`--columns {option}`" in refusal(tmp_path, row)


def test_a_prompt_is_never_guessed_beside_other_text(tmp_path: Path) -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert texts(load(tmp_path, row)) == ("The sky is", "blue.", "green.")
    message = refusal(tmp_path, {**row, "problem": "Sky?"})
    assert message.startswith("no column here is known to hold the prompt, and it is cut out of the responses only")
    assert "`--columns prompt=problem`" in message
    assert texts(load(tmp_path, {**row, "problem": "Sky?"}, columns={"prompt": "problem"}))[0] == "Sky?"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Sky?", "completion": "Blue.", "label": True},
        {"messages": [{"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Blue."}], "label": False},
        {"instruction": "Sky?", "input": "", "output": "Blue.", "kto_tag": True},
    ],
)
def test_files_with_one_answer_a_row_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    assert refusal(tmp_path, row) == (
        "each row has one answer (data for KTO or SFT); give two answers to a prompt, the better and the worse."
    )


def test_rows_and_examples_are_counted_over_the_file(tmp_path: Path) -> None:
    pair = {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."}
    rows = [{**pair, "a": 1}, {**pair, "b": "x\n" * 60, "a": None}, {**pair, "b": "y", "chosen": ""}, {**pair, "b": 2}]
    loaded = load(tmp_path, *rows)
    assert loaded.unused == (Unused("b", 2, ("x " * 60)[:59] + "…"), Unused("a", 1, "1"))


def _mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda n: other if n == 0 else usual)


_word = st.sampled_from(["Sky?", "Sea?", "Blue.", "Green.", "Hi.", "", " "])
_fields: dict[str, st.SearchStrategy[Any]] = {
    "name": _word,
    "weight": st.integers(0, 1),
    "reasoning_content": _word,
    "from": _word,
    "images": _mostly(st.just([]), st.just(["a.png"])),
    "tool_calls": _mostly(st.just(None), st.just([{"id": "1"}])),
}
_extra = st.fixed_dictionaries({}, optional=_fields)
_part = st.fixed_dictionaries({"type": st.just("text"), "text": _word}, optional={"cache": st.integers(0, 1)})
_role = st.sampled_from(["user", "assistant", "system", "developer", "tool", "nurse"])


def _message(role: st.SearchStrategy[str], text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    content = st.one_of(text, text, st.tuples(_part, text).map(list))
    return st.builds(lambda role, content, extra: {"role": role, "content": content, **extra}, role, content, _extra)


_ask = _message(st.just("user"), _mostly(st.just("Sky?"), _word))
_odd = st.one_of(_word, st.lists(_message(_role, _word), max_size=3), st.none(), st.integers(0, 2))


def _side(text: str) -> st.SearchStrategy[Any]:
    said = _mostly(st.just(text), st.sampled_from([f"<think>Hm.</think>{text}", f"{text}<|im_end|>", ""]))
    answer = _message(st.just("assistant"), said)
    dialogue = st.one_of(answer.map(lambda one: [one]), st.tuples(_ask, answer).map(list))
    return _mostly(st.one_of(said, answer, dialogue, dialogue.map(json.dumps), dialogue.map(repr)), _odd)


_prompt = _mostly(st.one_of(_word, _word, _ask.map(lambda one: [one]), _ask.map(lambda one: json.dumps([one]))), _odd)
_optional: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("prompt", "question", "instruction", "input", "messages", "system", "system_prompt"), _prompt),
    **dict.fromkeys(("topic", "source", "chosen_response"), _word),
    "system": _word,
    "system_prompt": _mostly(st.just(""), _word),
    "history": _mostly(st.just([["Hi.", "Hello."]]), st.lists(st.lists(_word, max_size=2), max_size=1)),
    "tools": _mostly(st.just([]), st.just(["a"])),
    "n": st.integers(0, 2),
}
_rows = st.fixed_dictionaries({"chosen": _side("Blue."), "rejected": _side("Green.")}, optional=_optional)


def outcome(data: dict[str, Any]) -> tuple[object, set[str]]:
    """The records of a row, or why there are none, and the names that the account lists."""
    row = Row(data, 1, 0, "src")
    form = recognise([data])
    if form is None:
        return "not recognised", set()
    try:
        records = list(form.parse(row, Pairing()))
    except Reject as error:
        return str(error), set()
    assert not any(isinstance(item, Dropped) for item in records)
    return records, set(row.unused())


def changed(value: Any, path: str) -> list[tuple[str, Any]]:
    """A value with one part of it replaced by text that stands nowhere else, once for every part that holds anything.

    Each comes with its name in the account.
    """
    if isinstance(value, dict):
        found = [(f"{path}.{key}", {**value, key: "Other?"}) for key, part in value.items() if holds(part)]
        return [(name, new) for name, new in found if not name.endswith((".role", ".type"))]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [
            (name, [*value[:i], new, *value[i + 1 :]])
            for i, item in enumerate(value)
            for name, new in changed(item, f"{path}[]")
        ]
    return [(path, "Other?")]


@given(_rows)
def test_all_that_a_row_holds_is_used_or_listed_or_drops_it(data: dict[str, Any]) -> None:
    records, listed = outcome(data)
    if not isinstance(records, list):
        return
    for column, value in data.items():
        copies = [other for name, other in data.items() if name != column and other == value]
        if not holds(value) or column in listed or copies:
            continue
        for name, new in changed(value, column):
            other, then_listed = outcome({**data, column: new})
            # A prompt that the sides repeat is a copy, and listed where it is not.
            assert name in listed or other != records or column in then_listed, f"{name} is neither used nor listed"
