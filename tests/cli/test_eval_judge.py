"""`selfjudge eval judge` on a tiny model."""

from __future__ import annotations

import json

import pytest
from test_bad_input import PAIR, refused

from conftest import read
from selfjudge.world.people import preference_records


@pytest.fixture(scope="module")
def rows():
    """RewardBench-style rows of the small world in two subsets."""
    return [
        {"prompt": r.prompt[0].content, "chosen": r.chosen, "rejected": r.rejected, "subset": f"s{i % 2}"}
        for i, r in enumerate(preference_records(20, seed=8))
    ]


def command(run, model, *sources, **options):
    inputs = [word for source in sources for word in ("--input", source)]
    extra = [word for name, value in options.items() for word in (f"--{name}", value)]
    return run("eval", "judge", "--model", model, *inputs, *extra)


def test_figures_and_page(run, runs, rows, write, tmp_path):
    figures, page = tmp_path / "f.json", tmp_path / "r.html"
    long = PAIR | {"response_a": "fox " * 300, "label": "A"}
    source, more = write("bench.jsonl", rows), write("own.jsonl", [PAIR | {"label": "tie"}, long])
    result = command(run, runs / "jsft", source, more, json=figures, report=page)
    assert result.code == 0, result.err
    found = json.loads(figures.read_text())
    assert (found["overall"]["pairs"], found["overall"]["labelled"], found["left_out"]) == (21, 20, 1)
    assert set(found["subsets"]) == {"s0", "s1", "own"}
    for name in ("accuracy", "longer_wins", "shorter_right", "agreement", "first_shown_rate", "a_share"):
        assert found["overall"][name]["low"] <= found["overall"][name]["rate"] <= found["overall"][name]["high"]
    for name in ("brier", "calibration_error", "label_mass", "kappa", "reliability"):
        assert found["overall"][name] is not None
    assert found["against"] is found["second"] is found["paired"] is None
    for word in ("Left out: 1", "Brier", "where the shorter is right", "Accuracy by subset"):
        assert word in result.out
    text = page.read_text()
    assert "<svg" in text
    assert "prefers-color-scheme: dark" in text
    for outside in ("src=", 'href="http', "stylesheet", "<script"):
        assert outside not in text


def test_its_accuracy_is_that_of_judge(run, runs, rows, write, tmp_path):
    """The same pairs as a judge file give the same verdicts in `selfjudge judge`."""
    from selfjudge.data.judge_sets import load_judge_set

    pairs = [p.comparison for p in load_judge_set(write("bench.jsonl", rows))]
    source = write("pairs.jsonl", [c.model_dump() for c in pairs])
    command(run, runs / "jsft", source, json=tmp_path / "f.json")
    run("judge", "--model", runs / "jsft", "--input", source, "--output", tmp_path / "v.jsonl")
    right = [v["preferred"] == c.label for v, c in zip(read(tmp_path / "v.jsonl"), pairs, strict=True)]
    accuracy = json.loads((tmp_path / "f.json").read_text())["overall"]["accuracy"]
    assert (accuracy["rate"], accuracy["n"]) == (sum(right) / 20, 20)


def test_two_judges_on_the_same_pairs(run, runs, rows, write, tmp_path):
    figures = tmp_path / "f.json"
    result = command(run, runs / "jsft", write("b.jsonl", rows), against=runs / "train", json=figures)
    assert result.code == 0, result.err
    found = json.loads(figures.read_text())
    assert (found["model"], found["against"]) == (str(runs / "jsft"), str(runs / "train"))
    difference = found["overall"]["accuracy"]["rate"] - found["second"]["accuracy"]["rate"]
    assert found["paired"]["difference"]["value"] == pytest.approx(difference)
    assert found["second"]["pairs"] == found["overall"]["pairs"] == 20
    assert found["overall"]["label_mass"] != found["second"]["label_mass"]  # two judges, not one twice
    assert "exact McNemar" in result.out


def test_bad_input_is_refused_and_nothing_written(run, runs, rows, write, tmp_path):
    out = tmp_path / "f.json"
    refused(command(run, runs / "jsft", write("a.jsonl", [PAIR | {"label": "C"}]), json=out), "a.jsonl", "label")
    long = write("l.jsonl", [PAIR | {"response_a": "fox " * 300}])
    refused(command(run, runs / "jsft", long, json=out), "No pair fits")
    result = command(run, runs / "jsft", long, against="x", server="http://127.0.0.1:9/v1")
    assert result.code == 2
    assert "--against" in result.err
    assert not out.exists()
    out.write_text("precious")
    refused(command(run, runs / "jsft", write("b.jsonl", rows), json=out), "f.json", "--overwrite")
    assert out.read_text() == "precious"
