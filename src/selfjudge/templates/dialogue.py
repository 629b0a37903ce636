"""Dialogues as token ids: their turns, and the rows that are made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenizedDialogue:
    """A dialogue as ids; ``is_target[i]`` says whether token i belongs to an assistant turn (its end included)."""

    ids: tuple[int, ...]
    is_target: tuple[bool, ...]


@dataclass(frozen=True)
class Turn:
    """One assistant turn: the ids that the model sees when it answers, and those of the answer with its end."""

    prompt: list[int]
    answer: list[int]


def merged(turns: Iterable[Turn]) -> list[TokenizedDialogue]:
    """Returns the turns of a dialogue in as few rows as can be."""
    rows: list[tuple[list[int], list[bool]]] = []
    for turn in turns:
        ids, is_target = rows.pop() if rows and turn.prompt[: len(rows[-1][0])] == rows[-1][0] else ([], [])
        is_target = [*is_target, *[False] * (len(turn.prompt) - len(ids)), *[True] * len(turn.answer)]
        rows.append(([*turn.prompt, *turn.answer], is_target))
    return [TokenizedDialogue(ids=tuple(ids), is_target=tuple(is_target)) for ids, is_target in rows]
