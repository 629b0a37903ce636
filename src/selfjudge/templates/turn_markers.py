"""What a chat template writes around turns in plain text, which a response could write to end its own turn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from selfjudge.templates.tokens import is_marker


@dataclass(frozen=True)
class TurnMarkers:
    """What a chat template writes around turns in plain text, such as ``### User:`` or ``[/INST]``.

    ``lines`` stand on lines of their own, ``inline`` ones beside a turn's text. Empty where special tokens mark turns.
    """

    lines: tuple[str, ...]
    inline: tuple[str, ...]


def turn_markers(around_turns: Iterable[str], structure: re.Pattern[str]) -> TurnMarkers:
    """Returns what a response could write to look like the end of its turn.

    Args:
        around_turns: what the template writes after each turn, up to the next one's text.
        structure: the strings that are special tokens.
    """
    lines: dict[str, None] = {}
    inline: dict[str, None] = {}
    for border in around_turns:
        for text in structure.split(border):
            rows = text.split("\n")
            for i, row in enumerate(map(str.strip, rows)):
                if is_marker(row):
                    (lines if 0 < i < len(rows) - 1 else inline)[row] = None
    return TurnMarkers(tuple(lines), tuple(inline))
