"""UltraFeedback: ratings to pairs, by the mean and by each principle, with both tie rules."""

import math
from typing import Any

import pytest

from selfjudge.data.formats import FORMATS, Dropped, Pairing, Reject, Row, recognise
from selfjudge.data.formats.ultrafeedback import PRINCIPLES, read_annotation
from selfjudge.errors import DataError
from selfjudge.records import PreferenceRecord


def completion(text: str, helpful: object, honest: object, follow: object, truth: object) -> dict[str, Any]:
    """A completion as the Hub has it, with rationales that name the text and the principle."""
    return {
        "model": "m",
        "response": text,
        "annotations": {
            "helpfulness": {
                "Type": ["1"],
                "Rationale": "type",
                "Rating": helpful,
                "Rationale For Rating": f"{text} helpfulness",
            },
            "honesty": {"Rating": honest, "Rationale": f"{text} honesty"},
            "instruction_following": {"Rating": follow, "Rationale": f"{text} instruction_following"},
            "truthfulness": {
                "Type": "None",
                "Rationale": "type",
                "Rating": truth,
                "Rationale For Rating": f"{text} truthfulness",
            },
        },
        "overall_score": 1.0,
        "critique": "c",
    }


def row(*completions: object, **columns: object) -> Row:
    data = {"source": "flan", "instruction": "Do it", "models": [], "completions": list(completions), **columns}
    return Row(data, 1, 0, "uf")


def parse(raw: Row, **settings: Any) -> list[PreferenceRecord | Dropped]:
    return list(FORMATS["ultrafeedback"].parse(raw, Pairing(**settings)))


def records(raw: Row, **settings: Any) -> list[PreferenceRecord]:
    return [item for item in parse(raw, **settings) if isinstance(item, PreferenceRecord)]


def test_the_best_mean_is_chosen_over_the_principles_that_have_a_rating() -> None:
    # means: 4 over two ratings, 3.75 over four
    raw = row(completion("w", "4", "4", "4", "3"), completion("best", "4", "N/A", "4", "N/A"))
    (record,) = records(raw)
    assert (record.chosen, record.rejected, record.principle) == ("best", "w", "overall")
    assert (record.source, record.id, record.prompt[0].content) == ("flan", "uf-0", "Do it")
    assert (record.chosen_rationale, record.rejected_rationale) == (None, None)


def test_the_rejected_answer_is_any_strictly_worse_one_and_the_draw_is_fixed() -> None:
    raw = row(*(completion(name, r, r, r, r) for name, r in (("a", "5"), ("b", "3"), ("c", "2"), ("d", "1"))))
    drawn = [records(raw, seed=seed)[0] for seed in range(60)]
    assert {record.chosen for record in drawn} == {"a"}
    assert {record.rejected for record in drawn} == {"b", "c", "d"}
    assert drawn == [records(raw, seed=seed)[0] for seed in range(60)]


def test_the_draw_depends_on_the_row_not_on_the_name_of_the_file() -> None:
    answers = [completion(name, r, r, r, r) for name, r in (("a", "5"), ("b", "3"), ("c", "2"), ("d", "1"))]
    data = row(*answers).data

    def rejected(index: int, source: str) -> str:
        return records(Row(data, 1, index, source))[0].rejected

    assert len({rejected(index, "x") for index in range(30)}) == 3
    assert [rejected(index, "x") for index in range(30)] == [rejected(index, "y") for index in range(30)]


def test_a_tie_for_best_goes_by_the_draw_not_by_length() -> None:
    raw = row(
        completion("short", "4", "4", "4", "4"), completion("long " * 9, "4", "4", "4", "4"), completion("w", *"1111")
    )
    drawn = [records(raw, seed=seed)[0] for seed in range(60)]
    assert {record.chosen for record in drawn} == {"short", "long " * 9}
    assert {record.rejected for record in drawn} == {"w"}


def test_longer_reproduces_the_published_order() -> None:
    raw = row(completion("short", *"4444"), completion("the longer one", *"4444"), completion("no", *"4444"))
    drawn = [records(raw, seed=seed, tie_rule="longer")[0] for seed in range(60)]
    assert {record.chosen for record in drawn} == {"the longer one"}
    assert {record.rejected for record in drawn} == {"short", "no"}


def test_equal_ratings_are_dropped_and_counted() -> None:
    equal = row(completion("a", *"3333"), completion("bb", *"3333"))
    assert parse(equal) == [Dropped("uf-0", 1, "all ratings are equal")]
    assert records(equal, tie_rule="longer")[0].chosen == "bb"
    same_length = row(completion("aa", *"3333"), completion("bb", *"3333"))
    assert parse(same_length, tie_rule="longer") == [Dropped("uf-0", 1, "all ratings and lengths are equal")]


def test_per_principle_pairs_follow_their_own_ratings_and_bring_rationales() -> None:
    raw = row(completion("a", "5", "1", "3", "N/A"), completion("b", "2", "4", "3", "4"))
    items = parse(raw, pairs="per_principle")
    found = {item.principle: item for item in items if isinstance(item, PreferenceRecord)}
    assert list(found) == ["overall", "helpfulness", "honesty"]
    assert found["overall"].chosen == "b"  # 13/4 against 9/3
    assert (found["helpfulness"].chosen, found["helpfulness"].rejected) == ("a", "b")
    assert found["helpfulness"].chosen_rationale == "a helpfulness"
    assert found["helpfulness"].rejected_rationale == "b helpfulness"
    assert (found["honesty"].chosen, found["honesty"].chosen_rationale) == ("b", "b honesty")
    assert found["honesty"].id == "uf-0:honesty"
    assert [item for item in items if isinstance(item, Dropped)] == [
        Dropped("uf-0:instruction_following", 1, "instruction_following: all ratings are equal"),
        Dropped("uf-0:truthfulness", 1, "truthfulness: fewer than two rated responses"),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Rating": "4", "Rationale": "why"}, (4.0, "why")),
        ({"Rating": 4, "Rationale": "type", "Rationale For Rating": "why"}, (4.0, "why")),
        ([{"Rating": "4", "Rationale": "first"}, {"Rating": "5", "Rationale": "second"}], (4.5, "first")),
        ([{"Rating": "N/A", "Rationale": "none"}, {"Rating": "2", "Rationale": "x"}], (2.0, "none")),
        ({"Rating": "N/A", "Rationale": "why"}, (None, "why")),
        ({"Rating": None, "Rationale": None}, (None, None)),
        ({"Rating": "nan", "Rationale": ""}, (None, None)),
        ([], (None, None)),
        (None, (None, None)),
        ("odd", (None, None)),
    ],
)
def test_annotations_of_every_shape(value: object, expected: tuple[float | None, str | None]) -> None:
    assert read_annotation(value) == expected


def test_unusable_completions_are_left_out_and_named() -> None:
    raw = row(completion("a", *"5555"), completion("  ", *"1111"), "odd", completion("b", *"2222"), {"response": "c"})
    items = parse(raw)
    assert [item.id for item in items if isinstance(item, Dropped)] == ["uf-0:completion-1", "uf-0:completion-2"]
    (record,) = (item for item in items if isinstance(item, PreferenceRecord))
    assert (record.chosen, record.rejected) == ("a", "b")


def test_the_same_text_is_never_paired_with_itself() -> None:
    raw = row(completion("same", *"5555"), completion("same ", *"1111"))
    assert parse(raw) == [Dropped("uf-0", 1, "identical responses")]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"instruction": " "}, "empty prompt"),
        ({"instruction": 5}, "instruction is not a list of messages"),
        ({"completions": None}, "no completions"),
        ({"completions": "x"}, "completions is not a list"),
    ],
)
def test_rows_that_are_dropped(columns: dict[str, object], reason: str) -> None:
    with pytest.raises(Reject) as caught:
        parse(row(**columns))
    assert str(caught.value) == reason


def test_recognised_by_its_structure_and_settings_are_checked() -> None:
    form = recognise([row(completion("a", *"5555")).data])
    assert form is FORMATS["ultrafeedback"]
    assert PRINCIPLES == ("helpfulness", "honesty", "instruction_following", "truthfulness")
    with pytest.raises(DataError, match="choose one of drop, longer"):
        Pairing(tie_rule="shorter")  # type: ignore[arg-type]


def test_strength_comes_from_the_ratings_that_were_compared() -> None:
    given = row(completion("good", "5", "4", "5", "5"), completion("bad", "1", "3", "1", "2"), models=["m"])
    found = list(FORMATS["ultrafeedback"].parse(given, Pairing(pairs="per_principle")))
    strengths = {r.principle: r.strength for r in found if isinstance(r, PreferenceRecord)}
    assert strengths == pytest.approx(
        {
            "overall": 1 / (1 + math.exp(-3)),
            "helpfulness": 1 / (1 + math.exp(-4)),
            "honesty": 1 / (1 + math.exp(-1)),
            "instruction_following": 1 / (1 + math.exp(-4)),
            "truthfulness": 1 / (1 + math.exp(-3)),
        }
    )
    assert {"models", "completions[].critique"} <= set(given.unused())
    assert not {"instruction", "completions", "completions[].response"} & set(given.unused())
