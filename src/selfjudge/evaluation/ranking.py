"""Two or more systems on the same prompts by one evaluator: their ranking, every pair's win rate, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel, ConfigDict

from selfjudge.core.bootstrap import bootstrap_mean, bootstrap_rate
from selfjudge.core.ranking import Outcome, Ranked, rank_systems
from selfjudge.core.statistics import Estimate, Rate, proportion
from selfjudge.data.eval_prompts import EvalPrompt
from selfjudge.evaluation.evaluators import Evaluator, Scored
from selfjudge.evaluation.page import Section
from selfjudge.evaluation.winrate import SHOWN_EXAMPLES, Texts, pairs_of, texts_of, whole_number


class RankedSystem(Ranked):
    """A system's place, and what its answers are like.

    ``value``: what the evaluator finds its answers worth by themselves (utility, reward). ``pass_rate``: the share of
    them that pass a checker. Each is None of other evaluators.
    """

    value: Estimate | None
    pass_rate: Rate | None
    texts: Texts


class SystemsRanking(BaseModel):
    """The ranking of systems; intervals over prompts.

    ``systems``: the best first. ``rates``: how often the system of the row beats that of the column, in the same order;
    None on the diagonal. ``agreement``: how often both orders of two different answers say the same; None of an
    evaluator that does not see an order.
    """

    model_config = ConfigDict(frozen=True)

    n: int
    systems: tuple[RankedSystem, ...]
    rates: tuple[tuple[Rate | None, ...], ...]
    agreement: Rate | None

    def table(self) -> list[list[str]]:
        """Returns the systems with their head; figures that the evaluator does not give are left out."""
        columns = [
            ("System", [s.name for s in self.systems]),
            ("Rank", [str(s.rank) for s in self.systems]),
            ("Score", [f"{s.score:+.2f} [{s.low:+.2f}, {s.high:+.2f}]" for s in self.systems]),
            ("Value", [str(s.value or "") for s in self.systems]),
            ("Pass rate", [str(s.pass_rate or "") for s in self.systems]),
            ("Characters", [whole_number(s.texts.characters) for s in self.systems]),
        ]
        return [list(row) for row in zip(*([name, *cells] for name, cells in columns if any(cells)), strict=True)]

    def pairs(self) -> list[tuple[str, object]]:
        """Returns the win rate of every system over each that is ranked below it, for a table."""
        return [
            (f"{better.name} beats {worse.name}", self.rates[i][j])
            for (i, better), (j, worse) in combinations(enumerate(self.systems), 2)
        ]

    def matrix(self) -> list[list[str]]:
        """Returns the win rates with their head."""
        names = [s.name for s in self.systems]
        rows = zip(names, self.rates, strict=True)
        return [["beats", *names], *([name, *(str(r or "") for r in row)] for name, row in rows)]


def rank(prompts: Sequence[EvalPrompt], answers: Mapping[str, Sequence[str]], evaluate: Evaluator) -> SystemsRanking:
    """Ranks the systems by the comparison of each two of them on every prompt.

    ``answers``: of each system one to each prompt.

    Raises:
        MissingExtraError: if evalica is not installed.
    """
    names = list(combinations(answers, 2))
    # All in one call: a judge fills its batches, and a value is asked for once.
    pairs = [pair for a, b in names for pair in pairs_of(prompts, answers[a], answers[b])]
    scored = evaluate(pairs)
    n = len(prompts)
    met = {pair: scored[i * n : (i + 1) * n] for i, pair in enumerate(names)}
    found = rank_systems(Outcome(str(i), a, b, s.score) for (a, b), by in met.items() for i, s in enumerate(by))
    return SystemsRanking(
        n=n,
        systems=tuple(_with_answers(place, met, answers[place.name]) for place in found.systems),
        rates=found.rates,
        agreement=_agreement(list(met.values())),
    )


def sections(
    found: SystemsRanking, prompts: Sequence[EvalPrompt], answers: Mapping[str, Sequence[str]]
) -> list[Section]:
    """Returns the parts of the report page: the ranking, the matrix, and the first prompts with all answers."""
    ranking = (
        "Scores are Bradley-Terry's, in log-odds, of mean 0: a lead of 1 wins 73 % of the comparisons, one of 2 wins "
        "88 %. Intervals are 95 %, over prompts."
    )
    matrix = (
        "How often the system of the row beats that of the column. Where the interval holds 50 %, either may be better."
    )
    if found.agreement:
        matrix += f" Both orders of two answers agree: {found.agreement}."
    examples = [
        [
            (f"{p.id}:", ""),
            *((message.role, message.content) for message in p.prompt),
            *((s.name, answers[s.name][i]) for s in found.systems),
        ]
        for i, p in enumerate(prompts[:SHOWN_EXAMPLES])
    ]
    return [
        Section("Which is best?", ranking, _narrow(found.table())),
        Section("Each against each", matrix, _narrow(found.matrix())),
        Section("The first prompts", examples=examples),
    ]


def _narrow(table: Sequence[Sequence[str]]) -> list[list[str]]:
    """Puts intervals on a line of their own, for the width of a phone, and keeps figures from being broken further."""
    head, *rows = table
    return [
        [*head],
        *([name, *(c.replace(" [", "\n[").replace(" ", "\u00a0") for c in cells)] for name, *cells in rows),
    ]


def _with_answers(
    place: Ranked, met: Mapping[tuple[str, str], Sequence[Scored]], answers: Sequence[str]
) -> RankedSystem:
    """Adds what the evaluator says of a system by itself, which it says in each of its comparisons alike."""
    pair = next(pair for pair in met if place.name in pair)
    side = pair.index(place.name)
    values = [s.values[side] for s in met[pair] if s.values]
    passed = [s.passed[side] for s in met[pair] if s.passed]
    return RankedSystem(
        **place.model_dump(),
        value=bootstrap_mean(values) if values else None,
        pass_rate=proportion(sum(passed), len(passed)) if passed else None,
        texts=texts_of(answers),
    )


def _agreement(met: Sequence[Sequence[Scored]]) -> Rate | None:
    # The comparisons on a prompt share it, so that their mean is one case.
    by_prompt = [[s.agree for s in on_prompt if s.agree is not None] for on_prompt in zip(*met, strict=True)]
    means = [float(np.mean(agree)) for agree in by_prompt if agree]
    return bootstrap_rate(means) if means else None
