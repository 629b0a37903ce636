"""`selfjudge eval winrate` on a tiny model."""

from __future__ import annotations

import json

import pytest
from served_model import ServedModel
from test_bad_input import refused

from conftest import read
from selfjudge.engines.base import SamplingParams
from selfjudge.world.model import build_model
from selfjudge.world.people import prompts
from selfjudge.world.truth import utility

SAMPLING = ("--max-new-tokens", "8", "--prompts", "builtin:world", "--limit", "6")


def winrate(run, a, b, evaluator, *extra):
    return run("eval", "winrate", "--a", a, "--b", b, "--evaluator", evaluator, *extra)


def figures(path):
    return json.loads(path.read_text())


def test_models_by_the_truth_with_outputs_and_page(run, runs, tmp_path):
    out, found, page = tmp_path / "out", tmp_path / "f.json", tmp_path / "r.html"
    result = winrate(run, runs / "train", runs / "jsft", "world", *SAMPLING, "--candidates", "2", "--seed", "3",
                     "--output", out, "--json", found, "--report", page)  # fmt: skip
    assert result.code == 0, result.err
    a, b = (json.loads((out / f"{side}.json").read_text()) for side in "ab")
    assert [row["instruction"] for row in a] == prompts(6, 3, "results")
    assert (a[0]["generator"], b[0]["generator"]) == (str(runs / "train"), str(runs / "jsft"))
    u = [[utility(row["instruction"], row["output"]) for row in side] for side in (a, b)]
    wins = [0.5 * (x == y) + (x > y) for x, y in zip(*u, strict=True)]
    f = figures(found)
    assert f["win_rate"]["rate"] == pytest.approx(sum(wins) / 6)
    assert (f["a"], f["prompts"], f["evaluator"], f["own_judge"], f["n"]) == (
        str(runs / "train"), "builtin:world", "world", False, 6,
    )  # fmt: skip
    assert (f["sampling"]["n"], f["sampling"]["seed"]) == (2, 3)
    assert "Win rate of a" in result.out
    assert "Does a beat b?" in page.read_text()
    again = tmp_path / "again.json"
    assert winrate(run, out / "a.json", out / "b.json", "world", *SAMPLING, "--seed", "3", "--json", again).code == 0
    assert figures(again)["win_rate"] == f["win_rate"]


def test_the_same_model_on_both_sides_is_sampled_independently(run, runs, write, tmp_path):
    """Each side has the answers that the model gives by that side's own seed, so they are not the same ones."""
    out, found, model = tmp_path / "out", tmp_path / "f.json", runs / "jsft"
    command = (model, model, "world", *SAMPLING, "--seed", "3")
    assert winrate(run, *command, "--output", out, "--json", found).code == 0
    written = {side: [row["output"] for row in json.loads((out / f"{side}.json").read_text())] for side in "ab"}
    assert sum(a == b for a, b in zip(written["a"], written["b"], strict=True)) <= 1
    source = write("p.jsonl", [{"prompt": p} for p in prompts(6, 3, "results")])
    for side, texts in written.items():
        seed = SamplingParams(seed=3).seeded_for(side).seed
        alone = tmp_path / f"{side}.jsonl"
        options = ("--model", model, "--input", source, "--output", alone, "--n", "1", "--max-new-tokens", "8")
        assert run("sample", *options, "--seed", seed).code == 0
        assert [row["winner"] for row in read(alone)] == texts
    assert winrate(run, *command, "--output", tmp_path / "again").code == 0
    assert (tmp_path / "again" / "a.json").read_text() == (out / "a.json").read_text()
    assert (tmp_path / "again" / "b.json").read_text() == (out / "b.json").read_text()


@pytest.mark.parametrize("evaluator", ["jsft", "train"])
def test_a_systems_own_judge_is_a_loud_warning(run, runs, tmp_path, evaluator):
    found = tmp_path / "f.json"
    result = winrate(run, runs / "train", "builtin:world", f"judge:{runs / evaluator}", *SAMPLING, "--json", found)
    assert result.code == 0, result.err
    assert "Warning: judge:" in result.err
    assert figures(found)["own_judge"] is True
    assert figures(found)["agreement"]["n"] == 6


def test_another_judge_is_no_warning(run, runs, tmp_path):
    result = winrate(run, "builtin:world", "builtin:world", f"judge:{runs / 'jsft'}", *SAMPLING)
    assert result.code == 0, result.err
    assert "Warning" not in result.err


def test_a_served_judge_says_what_the_same_judge_says_here(run, write, world_chat, tmp_path):
    texts = prompts(3, 1, "results")
    answers = {
        side: write(f"{side}.jsonl", [{"prompt": p, "output": f"{side} {i}"} for i, p in enumerate(texts)])
        for side in ("bear", "fox")
    }
    source = write("p.jsonl", [{"prompt": p} for p in texts])
    command = (answers["bear"], answers["fox"], "judge:builtin:world", "--prompts", source)
    assert winrate(run, *command, "--json", tmp_path / "here.json").code == 0
    with ServedModel(build_model(world_chat.tokenizer, seed=0).eval(), world_chat).running() as served:
        result = winrate(run, *command, "--evaluator-server", served.url, "--json", tmp_path / "there.json")
    assert result.code == 0, result.err
    assert len(served.requests) > 0
    assert figures(tmp_path / "here.json") == figures(tmp_path / "there.json")


def test_exact_answers(run, write, tmp_path):
    rows = [{"prompt": f"Add {i} and 1.", "answer": str(i + 1)} for i in range(4)]
    right = write("right.jsonl", [{"prompt": r["prompt"], "output": f"It is {r['answer']}."} for r in rows])
    half = write("half.jsonl", [{"prompt": r["prompt"], "output": "It is 2."} for r in rows])
    found = tmp_path / "f.json"
    assert winrate(run, right, half, "gsm8k", "--prompts", write("p.jsonl", rows), "--json", found).code == 0
    assert (figures(found)["wins"], figures(found)["ties"]) == (3, 1)
    assert (figures(found)["pass_a"]["rate"], figures(found)["pass_b"]["rate"]) == (1, 0.25)
    assert figures(found)["pass_a"]["low"] < 1  # all right of four says little about others


def test_difficulties_add_alpacaevals_win_rate(run, write, tmp_path):
    rows = [{"prompt": f"Add {i} and 1.", "answer": str(i + 1)} for i in range(4)]
    right = write("right.jsonl", [{"prompt": r["prompt"], "output": f"It is {r['answer']}."} for r in rows])
    half = write(
        "half.jsonl", [{"prompt": r["prompt"], "output": "It" + " is" * i + " 2."} for i, r in enumerate(rows)]
    )
    command = (right, half, "gsm8k", "--prompts", write("p.jsonl", rows), "--json")
    assert winrate(run, *command, tmp_path / "without.json").code == 0
    assert figures(tmp_path / "without.json")["length_controlled"] is None
    assert figures(tmp_path / "without.json")["difficulty"] is None
    given = write("d.jsonl", [{"index": i, "instruction_difficulty": i / 2} for i in range(4)])
    result = winrate(run, *command, tmp_path / "f.json", "--difficulty", given, "--report", tmp_path / "r.html")
    assert result.code == 0, result.err
    f = figures(tmp_path / "f.json")
    assert (f["difficulty"], f["length_controlled"]["n"]) == (str(given), 4)
    assert f["equal_length"] == figures(tmp_path / "without.json")["equal_length"]
    assert "length-controlled, AlpacaEval 2" in result.out
    assert "length-controlled, AlpacaEval 2" in (tmp_path / "r.html").read_text()
    few = write("few.jsonl", [{"difficulty": 1.0}])
    refused(winrate(run, *command, tmp_path / "few.json", "--difficulty", few), "no difficulty of 3 of 4 prompts")
    assert not (tmp_path / "few.json").exists()


@pytest.mark.parametrize(
    ("evaluator", "words"),
    [
        ("world", ("prompt",)),
        ("gsm8k", ("`answer`",)),
        ("math", ("`answer`",)),
        ("ifeval", ("`instruction_id_list`",)),
        ("judge:/no/such", ("/no/such",)),
        ("reward:/no/such", ("such",)),
    ],
)
def test_an_evaluator_that_cannot_say_is_refused_before_sampling(run, runs, write, tmp_path, evaluator, words):
    source = write("p.jsonl", [{"prompt": "What is the capital of France?"}])
    out = tmp_path / "out"
    refused(winrate(run, runs / "jsft", runs / "train", evaluator, "--prompts", source, "--output", out), *words)
    assert not out.exists()


def test_bad_options(run, runs, tmp_path):
    for evaluator, extra in (("magic", ()), ("judge:", ()), ("world", ("--evaluator-server", "http://127.0.0.1:9"))):
        result = winrate(run, runs / "jsft", runs / "train", evaluator, *SAMPLING, *extra)
        assert result.code == 2
        assert "--evaluator" in result.err
    result = winrate(run, runs / "jsft", runs / "train", "world", "--prompts", "builtin:world", "--limit", "2")
    assert result.code == 2
    assert "lower --max-new-tokens" in result.err.splitlines()[-1]  # 768 tokens are more than the model takes
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.json").write_text("precious")
    refused(winrate(run, runs / "jsft", runs / "train", "world", *SAMPLING, "--output", tmp_path / "out"), "b.json")
    assert (tmp_path / "out" / "b.json").read_text() == "precious"
