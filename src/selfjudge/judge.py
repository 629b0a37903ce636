"""The judge: templates + engine. Pairs in, Verdicts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from selfjudge.core.verdict import combine, principle_verdict
from selfjudge.engines.base import Engine, Progress, SamplingParams
from selfjudge.errors import DataError, RowError
from selfjudge.records import Comparison, LabelProbabilities, Message, OrderProbabilities, PrincipleVerdict, Verdict
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt

Order = Literal["AB", "BA"]
_ORDERS: tuple[Order, Order] = ("AB", "BA")


@dataclass(frozen=True)
class Question:
    """One judgment prompt: a comparison in one order under one principle."""

    comparison: Comparison
    principle: str
    order: Order
    prompt: JudgmentPrompt


class Judge:
    """Compares responses in both orders, under every principle of its template set."""

    def __init__(self, engine: Engine, encoder: JudgmentEncoder) -> None:
        """Takes an engine and the encoder of the same model's tokenizer."""
        self.engine = engine
        self.encoder = encoder

    def questions(self, comparisons: Sequence[Comparison]) -> list[Question]:
        """Returns the exact prompts that :meth:`judge` puts to the engine.

        Raises:
            DataError: if a prompt is longer than the model's context; the comparison is named.
        """
        questions = [question for asked in self._questions(comparisons) for question in asked]
        for question in questions:
            if len(question.prompt.token_ids) >= self.engine.max_length:
                raise DataError(
                    f"Row {question.comparison.id!r}: its judgment prompt has {len(question.prompt.token_ids)} tokens, "
                    f"the model takes {self.engine.max_length}: shorten or remove the row."
                )
        return questions

    def fitting(self, comparisons: Sequence[Comparison]) -> list[list[Question]]:
        """Returns each comparison's :meth:`questions`, or none where the model cannot be asked them.

        That is where one of them is longer than the model's context, or is refused by its chat template.
        """
        try:
            found = self._questions(comparisons)
        except DataError:
            found = [self._if_rendered(comparison) for comparison in comparisons]
        return [asked if asked and _longest(asked) < self.engine.max_length else [] for asked in found]

    def fits(self, comparison: Comparison) -> bool:
        """Returns whether every judgment prompt of the pair fits the model's context."""
        return bool(self.fitting([comparison])[0])

    def longest_prompt(self, comparison: Comparison) -> int:
        """Returns the tokens of the pair's longest judgment prompt."""
        return self.longest_prompts([comparison])[0]

    def longest_prompts(self, comparisons: Sequence[Comparison]) -> list[int]:
        """Returns :meth:`longest_prompt` of each pair; many at once take less time."""
        return [_longest(asked) for asked in self._questions(comparisons)]

    def room(self, prompt: tuple[Message, ...]) -> int:
        """Returns how many tokens each of two responses to a prompt may have to fit the model's context together."""
        # Empty responses make the same prompt in both orders.
        longest = max(len(encoder.prompt(prompt, "", "").token_ids) for encoder in self.encoder.principles.values())
        return (self.engine.max_length - 1 - longest) // 2

    def judge(self, comparisons: Sequence[Comparison], progress: Progress | None = None) -> list[Verdict]:
        """Returns one verdict per comparison, in their order.

        Raises:
            DataError: as :meth:`questions`.
        """
        return self.verdicts(self.questions(comparisons), progress)

    def verdicts(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Verdict]:
        """Puts the output of :meth:`questions` to the engine and returns one verdict per comparison."""
        return self.read(self.engine.label_probabilities([q.prompt for q in questions], progress))

    def read(self, p: NDArray[np.float64]) -> list[Verdict]:
        """Returns one verdict per comparison from the label probabilities, [n, 2], of :meth:`questions`."""
        labels = [LabelProbabilities(A=float(a), B=float(b)) for a, b in p]
        names = list(self.encoder.principles)
        step = 2 * len(names)
        return [
            combine([_verdict(name, labels[i + 2 * j : i + 2 * j + 2]) for j, name in enumerate(names)])
            for i in range(0, len(labels), step)
        ]

    def rationales(
        self,
        questions: Sequence[Question],
        verdicts: Sequence[Verdict],
        max_new_tokens: int,
        progress: Progress | None = None,
    ) -> list[dict[str, str]]:
        """Returns why, for each verdict: principle → what the model goes on with after the decision, greedily.

        A is the first response in it. Ties, where nothing was decided, and principles whose template has no rationale
        are left out.

        Args:
            questions: the output of :meth:`questions`.
            verdicts: that of :meth:`verdicts` on them.
            max_new_tokens: tokens of a rationale at most.
            progress: called with the number of rationales just finished.
        """
        step = 2 * len(self.encoder.principles)
        asked = [
            (i, p.principle, (*q.prompt.token_ids, q.prompt.label_ids["AB".index(p.preferred)]))
            for i, verdict in enumerate(verdicts)
            for q, p in zip(questions[i * step : (i + 1) * step : 2], verdict.principles, strict=True)
            if p.preferred != "tie" and self.encoder.principles[p.principle].template.rationale
        ]
        params = SamplingParams(temperature=0, max_new_tokens=max_new_tokens)
        drawn = self.engine.sample([ids for *_, ids in asked], params, progress)
        found: list[dict[str, str]] = [{} for _ in verdicts]
        for (i, principle, _), (completion,) in zip(asked, drawn, strict=True):
            found[i][principle] = completion.text.strip()
        return found

    def compare(self, prompt: str | Sequence[Message], response_a: str, response_b: str) -> Verdict:
        """Returns the verdict on one pair; ``prompt`` is an instruction or a dialogue that ends with the user."""
        comparison = Comparison(id="0", prompt=as_messages(prompt), response_a=response_a, response_b=response_b)
        return self.judge([comparison])[0]

    def _if_rendered(self, comparison: Comparison) -> list[Question]:
        """Returns the questions of a comparison, or none where the chat template refuses one."""
        try:
            return self._questions([comparison])[0]
        except DataError:
            return []

    def _questions(self, comparisons: Sequence[Comparison]) -> list[list[Question]]:
        """Returns the questions of each comparison. Raises DataError where the chat template refuses one."""
        asked = [(c, name, order) for c in comparisons for name in self.encoder.principles for order in _ORDERS]
        step = 2 * len(self.encoder.principles)
        try:
            prompts = self.encoder.prompts([(c.prompt, c.response_a, c.response_b) for c in comparisons])
        except RowError as e:
            raise DataError(f"Row {comparisons[e.place // step].id!r}: {e}: remove it.") from e
        questions = [Question(*which, prompt) for which, prompt in zip(asked, prompts, strict=True)]
        return [questions[i : i + step] for i in range(0, len(questions), step)]


def _longest(questions: Sequence[Question]) -> int:
    return max(len(question.prompt.token_ids) for question in questions)


def as_messages(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
    """Returns a prompt as messages: a text is one user turn."""
    return (Message(role="user", content=prompt),) if isinstance(prompt, str) else tuple(prompt)


def _verdict(principle: str, labels: Sequence[LabelProbabilities]) -> PrincipleVerdict:
    ab, ba = labels
    return principle_verdict(principle, OrderProbabilities(AB=ab, BA=ba))
