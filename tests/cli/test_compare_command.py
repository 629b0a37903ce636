"""`selfjudge compare`, in processes of its own, on the tiny model."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml

from conftest import read
from selfjudge.recipes.load import load_recipe

CELLS = {
    "sft": {"method": "sft"},
    "jsft": {"method": "jsft"},
    "self-judge": {"method": "train", "curve": True},
    "reward-model": {"method": "reward-model"},
    "rlhf": {"method": "rlhf", "curve": True},
    "best-of-n": {"method": "best-of-n"},
}


@pytest.fixture
def study(tmp_path, tiny_recipe):
    training = {"max_steps": 2, "save_strategy": "no"}
    recipe = tiny_recipe(jsft={"training": training}, self_training={"lora": None, "training": training})
    content = recipe.model_dump(mode="json")
    content["study"] = {
        "limit": 5,
        "curve_every": 1,
        "candidates": [1, 2],
        "cells": CELLS,
        "claims": [
            {"better": "self-judge", "worse": "sft"},
            {"better": "jsft", "worse": "reward-model", "of": "judge"},
        ],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_study_runs_goes_on_and_reports(run, study, tmp_path):
    out = tmp_path / "out"
    first = run("compare", "--recipe", study, "--seeds", 1, "--jobs", 2, "--cells", "self-judge", "--output-dir", out)
    assert first.code == 0, first.err
    assert sorted(p.name for p in (out / "seed-0").iterdir()) == ["jsft", "self-judge", "sft"]
    before = (out / "seed-0" / "jsft" / "cell.json").stat().st_mtime_ns
    # A cell that was interrupted while it was measured: its run is finished, its result is not there.
    (out / "seed-0" / "self-judge" / "cell.json").unlink()
    result = run("compare", "--recipe", study, "--seeds", 1, "--jobs", 2, "--output-dir", out)
    assert result.code == 0, result.err
    assert (out / "seed-0" / "jsft" / "cell.json").stat().st_mtime_ns == before
    found = json.loads((out / "summary.json").read_text())
    assert found["missing"] == []
    assert {p["name"] for p in found["policies"]} == {
        *("sft", "jsft", "self-judge", "rlhf", "best by reward of 2", "tournament of 2"),
    }
    assert [p["rate"]["n"] for p in found["policies"]] == [5] * 6
    assert {j["name"] for j in found["judges"]} == {"jsft", "self-judge", "reward-model"}
    assert [*found["choosing"]] == ["best by reward", "longest", "most probable", "tournament"]
    assert len(found["claims"]) == 2
    raw = json.loads((out / "results.json").read_text())
    assert raw["results"].keys() >= {"sft", "jsft", "self-judge", "rlhf", "tournament of 2", "best by reward of 2"}
    assert raw["results"]["self-judge"]["0"]["n"] == 5
    assert raw["per_answer"]["tournament of 2"] == {
        **raw["per_answer"]["tournament of 2"],
        "samples": 2,
        "judgments": 2,
    }
    costs = {c["name"]: c for c in found["costs"]}
    assert (costs["self-judge"]["samples"], costs["self-judge"]["judgments"]) == (2 * 8 * 2, 2 * 8 * 2)
    assert all(c["peak_bytes"] > 10**8 for c in costs.values())
    for cell in ("self-judge", "rlhf"):
        rows = read(out / "seed-0" / cell / "run" / "curve.jsonl")
        assert [row["step"] for row in rows] == [0, 1, 2]
        assert (rows[0]["belief"] is None) == (cell == "rlhf")
    assert [row["id"] for row in read(out / "seed-0" / "sft" / "answers.jsonl")] == list("01234")
    page = (out / "report.html").read_text()
    for words in ("Against the reference", "Claims", "Choosing among N", "Along the training", "Costs of training"):
        assert words in page
    assert "self-judge &gt; sft" in page
    assert not re.search(r"""(src|href)=["']?http|url\(["']?http|@import|<script""", page)


@pytest.mark.slow
def test_rates_are_tuned_first_and_then_used(run, study, tmp_path):
    content = yaml.safe_load(study.read_text())
    rates = [1e-4, 1e-3, 1e-2]
    content["study"] |= {"limit": 40, "claims": [], "tuning": {"rates": rates}}
    content["study"]["cells"] = {"sft": {"method": "sft"}, "dpo": {"method": "dpo"}}
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    out = tmp_path / "out"
    alone = run("compare", "--recipe", study, "--tune", "--seeds", 0, "--jobs", 2, "--output-dir", out)
    assert alone.code == 0, alone.err
    assert "Best learning rate" in alone.out
    raw = json.loads((out / "results.json").read_text())
    assert raw["results"] == {}
    assert {"0.0001", "0.001", "0.01"} <= raw["tuning"]["dpo"]["rates"].keys()
    best = raw["tuning"]["dpo"]["best"]
    assert raw["tuning"]["dpo"]["rates"][f"{best:g}"]["rate"] == max(
        tried["rate"] for tried in raw["tuning"]["dpo"]["rates"].values()
    )
    tried = sorted(p.name for p in (out / "tuning" / "seed-100").iterdir())
    result = run("compare", "--recipe", study, "--tune", "--seeds", 1, "--jobs", 2, "--output-dir", out)
    assert result.code == 0, result.err
    # Nothing was tuned twice, and the results have the best rate.
    assert sorted(p.name for p in (out / "tuning" / "seed-100").iterdir()) == tried
    recipe = yaml.safe_load((out / "seed-0" / "dpo" / "run" / "recipe.yaml").read_text())
    assert recipe["baselines"]["dpo"]["training"]["learning_rate"] == best
    assert json.loads((out / "seed-0" / "dpo" / "cell.json").read_text())["rate"] == best
    assert "Learning rates" in (out / "report.html").read_text()
    # Without --tune it is another study.
    other = run("compare", "--recipe", study, "--seeds", 1, "--jobs", 2, "--output-dir", out)
    assert other.code == 2
    assert "holds a result of other settings" in other.err
    assert "only with --tune" in run("compare", "--recipe", study, "--seeds", 0, "--output-dir", out).err


def test_a_failing_cell_is_named_with_its_log(run, study, tmp_path):
    content = yaml.safe_load(study.read_text())
    content["study"]["cells"] = {"sft": CELLS["sft"], "jsft": {"method": "jsft", "set": ["templates.set=nothing"]}}
    content["study"]["claims"] = []
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    result = run("compare", "--recipe", study, "--seeds", 1, "--jobs", 1, "--output-dir", tmp_path / "out")
    assert result.code == 2
    assert result.err.startswith("Error: seed 0, jsft failed: ")
    assert "nothing" in result.err
    assert "log.txt" in result.err
    assert "Missing cells" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_run_is_refused(run, study, tmp_path):
    out = tmp_path / "out"
    assert "has no study section" in run("compare", "--recipe", "demo", "--output-dir", out).err
    assert "no cell 'nothing'" in run("compare", "--recipe", study, "--cells", "nothing", "--output-dir", out).err
    assert not out.exists()
    out.mkdir()
    shutil.copy(study, out / "mine.yaml")
    assert "holds no study" in run("compare", "--recipe", study, "--output-dir", out).err


def test_the_shipped_study_has_every_method():
    study = load_recipe("world-study").study
    methods = {cell.method for cell in study.cells.values()}
    assert methods == {
        *("jsft", "train", "best-of-n", "sft", "dpo", "reward-model", "rlhf", "rso", "raft", "rest"),
        *("offline", "off-policy"),
    }
