"""Files as people have them, which lie beside some checkouts: each is read, or each row is dropped for a reason."""

from pathlib import Path

import pytest

from selfjudge.data.sources import Loaded, load_preferences
from selfjudge.errors import DataError

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")

BASIL = ["user: How do I keep basil alive indoors?"]
EGG = ["user: How do I boil an egg?"]
READ = {
    "01/orca.jsonl": (6, ["system: You are a pirate. Answer like one.", *EGG]),
    "01/alpaca_pref.jsonl": (6, ["user: Answer the question.\nHow do I boil an egg?"]),
    "02/system_col.jsonl": (6, ["system: Answer only in French.", *EGG]),
    "02/history_col.jsonl": (
        6,
        ["user: Hi, I am cooking dinner for six.", "assistant: Nice, what do you need?", *EGG],
    ),
    "03/hh_split.jsonl": (6, ["user: Hello, can you help?", "assistant: Of course, what is it?", *EGG]),
    "03/chatml_prompt.jsonl": (6, EGG),
    "04/conv.csv": (6, EGG),
    "04/json_text.jsonl": (6, EGG),
    "10/developer.jsonl": (3, ["system: Be brief.", *BASIL]),
    **dict.fromkeys(
        (
            "10/dict_sides.jsonl", "10/lf_alpaca_old.jsonl", "10/lf_sharegpt.jsonl",
            "10/messages_chosen_rejected.jsonl", "10/openai_pref.jsonl", "10/parts.jsonl",
            "10/rejected_response.jsonl", "10/sharegpt_lists.jsonl", "10/think.jsonl",
        ),
        (3, BASIL),
    ),
}  # fmt: skip
DROPPED = {
    "02/images_col.jsonl": "6 x has images",
    "02/tools_col.jsonl": "6 x chosen has tool calls",
    "02/tool_same_text.jsonl": "6 x chosen has tool calls",
    "10/multi_turn_both.jsonl": "3 x sides differ before the last turn",
}
ANSWERS = {
    6: ("To boil an egg, put it in boiling water for eight minutes and cool it.", "To boil an egg, microwave it in "),
    3: ("Put it by a bright window.", "Keep it in the dark."),
}


def load(name: str) -> Loaded:
    if not (CASES / name).is_file():
        pytest.skip(f"no {name} beside this checkout")
    return load_preferences(CASES / name)


@pytest.mark.parametrize("name", READ)
def test_a_case_is_read(name: str) -> None:
    rows, prompt = READ[name]
    loaded = load(name)
    assert (loaded.rows, len(loaded.records), loaded.dropped) == (rows, rows, ())
    record = loaded.records[0]
    assert [f"{message.role}: {message.content}" for message in record.prompt] == prompt
    assert record.chosen == ANSWERS[rows][0]
    assert record.rejected.startswith(ANSWERS[rows][1])
    thoughts = ["chosen[].reasoning_content", "rejected[].reasoning_content"]
    assert [item.name for item in loaded.unused] == (thoughts if name == "10/think.jsonl" else [])


@pytest.mark.parametrize("name", DROPPED)
def test_a_case_is_dropped_under_its_reason(name: str) -> None:
    with pytest.raises(DataError) as caught:
        load(name)
    assert f"({DROPPED[name]})" in str(caught.value)
