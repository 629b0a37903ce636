"""`selfjudge eval ranking` on a tiny model and on files."""

from __future__ import annotations

import json
import sys

import pytest
from test_bad_input import refused

from selfjudge.world.people import prompts
from selfjudge.world.truth import utility

pytest.importorskip("evalica", reason="evalica is not installed: pip install 'selfjudge[eval]'")

SAMPLING = ("--max-new-tokens", "8", "--prompts", "builtin:world", "--limit", "6")


def ranking(run, systems, evaluator, *extra):
    named = [part for name, source in systems.items() for part in ("--system", f"{name}={source}")]
    return run("eval", "ranking", *named, "--evaluator", evaluator, *extra)


@pytest.fixture
def sums(write):
    """Prompts of sums with their answers, and three files: all right, half of them, and none."""
    rows = [{"prompt": f"Add {i} and 1.", "answer": f"Count.\n#### {i + 1}"} for i in range(8)]
    texts = {"right": lambda i: f"It is {i + 1}.", "half": lambda i: f"It is {i + i % 2}.", "none": lambda i: "Dunno."}
    files = {
        name: write(f"{name}.jsonl", [{"prompt": r["prompt"], "output": text(i)} for i, r in enumerate(rows)])
        for name, text in texts.items()
    }
    return files, write("p.jsonl", rows)


@pytest.mark.parametrize("evaluator", ["gsm8k", "math"])
def test_files_by_a_checker(run, sums, tmp_path, evaluator):
    if evaluator == "math":
        pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'selfjudge[eval]'")
    files, source = sums
    found, page = tmp_path / "f.json", tmp_path / "r.html"
    result = ranking(run, files, evaluator, "--prompts", source, "--json", found, "--report", page)
    assert result.code == 0, result.err
    f = json.loads(found.read_text())
    assert f["sources"] == {name: str(path) for name, path in files.items()}
    assert (f["prompts"], f["evaluator"], f["own_judge_of"], f["n"]) == (str(source), evaluator, [], 8)
    assert [(s["name"], s["rank"], s["pass_rate"]["rate"]) for s in f["systems"]] == [
        ("right", 1, 1), ("half", 2, 0.5), ("none", 3, 0),
    ]  # fmt: skip
    rates = [[rate and rate["rate"] for rate in row] for row in f["rates"]]
    assert rates == [[None, 0.75, 1], [0.25, None, 0.75], [0, 0.25, None]]
    for word in ("System", "Score", "Pass rate", "right beats none", "100.0 %"):
        assert word in result.out
    assert "Each against each" in page.read_text()


def test_models_by_the_truth_with_outputs(run, runs, tmp_path):
    out, found = tmp_path / "out", tmp_path / "f.json"
    systems = {"sft": runs / "jsft", "self-judge": runs / "train", "world 2.0": "builtin:world"}
    result = ranking(run, systems, "world", *SAMPLING, "--seed", "3", "--output", out, "--json", found)
    assert result.code == 0, result.err
    answers = {name: json.loads((out / f"{name}.json").read_text()) for name in systems}
    assert [row["instruction"] for row in answers["sft"]] == prompts(6, 3, "results")
    assert answers["sft"][0]["generator"] == "sft"
    f = json.loads(found.read_text())
    for system in f["systems"]:
        u = [utility(row["instruction"], row["output"]) for row in answers[system["name"]]]
        assert system["value"]["value"] == pytest.approx(sum(u) / 6)
    assert f["sampling"]["max_new_tokens"] == 8
    again = {name: out / f"{name}.json" for name in systems}
    assert ranking(run, again, "world", *SAMPLING, "--seed", "3", "--json", found, "--overwrite").code == 0
    assert json.loads(found.read_text())["systems"] == f["systems"]


def test_the_answers_of_a_model_depend_on_its_name_and_not_on_who_else_is_ranked(run, runs, tmp_path):
    model = runs / "jsft"
    orders = [("x", "y", "z"), ("y", "x")]
    for number, names in enumerate(orders):
        result = ranking(run, dict.fromkeys(names, model), "world", *SAMPLING, "--output", tmp_path / str(number))
        assert result.code == 0, result.err
    first, second = (
        {name: [row["output"] for row in json.loads((tmp_path / str(number) / f"{name}.json").read_text())]
         for name in names}
        for number, names in enumerate(orders)
    )  # fmt: skip
    assert {name: first[name] for name in "xy"} == second
    for a, b in ("xy", "xz", "yz"):
        assert sum(s == t for s, t in zip(first[a], first[b], strict=True)) <= 1


def test_a_systems_own_judge_is_a_loud_warning(run, runs, tmp_path):
    found = tmp_path / "f.json"
    systems = {"trained": runs / "train", "other": "builtin:world"}
    result = ranking(run, systems, f"judge:{runs / 'jsft'}", *SAMPLING, "--json", found)
    assert result.code == 0, result.err
    assert "Warning: judge:" in result.err
    f = json.loads(found.read_text())
    assert f["own_judge_of"] == ["trained"]
    assert f["agreement"]["n"] == 6
    assert "Both orders agree" in result.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("a=x.jsonl",), "twice or more"),
        (("a=x.jsonl", "a=y.jsonl"), "two systems are named 'a'"),
        (("a=x.jsonl", "y.jsonl"), "'y.jsonl' is not NAME=MODEL"),
        (("a=x.jsonl", "../b=y.jsonl"), "'../b=y.jsonl' is not NAME=MODEL"),
        (("a=x.jsonl", "b="), "'b=' is not NAME=MODEL"),
    ],
)
def test_systems_that_cannot_be(run, options, words):
    named = [part for option in options for part in ("--system", option)]
    result = run("eval", "ranking", *named, "--evaluator", "world", *SAMPLING)
    assert result.code == 2
    assert words in " ".join(result.err.replace("│", " ").split())


def test_refused_before_anything_is_sampled(run, sums, runs, write, tmp_path, monkeypatch):
    out = tmp_path / "out"
    files, source = sums
    bare = write("bare.jsonl", [{"prompt": "What is the capital of France?"}])
    systems = {"a": runs / "jsft", "b": runs / "train"}
    refused(ranking(run, systems, "gsm8k", "--prompts", bare, "--output", out), "`answer`")
    (tmp_path / "half.json").write_text("precious")
    refused(ranking(run, files, "gsm8k", "--prompts", source, "--output", tmp_path), "half.json")
    assert (tmp_path / "half.json").read_text() == "precious"
    monkeypatch.setitem(sys.modules, "evalica", None)
    refused(ranking(run, systems, "world", *SAMPLING, "--output", out), "selfjudge[eval]")
    assert not out.exists()
