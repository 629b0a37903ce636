"""`selfjudge eval scaling` on a tiny model."""

from __future__ import annotations

import json

import pytest
from test_bad_input import refused


def scaling(run, model, source, *extra):
    return run("eval", "scaling", "--model", model, "--input", source, *extra)


def test_fresh_samples_scored_by_the_truth(run, runs, tmp_path):
    found, page = tmp_path / "f.json", tmp_path / "r.html"
    result = scaling(run, runs / "jsft", "builtin:world", "--n", "1,2,4", "--limit", "5", "--max-new-tokens", "8",
                     "--json", found, "--report", page)  # fmt: skip
    assert result.code == 0, result.err
    figures = json.loads(found.read_text())
    assert (figures["n"], figures["prompts"], figures["left_out"]) == ([1, 2, 4], 5, 0)
    assert set(figures["quality"]) == {"tournament", "longest", "highest log-prob", "random", "best"}
    first = {name: row[0]["value"] for name, row in figures["quality"].items()}
    assert len({round(value, 9) for value in first.values()}) == 1  # one candidate leaves no choice
    best = [point["value"] for point in figures["quality"]["best"]]
    assert best == sorted(best)  # the subsets are nested
    assert "<svg" in page.read_text()
    assert "highest log-prob" in result.out


def test_repeats_and_league_beside_the_tournament(run, runs, tmp_path):
    found, page = tmp_path / "f.json", tmp_path / "r.html"
    options = ("--n", "1,4", "--limit", "12", "--max-new-tokens", "8", "--json", found, "--report", page)
    result = scaling(run, runs / "jsft", "builtin:world", *options, "--repeats", "3", "--league")
    assert result.code == 0, result.err
    figures = json.loads(found.read_text())
    assert (figures["repeats"], figures["good_quantile"]) == (3, 0.5)
    assert {"tournament", "tournament, K = 3", "league"} < set(figures["quality"])
    p = figures["prediction"]
    assert set(p) == {"good_from", "p_gen", "knockouts", "observed"}
    assert set(p["knockouts"]) == {"tournament", "tournament, K = 3"}
    for tournament in p["knockouts"].values():
        assert set(tournament) == {"p_comp", "predicted", "guaranteed"}
        assert len(tournament["predicted"]) == len(tournament["guaranteed"]) == 2
        assert tournament["predicted"][0]["rate"] == pytest.approx(p["p_gen"]["rate"])
    assert set(p["observed"]) == set(figures["quality"]) - {"random"}
    assert (p["p_gen"]["n"], p["observed"]["league"][0]["n"]) == (6, 6)
    text = page.read_text()
    assert "How often the chosen is good" in text
    assert "Good: a score of" in result.out
    assert "tournament, K = 3" in result.out


def test_the_quantile_sets_what_is_good(run, runs, write, tmp_path):
    rows = [{"prompt": f"Name {i}.", "candidates": ["bear", "fox", "owl", "cat"], "scores": [0, 1, 2, 3]}
            for i in range(12)]  # fmt: skip
    source, found = write("c.jsonl", rows), tmp_path / "f.json"
    for quantile, share in (("0.5", 0.5), ("1", 0.25)):
        options = ("--n", "1,4", "--good-quantile", quantile, "--json", found, "--overwrite")
        assert scaling(run, runs / "jsft", source, *options).code == 0
        assert json.loads(found.read_text())["prediction"]["p_gen"]["rate"] == share


def test_scored_candidates(run, runs, write, tmp_path):
    rows = [{"prompt": f"Name {i}.", "candidates": ["bear", "fox", "owl"], "scores": [i, 1, 2]} for i in range(4)]
    rows.append({"prompt": "Few.", "candidates": ["bear"], "scores": [1]})
    rows.append({"prompt": "Long.", "candidates": ["bear " * 300, "fox", "owl"], "scores": [1, 1, 1]})
    found = tmp_path / "f.json"
    result = scaling(run, runs / "jsft", write("c.jsonl", rows), "--n", "3", "--json", found)
    assert result.code == 0, result.err
    figures = json.loads(found.read_text())
    assert (figures["prompts"], figures["left_out"]) == (4, 2)
    assert figures["quality"]["random"][0]["value"] == pytest.approx((3 + 4 + 5 + 6) / 12)
    assert "highest log-prob" not in figures["quality"]
    assert not {"league", "tournament, K = 1"} & set(figures["quality"])


def test_equal_scores_leave_nothing_to_predict(run, runs, write, tmp_path):
    rows = [{"prompt": f"Name {i}.", "candidates": ["bear", "fox"], "scores": [1, 1]} for i in range(4)]
    found = tmp_path / "f.json"
    result = scaling(run, runs / "jsft", write("c.jsonl", rows), "--n", "2", "--json", found)
    assert result.code == 0, result.err
    assert json.loads(found.read_text())["prediction"] is None
    assert "Too few prompts" in result.out


def test_bad_input(run, runs, write, tmp_path):
    source = write("c.jsonl", [{"prompt": "q", "candidates": ["a"], "scores": [1]}])
    refused(scaling(run, runs / "jsft", source, "--json", tmp_path / "f.json"), "8 scored candidates", "--n")
    for n in ("0,1", "2,1", "1,x", "", "1,1", "1,1001"):
        result = scaling(run, runs / "jsft", source, "--n", n)
        assert result.code == 2
        assert "rising" in result.err
    for option, value in (("--repeats", "0"), ("--good-quantile", "2")):
        result = scaling(run, runs / "jsft", source, option, value)
        assert result.code == 2
        assert option in result.err
    assert not (tmp_path / "f.json").exists()
