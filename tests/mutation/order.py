"""The order of the tests that a mutant is put to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def quickest_first(items: list[pytest.Item], stats: Path = Path("mutmut-stats.json")) -> None:
    """Sorts tests by the time they took when mutmut went through them all: most mutants fall in the first second.

    ``stats`` is mutmut's, which runs the tests in its own folder.
    """
    if stats.is_file():
        seconds = json.loads(stats.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
