"""`selfjudge data anonymize`, and what `data inspect` says of personal data and of the labels."""

from __future__ import annotations

import json
import sys

import pytest

ROWS = [
    {"prompt": "I am Ada.", "chosen": "Write to ada@example.com, Ada.", "rejected": "She has 203.0.113.7."},
    {"prompt": "What is it?", "chosen": "A fox.", "rejected": "An owl."},
]


def test_rows_without_personal_data_and_a_report(run, write, tmp_path):
    pytest.importorskip("presidio_analyzer", reason="the extra privacy is not installed")
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ada"}])
    nlp.to_disk(tmp_path / "names")
    source, out, figures = write("in.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / "f.json"
    args = ("data", "anonymize", source, "--output", out, "--json", figures)
    result = run(*args, "--names", "none")
    assert result.code == 0, result.err
    assert json.loads(out.read_text().splitlines()[0])["chosen"] == "Write to <EMAIL_1>, Ada."
    assert "not looked for" in result.out
    assert run(*args).code == 2  # both files are there
    result = run(*args, "--names", tmp_path / "names", "--overwrite")
    assert result.code == 0, result.err
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"prompt": "I am <NAME_1>.", "chosen": "Write to <EMAIL_1>, <NAME_1>.", "rejected": "She has <IP_1>."},
        ROWS[1],
    ]
    found = json.loads(figures.read_text())
    assert (found["source"], found["rows"], found["rows_changed"]) == (str(source), 2, 1)
    assert found["kinds"]["NAME"] == {"values": 1, "places": 2, "rows": 1}
    assert "NAME 1 values at 2 places in 1 rows" in " ".join(result.out.split())


def test_inspect_warns_and_tells_what_the_labels_go_with(run, write, monkeypatch):
    pytest.importorskip("presidio_analyzer", reason="the extra privacy is not installed")
    source = write("in [old].jsonl", ROWS)
    # In a narrow terminal the path and the command stay whole.
    monkeypatch.setenv("COLUMNS", "40")
    lines = run("data", "inspect", source).out.splitlines()
    assert str(source) in lines
    assert any(line.endswith(f": selfjudge data anonymize '{source}' --output FILE") for line in lines)
    monkeypatch.setenv("COLUMNS", "400")
    out = " ".join(run("data", "inspect", source).out.split())
    assert "Personal data in 1 records (EMAIL 1, IP 1; 2 of 2 records looked through, not for names)" in out
    assert "longer 50.0 % [9.5, 90.5] 2" in out
    assert "more words for women 0.0 % [0.0, 79.3] 1" in out
    assert "is A" not in out
    pairs = [{"prompt": "x", "response_a": "a", "response_b": "b", "label": label} for label in "AAB"]
    out = " ".join(run("data", "inspect", write("judge.jsonl", pairs)).out.split())
    assert "No personal data found" in out
    assert "is A 66.7 % [20.8, 93.9] 3" in out


def test_without_the_extra(run, write, tmp_path, monkeypatch):
    from selfjudge.data.personal import _recognizers

    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    _recognizers.cache_clear()
    source = write("in.jsonl", ROWS)
    result = run("data", "anonymize", source, "--output", tmp_path / "out.jsonl")
    assert result.code == 2
    assert "selfjudge[privacy]" in result.err
    assert not (tmp_path / "out.jsonl").exists()
    result = run("data", "inspect", source)
    assert result.code == 0
    out = " ".join(result.out.split())
    assert "Personal data was not looked for." in out
    assert "pip install 'selfjudge[privacy]'" in out
