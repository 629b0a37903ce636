"""Examples that run in seconds do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_format.py"))["main"](tmp_path)
    told = capsys.readouterr().out
    assert "3 rows, 3 pairs; dropped: {'two answers have the most votes': 1}\nnot used: ['team']\n" in told
    assert "trained on {'rows': 3}" in told
    assert (tmp_path / "jsft" / "final" / "model.safetensors").is_file()
