"""Rows that a chat template refuses, among many that are made together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from selfjudge.errors import RowError

T = TypeVar("T")


def or_error(work: Callable[[], T]) -> T | RowError:
    """Returns what ``work`` returns, or the error with which the chat template refuses the row."""
    try:
        return work()
    except RowError as e:
        return e


def or_raise(found: Sequence[T | RowError]) -> list[T]:
    """Returns what was made. Raises the first error, which then knows its place."""
    made: list[T] = []
    for place, each in enumerate(found):
        if isinstance(each, RowError):
            each.place = place
            raise each
        made.append(each)
    return made
