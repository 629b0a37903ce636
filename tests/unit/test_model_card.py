"""Model cards: what they say of a run, and what they must not say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from selfjudge.core.statistics import proportion
from selfjudge.errors import DataError
from selfjudge.evaluation.audit_figures import read_audit
from selfjudge.recipes.load import load_recipe
from selfjudge.training.model_card import write_model_card
from selfjudge.training.public import is_hub_id, markdown_text, public_path, public_settings
from selfjudge.training.run_folder import RunFolder

HELD_OUT = {
    "pairs": 40,
    "accuracy": proportion(30, 40).model_dump(),
    "longer_wins": proportion(24, 40).model_dump(),
    "shorter_right": None,
    "kappa": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 40},
    "agreement": proportion(36, 40).model_dump(),
    "first_shown_rate": proportion(20, 40).model_dump(),
    "longer_share": proportion(0, 0).model_dump(),
}


def finished(folder: Path, stage: Any = "jsft", settings: tuple[str, ...] = (), **info: Any) -> ModelCard:
    run = RunFolder.open(folder, stage, load_recipe("demo", list(settings)))
    run.model.mkdir()
    run.update(data={"builtin:world": "f" * 64}, records={"builtin:world": 26000}, dropped=0, **info)
    run.finish(steps=7)
    return card_of(folder)


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "final" / "README.md")


def table(text: str, first: str) -> list[str]:
    """The cells of the table row that starts with a cell."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_card_says_what_was_done(tmp_path: Path) -> None:
    card = finished(tmp_path / "r", rows={"policy": 3, "judgment": 8}, held_out=HELD_OUT)
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["selfjudge", "jsft", "preference-optimization", "arxiv:2402.11253"],
        "model-index": [
            {
                "name": "demo-jsft",
                "results": [
                    {
                        "task": {"type": "text-generation"},
                        "dataset": {"name": "held-out pairs of the training sources", "type": "preference"},
                        "metrics": [{"type": "accuracy", "value": 0.75, "name": "pairwise accuracy"}],
                    }
                ],
            }
        ],
    }
    assert table(card.text, "builtin:world")[1:] == ["26000", "policy, judgment, prompts", f"`{'f' * 64}`"]
    assert "Trained on 3 policy rows, 8 judgment rows. Left out: 0 rows." in card.text
    assert table(card.text, "accuracy")[1] == "75.0 % [59.8, 85.8]"
    assert table(card.text, "… of “the longer wins” on the same pairs")[1] == "60.0 % [44.6, 73.7]"
    assert table(card.text, "Cohen's κ with the labels")[1] == "0.500 [0.250, 0.750]"
    assert table(card.text, "prefers the response shown first")[1] == "50.0 % [35.2, 64.8]"
    assert "prefers the longer" not in card.text  # there was no pair to see it on
    assert table(card.text, "optimisation steps")[1] == "7"
    assert "selfjudge eval audit" in card.text
    for title in ("Intended use", "Limits", "Model", "Data", "The judge", "Audit", "Recipe"):
        assert f"\n## {title}\n" in card.text
    assert "judgment_weight: 6" in card.text
    assert "was not measured" not in card.text
    assert "study:" not in card.text


def test_the_judge_measured_later_and_the_audit_are_put_in(tmp_path: Path) -> None:
    before = finished(tmp_path / "r")
    assert "The judge was not measured on held-out pairs" in before.text
    assert before.data.to_dict().get("model-index") is None
    run = RunFolder.finished(tmp_path / "r")
    turned = {"names and genders": proportion(1, 40).model_dump()}
    run.update(held_out=HELD_OUT, audit={"input": "/secret/place/pairs.jsonl", "pairs": 40, "turned": turned})
    write_model_card(run.path, run.info)
    text = card_of(run.path).text
    assert table(text, "names and genders")[1:] == ["2.5 % [0.4, 12.9]", "40"]
    assert "on 40 pairs of pairs.jsonl" in text
    assert "secret" not in text


def test_rows_left_out_are_counted_by_reason(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "r", "jsft", load_recipe("demo"))
    run.model.mkdir()
    for reason in ("longer than 9 tokens", "a | b", "a | b"):
        run.append("dropped.jsonl", {"reason": reason})
    run.finish(steps=1)
    text = card_of(run.path).text
    assert "| a \\| b | 2 |\n| longer than 9 tokens | 1 |" in text


@pytest.mark.parametrize(
    ("stage", "said", "unsaid"),
    [
        ("reward-model", ["reward model: a baseline", "It writes no text", "## Accuracy"], ["## Audit", "judging two"]),
        ("dpo", ["trained by DPO", "It was not trained to judge"], ["## Audit"]),
        ("sft", ["supervised fine-tuning on the chosen"], ["## Audit", "verdicts of a model"]),
        ("train", ["verdicts of a model", "## Audit", "started from"], []),
        ("offline", ["verdicts of a model", "## Audit"], []),
    ],
)
def test_each_stage_has_its_own_use_and_limits(stage: str, said: list[str], unsaid: list[str], tmp_path: Path) -> None:
    text = finished(tmp_path / "r", stage, start="runs/demo/jsft").text
    assert [part for part in said if part not in text] == []
    assert [part for part in unsaid if part in text] == []


def test_rounds_say_how_the_judge_came_out(tmp_path: Path) -> None:
    judge = {"accuracy": proportion(3, 4).model_dump(), "former_agreement": proportion(1, 4).model_dump()}
    rounds = [{"judge": judge}, {"judge": None}]
    text = finished(tmp_path / "r", "train", rounds=rounds).text
    assert table(text, "accuracy after round 1")[1] == str(proportion(3, 4))
    assert "round 2" not in text
    assert "## The judge\n\nOn pairs" in text
    assert "was not measured" not in text


def test_no_folder_address_or_key_is_told(tmp_path: Path) -> None:
    base = tmp_path / "place" / "base"
    base.mkdir(parents=True)
    settings = (
        f"model.path={base}",
        f"data.sources=[{{path: {tmp_path}/place/own.jsonl, subset: x}}, {{path: org/pairs}}]",
        "self_training.judge={kind: external, url: 'https://host.intern:8000/v1', model: org/judge}",
        "jsft.training={logging_dir: /var/log/x, hub_model_id: me/mine}",
        "self_training.start=~/runs/other/jsft",
    )
    run = RunFolder.open(tmp_path / "r", "jsft", load_recipe("demo", list(settings)))
    run.model.mkdir()
    run.update(start=str(base), data={f"{tmp_path}/place/own.jsonl/x": "1" * 64, "org/pairs": "2" * 64})
    run.finish(steps=1)
    card = card_of(run.path)
    content = (run.path / "final" / "README.md").read_text()
    assert not re.search(rf"{tmp_path}|place|host|/var/log|~/runs", content)
    assert table(card.text, "own.jsonl / x")[3] == f"`{'1' * 64}`"
    assert table(card.text, "started from")[1] == "base"
    assert card.data.datasets == ["org/pairs"]
    assert "model: org/judge" in content


def test_a_hub_model_is_named_and_text_cannot_be_markup(tmp_path: Path) -> None:
    settings = (
        "model.path=org/model",
        "name='a|b <script>`x` [y](z)'",
        "jsft.training={run_name: '```\n# not a title'}",
    )
    card = finished(tmp_path / "r", settings=settings)
    assert card.data.base_model == "org/model"
    assert table(card.text, "base model")[1] == "org/model"
    assert "\n# a\\|b \\<script\\>\\`x\\` \\[y\\](z)-jsft\n" in card.text
    assert card.text.count("\n````") == 2  # the block's fence is longer than what is inside


def test_a_card_needs_a_model(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "r", "demo", load_recipe("demo")).finish()
    assert not list((tmp_path / "r").rglob("README.md"))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("org/name", "org/name"),
        ("/home/me/models/m", "m"),
        ("models/me/m/", "m"),
        (r"C:\\models\\m", "m"),
        ("./m.gguf", "m.gguf"),
        ("data/pairs.jsonl", "pairs.jsonl"),
        ("http://host/v1", "(not shown)"),
        ("builtin:world", "builtin:world"),
    ],
)
def test_what_is_shown_of_a_path(path: str, shown: str) -> None:
    assert public_path(path) == shown


def test_a_folder_that_is_here_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("runs/base")
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert not is_hub_id("runs/base")


def test_settings_keep_their_types() -> None:
    settings = {"token_budget": 5, "max_new_tokens": 3, "x": None, "api_key": "k", "list": ["/a/b", True]}
    assert public_settings(settings) == {**settings, "api_key": "(not shown)", "list": ["b", True]}


def test_text_is_one_line() -> None:
    assert markdown_text("a\nb | *c* &lt; $x$") == r"a b \| \*c\* \&lt; \$x\$"


def audit_file(path: Path, model: Path, **more: Any) -> Path:
    findings = {"padding": {"turned": proportion(1, 2).model_dump(), "example": {"response_a": "private"}},
                "names": {"turned": {"rate": None, "low": 0, "high": 1, "n": 0}, "example": None}}  # fmt: skip
    content = {"model": str(model), "input": "p.jsonl", "summary": {"pairs": 2}, "findings": findings, **more}
    path.write_text(json.dumps(content))
    return path


def test_an_audit_is_read_without_its_texts(tmp_path: Path) -> None:
    found = read_audit(audit_file(tmp_path / "a.json", tmp_path / "r" / "final"), of=tmp_path / "r")
    assert found == {"input": "p.jsonl", "pairs": 2, "turned": {"padding": proportion(1, 2).model_dump()}}


def test_what_is_no_audit_of_this_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is the audit of .*other, not of"):
        read_audit(audit_file(tmp_path / "a.json", tmp_path / "other"), of=tmp_path / "r")
    with pytest.raises(DataError, match="is no audit"):
        read_audit(audit_file(tmp_path / "a.json", tmp_path / "r", findings=[]), of=tmp_path / "r")
    with pytest.raises(DataError, match="cannot be read"):
        read_audit(tmp_path / "none.json", of=tmp_path / "r")
