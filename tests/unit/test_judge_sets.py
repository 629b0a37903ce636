"""Test sets of judges: what is read from each format, the subsets, and two judges on the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_judging import pair, verdict

from selfjudge.data.judge_sets import JudgePair, load_judge_set
from selfjudge.errors import DataError
from selfjudge.evaluation.judge_sets import Judged, evaluate_judge, sections

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_judge_files_keep_labels_and_subsets(tmp_path):
    row = {"prompt": "Name a fox.", "response_a": "fox", "response_b": "owl", "label": "tie"}
    path = write(tmp_path / "own.jsonl", [row, row | {"set": "s", "subset": "u"}, row | {"set": "s", "subset": ""}])
    found = load_judge_set(path)
    assert [p.subset for p in found] == ["own", "s / u", "s"]
    assert {p.comparison.label for p in found} == {"tie"}


def test_rewardbench_files_show_the_chosen_side_first_about_half_the_time(tmp_path):
    rows = [
        {"id": i, "prompt": f"What is {i}?", "chosen": f"right {i}", "rejected": f"wrong {i}", "subset": "math"}
        for i in range(200)
    ]
    found = load_judge_set(write(tmp_path / "bench.jsonl", rows))
    assert [p.comparison.id for p in found] == [str(i) for i in range(200)]  # the order of the file
    for p in found:
        c = p.comparison
        assert (c.response_a if c.label == "A" else c.response_b).startswith("right")
    assert 70 < sum(p.comparison.label == "A" for p in found) < 130
    assert {p.subset for p in found} == {"math"}


def test_judgebench_files_as_published(tmp_path):
    row = {"pair_id": "x1", "source": "mmlu-pro-law", "question": "Which?", "response_A": "one", "response_B": "two"}
    found = load_judge_set(write(tmp_path / "jb.jsonl", [row | {"label": "A>B"}, row | {"label": "B>A"}]))
    assert [(p.comparison.id, p.comparison.label, p.subset) for p in found] == [
        ("x1", "A", "mmlu-pro-law"),
        ("x1", "B", "mmlu-pro-law"),
    ]
    assert (found[0].comparison.response_a, found[0].comparison.response_b) == ("one", "two")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "there is no row"),
        ([{"question": "q", "response_A": "a", "response_B": "b", "label": "A?B"}], "line 1: label"),
        ([{"prompt": "q", "chosen": "a", "rejected": "a"}], "line 1: identical"),
        ([{"words": "q"}], "no known preference format"),
    ],
)
def test_bad_files_are_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        load_judge_set(write(tmp_path / "bad.jsonl", rows))


@pytest.mark.parametrize("name", ["judge_llmbar_dev.jsonl", "judge_judgebench_dev.jsonl", "judge_autoj_dev.jsonl.gz"])
def test_public_test_sets(name):
    if not (SHARED / name).is_file():
        pytest.skip("the public data is not here")
    found = load_judge_set(SHARED / name)
    assert len(found) > 300
    assert all(p.comparison.label for p in found)
    assert len({p.subset for p in found}) > 1


A, B = ((0.9, 0.1), (0.1, 0.9)), ((0.1, 0.9), (0.9, 0.1))


def judged(against: bool) -> Judged:
    pairs = [
        JudgePair(pair("long one", "short", "A"), "x"),
        JudgePair(pair("long one", "short", "B"), "x"),
        JudgePair(pair("long one", "short", "tie"), "y"),
    ]
    first = [verdict(*A), verdict(*B), verdict(*A)]
    second = [verdict(*A), verdict(*A), verdict(*A)]  # always the longer
    return Judged(pairs, first, second if against else None)


def test_subsets_and_the_second_judge_by_hand():
    found = evaluate_judge(judged(against=True), left_out=4)
    assert (found.overall.accuracy.rate, found.second.accuracy.rate, found.left_out) == (1, 0.5, 4)
    assert {name: (s.pairs, s.labelled) for name, s in found.subsets.items()} == {"x": (2, 2), "y": (1, 0)}
    assert (found.paired.first_better, found.paired.second_better) == (1, 0)
    assert (found.paired.difference.value, found.paired.difference.n) == (0.5, 2)  # the tie is no row of it


def test_the_page_shows_both_judges_and_the_errors():
    data = judged(against=True)
    shown = {section.title: section for section in sections(data, evaluate_judge(data))}
    assert set(shown) == {"All pairs", "Both judges on the same pairs", "By subset"}
    assert shown["All pairs"].table[0] == ("", "judge", "against")
    assert len(shown["All pairs"].charts) == 2
    swapped = Judged(data.pairs, data.against)
    errors = {s.title: s for s in sections(swapped, evaluate_judge(swapped))}["Where it is surest and wrong"].examples
    assert [example[-1] for example in errors] == [("B", "short")]
