"""Two answers and a label: every form that published sets have, as training pairs and as pairs to judge."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_data_raw import write

from selfjudge.data.formats import FORMATS, Pairing, Reject, Row, recognise
from selfjudge.data.formats.strength import from_scale
from selfjudge.data.formats.two_answers import SIDES
from selfjudge.data.judge_sets import load_judge_set
from selfjudge.data.prompts import load_comparisons, load_prompts
from selfjudge.data.sources import Loaded, load_preferences
from selfjudge.errors import DataError
from selfjudge.records import Message, PreferenceRecord

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
ASK = {"role": "user", "content": "Sky?"}


def said(text: str, *before: dict[str, str]) -> list[dict[str, str]]:
    return [*before, ASK, {"role": "assistant", "content": text}]


def parse(data: dict[str, Any], **settings: Any) -> PreferenceRecord:
    form = recognise([data])
    assert form is not None
    (record,) = form.parse(Row(data, 1, 0, "src"), Pairing(**settings))
    assert isinstance(record, PreferenceRecord)
    return record


def loaded(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> Loaded:
    return load_preferences(write(tmp_path / "a.jsonl", list(rows)), **settings)


ARENA = {"conversation_a": said("Blue."), "conversation_b": said("Green!")}
KAGGLE = {"prompt": '["Sky?"]', "response_a": '["Blue."]', "response_b": '["Green!"]'}
HELPSTEER3 = {"context": [ASK], "response1": "Blue.", "response2": "Green!"}
HELPSTEER2 = {"prompt": "Sky?", "response_1": "Blue.", "response_2": "Green!"}
SAFE = {"prompt": "Sky?", "response_0": "Blue.", "response_1": "Green!"}
FARM = {"instruction": "Sky?", "input": "", "output_1": "Blue.", "output_2": "Green!"}
PANDA = {"instruction": "Sky?", "input": "", "response1": "Blue.", "response2": "Green!"}
BENCH = {"question": "Sky?", "response_A": "Blue.", "response_B": "Green!"}
OWN = {"prompt": "Sky?", "response_a": "Blue.", "response_b": "Green!"}
SHP = {"history": "Sky?", "human_ref_A": "Blue.", "human_ref_B": "Green!"}
WEBGPT = {"question": {"full_text": "Sky?"}, "answer_0": "Blue.", "answer_1": "Green!"}


def won(a: object, b: object, tie: object) -> dict[str, object]:
    return {"winner_model_a": a, "winner_model_b": b, "winner_tie": tie}


def marks(*values: object) -> dict[str, object]:
    return {f"annotator{i}": value for i, value in enumerate(values, start=1)}


# The format, a row whose first answer is better, one whose second is, and a tie; with the strengths of the first two.
KINDS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]], tuple[float | None, float | None]]] = {
    "arena": ("arena", ARENA, [{"winner": w} for w in ("model_a", "model_b", "tie (bothbad)")], (None, None)),
    "arena in texts": ("arena", OWN, [{"winner": w} for w in ("model_a", "model_b", "tie")], (None, None)),
    "kaggle": ("arena", KAGGLE, [won(1, 0, 0), won("0", "1", "0"), won(False, False, True)], (None, None)),
    "helpsteer 3": ("helpsteer", HELPSTEER3, [{"overall_preference": p} for p in (-3, "1", 0)], (1, 2 / 3)),
    "helpsteer 2": ("helpsteer", HELPSTEER2, [{"preference_strength": p} for p in (-2, 2, 0)], (5 / 6, 5 / 6)),
    "single votes": (
        "helpsteer",
        HELPSTEER3,
        [{"individual_preference": [{"score": s} for s in votes]} for votes in ([-1, -3, 2], [1, 1], [1, -1])],
        (2 / 3, 1),
    ),
    "safe rlhf": ("safe_rlhf", SAFE, [{"better_response_id": 0}, {"better_response_id": "1"}], (None, None)),
    "alpaca farm": ("alpaca_farm", FARM, [{"preference": p} for p in (1, "2", 0)], (None, None)),
    "alpaca eval": ("alpaca_farm", FARM, [{"preference": p} for p in (1.25, 1.875, 1.5)], (0.75, 0.875)),
    "alpaca farm in words": ("alpaca_farm", FARM, [{"preference": p} for p in ("a", "B", "tie")], (None, None)),
    "pandalm": ("pandalm", PANDA, [marks(1, 1, 2), marks("2", "2", "0"), marks(1, 2, 0)], (2 / 3, 5 / 6)),
    "shp": (
        "shp",
        SHP,
        [{"labels": 1, "score_A": 6, "score_B": 2}, {"labels": "0", "score_A": "1", "score_B": "9"}],
        (3 / 4, 9 / 10),
    ),
    "shp without votes": ("shp", SHP, [{"labels": 1}, {"labels": 0, "score_A": 0, "score_B": 9}], (None, None)),
    "webgpt": (
        "two_scores",
        WEBGPT,
        [{"score_0": a, "score_1": b} for a, b in ((0.5, -0.5), (-1, 0), (0.0, 0.0))],
        (1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1))),
    ),
    "two scores": (
        "two_scores",
        OWN,
        [{"score_a": a, "score_b": b} for a, b in (("7.5", "5.5"), (1, "4"), (0, 0))],
        (1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-3))),
    ),
    "two ratings": (
        "two_scores",
        HELPSTEER2,
        [{"rating1": a, "rating2": b} for a, b in ((2, 1), (1, 2), (3, 3))],
        (1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1))),
    ),
    "judgebench": ("judge", BENCH, [{"label": x} for x in ("A>B", "B>A", "A=B")], (None, None)),
}


@pytest.mark.parametrize("name", KINDS)
def test_both_outcomes_and_a_tie(tmp_path: Path, name: str) -> None:
    form, base, labels, strengths = KINDS[name]
    found = loaded(tmp_path, *({**base, **label} for label in labels))
    assert (found.format, found.unused) == (form, ())
    assert [(r.chosen, r.rejected) for r in found.records] == [("Blue.", "Green!"), ("Green!", "Blue.")]
    assert {r.prompt for r in found.records} == {(Message(role="user", content="Sky?"),)}
    assert [r.strength for r in found.records] == pytest.approx(strengths)
    assert found.reasons() == ({"label is tie": 1} if len(labels) > 2 else {})
    longer = load_preferences(tmp_path / "a.jsonl", tie_rule="longer", format=form)
    assert [(r.chosen, r.strength) for r in longer.records[2:]] == [("Green!", 0.5)] * (len(labels) - 2)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_read_as_pairs_can_be_judged(tmp_path: Path, name: str) -> None:
    _, base, labels, _ = KINDS[name]
    path = write(tmp_path / "a.jsonl", [*({**base, **label} for label in labels), base])
    found = load_comparisons(path)
    assert [pair.label for pair in found] == [*["A", "B", "tie"][: len(labels)], None]
    assert {(pair.response_a, pair.response_b) for pair in found} == {("Blue.", "Green!")}
    assert [pair.comparison for pair in load_judge_set(path)] == list(found)


@pytest.mark.parametrize("sides", SIDES)
def test_words_label_every_pair_of_columns(tmp_path: Path, sides: tuple[str, str]) -> None:
    base = {"prompt": "Sky?", sides[0]: "Blue.", sides[1]: "Green!"}
    found = loaded(tmp_path, {**base, "label": "A"}, {**base, "label": "B"}, {**base, "label": "tie"})
    assert (found.format, [r.chosen for r in found.records]) == ("judge", ["Blue.", "Green!"])


A_WORDS = ("A", "a", " A ", "model_a", "Model A", "response_a", "answer_a", "assistant_a", "A>B", "A >> B", "[[A]]")
B_WORDS = ("B", "b", " B ", "model_b", "Model B", "response_b", "answer_b", "assistant_b", "B>A", "B >> A", "[[B]]")
TIES = ("tie", "Tie", "A=B", "both bad", "both_bad", "bothbad", "tie (bothbad)", "tie (both bad)")


@pytest.mark.parametrize("column", ["label", "winner", "preference", "preferred"])
def test_the_words_of_labels(column: str) -> None:
    assert {parse({**OWN, column: word}).chosen for word in A_WORDS} == {"Blue."}
    assert {parse({**OWN, column: word}).chosen for word in B_WORDS} == {"Green!"}
    for word in TIES:
        with pytest.raises(Reject, match=r"^label is tie$"):
            parse({**OWN, column: word})
    for word in ("C", "1", 1, 0, True, "model_c", ["A"], ""):
        with pytest.raises(Reject, match=f"^{column} is not A, B or tie$"):
            parse({**OWN, column: word})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({**HELPSTEER3, "overall_preference": 4}, "overall_preference is not a number from -3 to 3"),
        ({**HELPSTEER2, "preference_strength": "much"}, "preference_strength is not a number from -3 to 3"),
        ({**HELPSTEER3, "individual_preference": [{"score": None}]}, "has a score that is not a number from -3 to 3"),
        ({**SAFE, "better_response_id": 2}, "better_response_id is not 0 or 1"),
        ({**SAFE, "better_response_id": True}, "better_response_id is not 0 or 1"),
        ({**FARM, "preference": 3}, "preference is not a number from 1 to 2"),
        ({**FARM, "preference": "x"}, "preference is not A, B or tie"),
        ({**PANDA, **marks(1, 3)}, "annotator2 is not 0, 1 or 2"),
        ({**SHP, "labels": 2}, "labels is not 0 or 1"),
        ({**SHP, "labels": 1, "score_A": 1, "score_B": 3}, "labels and scores disagree"),
        ({**OWN, "score_a": "4,5", "score_b": 3}, "score_a and score_b are not two numbers such as 7 or 7.5"),
        ({**KAGGLE, **won(1, 1, 0)}, "are not one 1 and two 0"),
        ({**KAGGLE, **won(1, None, 0)}, "are not one 1 and two 0"),
        ({**KAGGLE, **won(1, 0, 0), "response_b": '["x", "y"]'}, "differ in number of turns"),
        ({**KAGGLE, **won(1, 0, 0), "response_b": "[null]"}, "a turn of response_b is not text"),
        (
            {**ARENA, "conversation_b": [{**ASK, "content": "Sea?"}, ARENA["conversation_b"][1]], "winner": "tie"},
            "sides",
        ),
        ({**OWN, "response_b": 7, "label": "A"}, "response_b is not text"),
        ({**OWN, "prompt": " ", "label": "A"}, "empty prompt"),
        ({**OWN, "response_b": " ", "label": "A"}, "empty rejected response"),
        ({"response_a": "a", "response_b": "b", "label": "A"}, "no prompt"),
    ],
)
def test_rows_that_are_dropped_and_refused_by_the_judge(tmp_path: Path, data: dict[str, Any], reason: str) -> None:
    with pytest.raises(Reject, match=reason):
        parse(data)
    if "empty rejected" not in reason:  # a judge may be asked about an empty answer
        with pytest.raises(DataError, match=f"line 1: .*{reason}"):
            load_comparisons(write(tmp_path / "a.jsonl", [data]))


def test_equal_lengths_leave_a_tie_without_an_order() -> None:
    with pytest.raises(Reject, match="label is tie, lengths are equal"):
        parse({**OWN, "response_b": "Green", "label": "tie"}, tie_rule="longer")


def test_more_than_two_numbered_answers_are_no_pair() -> None:
    assert recognise([{**SAFE, "response_2": "Red.", "better_response_id": 0}]) is None
    assert recognise([{**HELPSTEER2, "response_3": "Red.", "label": "A"}]) is None


def test_conversations_of_several_turns(tmp_path: Path) -> None:
    first = said("Blue.")
    row = {"conversation_a": said("Yes.", *first), "conversation_b": said("No.", *first), "winner": "model_b"}
    found = loaded(tmp_path, row, {**row, "conversation_b": said("No.", *said("Green!"))})
    assert [m.content for m in found.records[0].prompt] == ["Sky?", "Blue.", "Sky?"]
    assert (found.records[0].chosen, found.reasons()) == ("No.", {"sides differ before the last turn": 1})
    turns = {
        "prompt": ["Sky?", "Sure?"],
        "response_a": ["Blue.", "Yes."],
        "response_b": ["Blue.", "No."],
        **won(0, 1, 0),
    }
    apart = {**turns, "response_b": ["Red.", "No."]}
    lists = loaded(tmp_path, {k: json.dumps(v) if isinstance(v, list) else v for k, v in turns.items()}, turns, apart)
    assert [[m.content for m in r.prompt] for r in lists.records] == [["Sky?", "Blue.", "Sure?"]] * 2
    assert [r.chosen for r in lists.records] == ["No."] * 2
    assert lists.reasons() == {"sides differ before the last turn": 1}


def test_a_turn_says_how_much_of_a_conversation_was_compared(tmp_path: Path) -> None:
    row = {
        "conversation_a": said("x", *said("Blue.")),
        "conversation_b": said("y", *said("Green!")),
        "winner": "model_b",
    }
    found = loaded(tmp_path, {**row, "turn": 1}, {**row, "turn": 2}, {**row, "turn": "1st"})
    assert [(len(r.prompt), r.chosen) for r in found.records] == [(1, "Green!")]
    assert (found.reasons(), found.unused) == ({"sides differ before the last turn": 2}, ())


def test_nvidias_marks_between_turns_are_turns() -> None:
    prompt = "Sky?\n<extra_id_1>Assistant\nBlue.\n<extra_id_1>User\nSure?"
    record = parse({**HELPSTEER2, "prompt": prompt, "preference_strength": 1})
    assert [(m.role, m.content) for m in record.prompt] == [("user", "Sky?"), ("assistant", "Blue."), ("user", "Sure?")]
    with pytest.raises(Reject, match="unknown mark <extra_id_1>Tool"):
        parse({**HELPSTEER2, "prompt": "Sky?\n<extra_id_1>Tool\nx", "preference_strength": 1})


def test_columns_that_say_more_are_listed(tmp_path: Path) -> None:
    extra = {"is_response_0_safe": True, "safer_response_id": 1}
    found = loaded(tmp_path, {**SAFE, "better_response_id": 0, **extra})
    assert {item.name for item in found.unused} == set(extra)
    both = loaded(tmp_path, {**HELPSTEER3, "overall_preference": -1, "individual_preference": [{"score": -3}]})
    assert both.records[0].strength == pytest.approx(2 / 3)
    assert {item.name for item in both.unused} == {"individual_preference"}


def test_scores_are_not_read_beside_a_label_or_the_scores_of_other_answers(tmp_path: Path) -> None:
    labelled = loaded(tmp_path, {**OWN, "label": "B", "score_a": 2, "score_b": 1})
    assert (labelled.format, labelled.records[0].chosen) == ("judge", "Green!")
    assert {item.name for item in labelled.unused} == {"score_a", "score_b"}
    assert recognise([{**OWN, "chosen": "x", "rejected": "y", "score_a": 2, "score_b": 1}]) is FORMATS["preference"]
    one = loaded(tmp_path, {**OWN, "score_a": 2, "score_b": None, "winner": "A"}, {**OWN, "score_a": 2, "label": "B"})
    assert one.format != "two_scores"


def test_of_webgpts_question_what_is_not_read_is_listed(tmp_path: Path) -> None:
    question = {"full_text": "Sky?", "dataset": "eli5", "id": "q1"}
    found = loaded(tmp_path, {**WEBGPT, "question": question, "score_0": 1, "score_1": 0, "quotes_0": {"title": ["x"]}})
    assert found.records[0].prompt == (Message(role="user", content="Sky?"),)
    assert {item.name for item in found.unused} == {"question.dataset", "question.id", "quotes_0"}
    prompts = load_prompts(tmp_path / "a.jsonl")
    assert [m.content for row in prompts.prompts for m in row.prompt] == ["Sky?"]


def test_a_format_by_its_name_reads_its_own_label(tmp_path: Path) -> None:
    row = {**HELPSTEER3, "overall_preference": -1, "label": "B"}
    assert loaded(tmp_path, row).format == "helpsteer"
    assert loaded(tmp_path, row, format="judge").records[0].chosen == "Green!"
    with pytest.raises(DataError, match="format `arena` needs the column `conversation_a`, `conversation_b`, `winner`"):
        loaded(tmp_path, row, format="arena")
    with pytest.raises(DataError, match="1 x no label"):
        loaded(tmp_path, {**row, "annotator1": None}, format="pandalm")


def test_two_sides_without_a_label_are_not_taken_for_a_pair_beside_chosen_and_rejected() -> None:
    data = {**OWN, "chosen": "x", "rejected": "y"}
    assert recognise([data]) is FORMATS["preference"]
    assert recognise([{**data, "label": "A"}]) is FORMATS["judge"]


def test_prompts_of_conversations_and_of_rated_answers(tmp_path: Path) -> None:
    sea = [{"role": "user", "content": "Sea?"}, {"role": "assistant", "content": "Blue."}]
    other = {"conversation_a": sea, "conversation_b": [sea[0], {**sea[1], "content": "Red."}], "winner": "tie"}
    arena = load_prompts(write(tmp_path / "a.jsonl", [{**ARENA, "winner": "model_a"}, other, other]))
    assert (arena.format, len(arena.prompts), len(arena.dropped)) == ("arena", 2, 0)  # a tie has a prompt too
    rated = {"prompt": "Sky?", "candidates": ["x", "y"], "scores": [1, 1]}
    prompts = load_prompts(write(tmp_path / "b.jsonl", [rated]))
    assert (prompts.format, prompts.prompts[0].candidates) == ("prompts", ("x", "y"))


def test_two_rows_of_one_id_stay_two(tmp_path: Path) -> None:
    rows = [{**OWN, "id": "q", "label": "A"}, {**OWN, "id": "q", "prompt": "Sea?", "label": "B"}]
    path = write(tmp_path / "a.jsonl", rows)
    for pairs in (load_comparisons(path), load_preferences(path).records, [p.comparison for p in load_judge_set(path)]):
        assert [(pair.id, pair.prompt[0].content) for pair in pairs] == [("q", "Sky?"), ("q", "Sea?")]


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "form"),
    [("arena", "arena"), ("helpsteer", "helpsteer"), ("judge_labels", "judge"), ("safe_rlhf", "safe_rlhf")],
)
def test_the_shared_cases(name: str, form: str) -> None:
    path = CASES / "10" / f"{name}.jsonl"
    found = load_preferences(path)
    assert (found.format, len(found.records), found.dropped, found.unused) == (form, found.rows, (), ())
    assert {record.strength for record in found.records} == {from_scale(-2, 3) if form == "helpsteer" else None}
    assert found.records[0].chosen == "Put it by a bright window."
    assert len(load_comparisons(path)) == len(load_judge_set(path)) == found.rows


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
def test_the_shared_case_of_two_rows_with_one_id() -> None:
    path = CASES / "15" / "dupjudge.jsonl"
    assert len(load_judge_set(path)) == len(load_comparisons(path)) == len(load_preferences(path).records) == 2
