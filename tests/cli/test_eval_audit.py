"""`selfjudge eval audit` on a tiny model."""

from __future__ import annotations

import json

import pytest
from served_model import ServedModel
from test_bad_input import PAIR, refused

from selfjudge.data.swaps import swap_names
from selfjudge.world.model import build_model
from selfjudge.world.people import preference_records


def test_figures_and_page(run, runs, write, tmp_path):
    rows = [{"prompt": r.prompt[0].content, "chosen": r.chosen, "rejected": r.rejected}
            for r in preference_records(8, seed=8)]  # fmt: skip
    found, page = tmp_path / "f.json", tmp_path / "r.html"
    result = run("eval", "audit", "--model", runs / "jsft", "--input", write("b.jsonl", rows), "--json", found,
                 "--report", page)  # fmt: skip
    assert result.code == 0, result.err
    figures = json.loads(found.read_text())
    assert (figures["model"], figures["left_out"], figures["summary"]["pairs"]) == (str(runs / "jsft"), 0, 8)
    assert figures["findings"]["padding"]["turned"]["n"] == 8
    named = sum(swap_names(row["prompt"]) != row["prompt"] for row in rows)
    assert figures["findings"]["names"]["turned"]["n"] == named > 0
    assert figures["findings"]["genders"]["turned"]["rate"] is None  # no such word is in these texts
    style = figures["own_style"]
    assert set(style) == {"judge", "labels", "paired", "right_on_familiar", "right_on_other", "bias", "example"}
    assert style["judge"]["n"] == style["labels"]["n"] == 8
    difference = style["judge"]["rate"] - style["labels"]["rate"]
    assert style["paired"]["difference"]["value"] == pytest.approx(difference)
    assert "Prefers the more familiar" in result.out
    assert "Turned by hijack: plea" in result.out
    assert "Edits that must not win" in page.read_text()
    assert "own style" in page.read_text()


def test_a_served_judge_has_no_likelihood(run, write, world_chat, tmp_path):
    rows = [{"prompt": "Name a bird.", "response_a": "owl", "response_b": "fox", "label": "A"}]
    found = tmp_path / "f.json"
    with ServedModel(build_model(world_chat.tokenizer, seed=0).eval(), world_chat).running() as served:
        result = run("eval", "audit", "--model", "builtin:world", "--server", served.url, "--input",
                     write("b.jsonl", rows), "--json", found)  # fmt: skip
    assert result.code == 0, result.err
    assert json.loads(found.read_text())["own_style"] is None
    assert "not measured" in result.out


def test_bad_input(run, runs, write, tmp_path):
    long = write("l.jsonl", [PAIR | {"response_a": "fox " * 300}])
    refused(run("eval", "audit", "--model", runs / "jsft", "--input", long, "--json", tmp_path / "f"), "No pair fits")
    assert not (tmp_path / "f").exists()
