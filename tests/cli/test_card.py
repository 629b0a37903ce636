"""Every run writes a model card, and `selfjudge card` puts an audit into it."""

from __future__ import annotations

import json
import shutil

from huggingface_hub import ModelCard
from test_bad_input import refused

from selfjudge.world.people import preference_records


def test_runs_write_their_card(runs):
    info = json.loads((runs / "jsft" / "run.json").read_text())
    card = ModelCard.load(runs / "jsft" / "final" / "README.md")
    accuracy = info["held_out"]["accuracy"]["rate"]
    assert card.data.eval_results[0].metric_value == round(accuracy, 4)
    assert f"| accuracy | {100 * accuracy:.1f} % [" in card.text
    assert "| builtin:world | 60 | policy, judgment, prompts | `" + info["data"]["builtin:world"] in card.text
    assert f"Trained on {info['rows']['policy']} policy rows, {info['rows']['judgment']} judgment rows." in card.text
    card = ModelCard.load(runs / "train" / "final" / "README.md")
    assert f"Trained on {info_of(runs / 'train')['prompts']} prompts." in card.text
    assert "| started from | jsft |" in card.text
    assert str(runs) not in (runs / "train" / "final" / "README.md").read_text()


def info_of(run):
    return json.loads((run / "run.json").read_text())


def test_an_audit_is_put_into_the_card(run, runs, write, tmp_path):
    folder = tmp_path / "jsft"
    shutil.copytree(runs / "jsft", folder)
    rows = [{"prompt": r.prompt[0].content, "chosen": r.chosen, "rejected": r.rejected}
            for r in preference_records(8, seed=8)]  # fmt: skip
    audit = tmp_path / "audit.json"
    args = ("eval", "audit", "--model", folder, "--input", write("b.jsonl", rows), "--json", audit)
    assert run(*args).code == 0
    result = run("card", folder, "--audit", audit)
    assert result.code == 0, result.err
    text = (folder / "final" / "README.md").read_text()
    assert "on 8 pairs of b.jsonl" in text
    assert "| padding | " in text
    assert "| genders |" not in text  # there was nothing to try it on
    assert rows[0]["chosen"] not in text
    assert run("card", folder).code == 0
    assert (folder / "final" / "README.md").read_text() == text


def test_bad_input(run, tmp_path):
    refused(run("card", tmp_path), "holds no finished run with a model")
