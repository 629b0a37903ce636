"""The check of foreign templates finds ours right, and finds fault with an encoder that is broken on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_templates import TEMPLATES
from models.template_sweep import Found, check_template, table
from test_turn_forms import spelling

from selfjudge.templates import chat
from selfjudge.templates.turn_form import TurnForm


def check(name: str, folder: Path) -> Found:
    path = folder / "one.jinja"
    path.write_text(TEMPLATES[name], encoding="utf-8")
    return check_template(path, spelling(""))


@pytest.mark.parametrize("name", TEMPLATES)
def test_ours_are_right(name: str, tmp_path: Path) -> None:
    found = check(name, tmp_path)
    assert (found.verdict, found.reason) == ("ok", "")


def test_a_template_that_refuses_is_no_wrong_one(tmp_path: Path) -> None:
    path = tmp_path / "one.jinja"
    path.write_text("{{- raise_exception('tools are missing') }}", encoding="utf-8")
    found = check_template(path, spelling(""))
    assert found.verdict == "refused"
    assert "tools are missing" in found.reason
    assert table([found]).startswith("| template | verdict | reason |")
    assert "| one.jinja | refused | " in table([found])


@pytest.mark.parametrize(
    ("name", "end", "reason"),
    [
        # The first special token alone.
        ("two tokens end", "<|/response|>", "turn 0: the end lacks ['<|/turn|>']"),
        ("close tags", "<|close|>", "turn 0: the end goes on: 'response<|sep|><|close|>message<|sep|><|end_of_msg|>'"),
        # Nothing, and the tokenizer's end token in its place.
        ("chatml", "", "turn 0: the last turn has an end: '<|im_end|>"),
        ("next role ends", "", r"turn 0: '<|user|>'"),
        # Into what comes after it.
        ("chatml", "<|im_end|>\n<|im_start|>", "turn 0: the last turn ends otherwise"),
        ("next role ends", "<|user|><|assistant|>", "turn 0: the end is made up"),
        # That of another place.
        ("channels", "<|end|>", "turn 0: the last turn ends otherwise: '<|return|>'"),
        ("end in the middle only", "<|user|>", "turn 0: the end is made up"),
    ],
)
def test_wrong_ends_are_found(
    name: str, end: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = chat.find_form

    def broken(*args: object) -> TurnForm:
        form = real(*args)  # type: ignore[arg-type]
        return TurnForm(form.lead, form.space, end, form.strips)

    monkeypatch.setattr(chat, "find_form", broken)
    found = check(name, tmp_path)
    assert found.verdict == "wrong"
    assert found.reason.startswith(reason)


def test_a_wrong_prompt_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = chat.find_form

    def broken(*args: object) -> TurnForm:
        form = real(*args)  # type: ignore[arg-type]
        return TurnForm("Sure: ", form.space, form.end, form.strips)

    monkeypatch.setattr(chat, "find_form", broken)
    found = check("chatml", tmp_path)
    assert found.reason.startswith("turn 0: the answer stands behind other text than in the dialogue: ")
