"""The questions about many comparisons, packed, so that all can be checked before the first is asked."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

from selfjudge.judge import Judge, Question
from selfjudge.records import Comparison
from selfjudge.templates.encode import JudgmentPrompt

_TOGETHER = 1024
"""Comparisons that are tokenised together."""


class PackedQuestions:
    """The judge's questions about comparisons. A token takes four bytes, and not some forty.

    ``tokens``: of all questions about each comparison. ``digest``: SHA-256 of all that is asked.
    """

    def __init__(
        self,
        judge: Judge,
        comparisons: Sequence[Comparison],
        check: Callable[[list[Question]], None] | None = None,
    ) -> None:
        """Makes the questions, and gives ``check`` all of them, some at a time.

        Raises:
            DataError: as :meth:`selfjudge.judge.Judge.questions`.
        """
        self._comparisons = comparisons
        self._ids: list[array[int]] = []
        self._asked: list[Question] = []  # about the first comparison: all others are asked the same
        digest = hashlib.sha256()
        for start in range(0, len(comparisons), _TOGETHER):
            questions = judge.questions(comparisons[start : start + _TOGETHER])
            if check:
                check(questions)
            self._asked = self._asked or questions[: 2 * len(judge.encoder.principles)]
            for question in questions:
                ids = array("i", question.prompt.token_ids)
                digest.update(f"{len(ids)} {question.prompt.label_ids} ".encode() + ids.tobytes())
                self._ids.append(ids)
        step = len(self._asked)
        self.tokens = [sum(map(len, self._ids[i : i + step])) for i in range(0, len(self._ids), step)]
        self.digest = digest.hexdigest()

    def of(self, rows: range) -> list[Question]:
        """Returns the questions about these comparisons, as :meth:`selfjudge.judge.Judge.questions` does."""
        return [
            Question(self._comparisons[row], asked.principle, asked.order, self._prompt(row, place))
            for row in rows
            for place, asked in enumerate(self._asked)
        ]

    def _prompt(self, row: int, place: int) -> JudgmentPrompt:
        ids = self._ids[row * len(self._asked) + place]
        return JudgmentPrompt(tuple(ids), self._asked[place].prompt.label_ids)
