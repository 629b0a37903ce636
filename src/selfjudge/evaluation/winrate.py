"""Two systems on the same prompts: win rate, the same at equal length, and what their answers are like."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from selfjudge.core.bootstrap import bootstrap_mean, bootstrap_rate
from selfjudge.core.length_control import equal_length, length_controlled
from selfjudge.core.statistics import Estimate, Rate, mean_rate, proportion
from selfjudge.data.eval_prompts import EvalPrompt
from selfjudge.evaluation.evaluators import Scored
from selfjudge.evaluation.page import Section
from selfjudge.records import Comparison

NGRAM = 4
SHOWN_EXAMPLES = 6
LITTLE_OVERLAP = 0.1
"""Where the shorter system has the longer answer on fewer prompts than this, the lengths hardly overlap."""

EXTRAPOLATED = "lengths hardly overlap: rates at equal length are extrapolated, and can be several points off"

LENGTH_NOTE = (
    "At equal length, our estimate: a regression on the difference in length, held back because it knows nothing of "
    "the difficulty of a prompt. It can be several points too high for the shorter system where that system writes "
    "less on the hard prompts, and too low where length alone decides. Length-controlled: the regression of "
    "AlpacaEval 2, with the given difficulties."
)


class Texts(BaseModel):
    """What a system's answers are like. ``characters``: mean length with its interval over prompts.

    ``repetition``: share of an answer's 4-grams of words that repeat an earlier one of it (the seq-rep-4 of Welleck et
    al. 2020, over words), mean over answers. ``empty``: answers without text.
    """

    model_config = ConfigDict(frozen=True)

    characters: Estimate
    repetition: Estimate
    empty: int


class WinRate(BaseModel):
    """How often a beats b, for one answer of each to a prompt, drawn independently; intervals over prompts, ties count
    one half.

    ``equal_length``: our estimate of the win rate at equal length. ``length_controlled``: AlpacaEval 2's
    length-controlled win rate; None without the difficulties of the prompts. ``longer_a``: share of prompts on which
    a's answer is the longer; equal lengths count one half. ``agreement``: of the prompts with different answers those
    on which both orders say the same; None of an evaluator that does not see an order. ``value_a``, ``value_b``: what
    the evaluator finds each side worth by itself (utility, reward); None of a judge. ``pass_a``, ``pass_b``: the share
    of answers that pass a checker; None of other evaluators.
    """

    model_config = ConfigDict(frozen=True)

    n: int
    win_rate: Rate
    equal_length: Rate
    length_controlled: Rate | None
    longer_a: Rate
    wins: int
    ties: int
    losses: int
    agreement: Rate | None
    value_a: Estimate | None
    value_b: Estimate | None
    pass_a: Rate | None
    pass_b: Rate | None
    texts_a: Texts
    texts_b: Texts

    @property
    def extrapolated(self) -> bool:
        """Whether one system nearly always writes more, so that no prompt shows how they do at equal length."""
        return not LITTLE_OVERLAP <= self.longer_a.rate <= 1 - LITTLE_OVERLAP

    def rows(self) -> list[tuple[str, object]]:
        """Returns name and value for a table."""
        return [
            ("Prompts", self.n),
            ("Win rate of a", self.win_rate),
            ("… at equal length, our estimate", self.equal_length),
            *([("… length-controlled, AlpacaEval 2", self.length_controlled)] if self.length_controlled else []),
            ("a is the longer", self.longer_a),
            *([("Caution", EXTRAPOLATED)] if self.extrapolated else []),
            ("Wins, ties, losses", f"{self.wins}, {self.ties}, {self.losses}"),
            *([("Both orders agree", self.agreement)] if self.agreement else []),
            *([("Value of a", self.value_a), ("Value of b", self.value_b)] if self.value_a else []),
            *([("Pass rate of a", self.pass_a), ("Pass rate of b", self.pass_b)] if self.pass_a else []),
            ("Characters, a", whole_number(self.texts_a.characters)),
            ("Characters, b", whole_number(self.texts_b.characters)),
            ("Repeated 4-grams, a", self.texts_a.repetition),
            ("Repeated 4-grams, b", self.texts_b.repetition),
            ("Empty answers, a and b", f"{self.texts_a.empty}, {self.texts_b.empty}"),
        ]


def pairs_of(prompts: Sequence[EvalPrompt], a: Sequence[str], b: Sequence[str]) -> list[Comparison]:
    """Returns each prompt with both answers."""
    return [
        Comparison(id=p.id, prompt=p.prompt, response_a=x, response_b=y) for p, x, y in zip(prompts, a, b, strict=True)
    ]


def win_rate(
    pairs: Sequence[Comparison], scored: Sequence[Scored], difficulties: Sequence[float] | None = None
) -> WinRate:
    """Returns the win rate of a non-empty list of scored pairs, one for each prompt.

    ``difficulties``: AlpacaEval's, of the same prompts; they add its length-controlled win rate.
    """
    scores = [s.score for s in scored]
    orders = [s.agree for s in scored if s.agree is not None]
    values = [s.values for s in scored if s.values is not None]
    passed = [s.passed for s in scored if s.passed is not None]
    lengths = [(len(c.response_a), len(c.response_b)) for c in pairs]
    return WinRate(
        n=len(pairs),
        win_rate=bootstrap_rate(scores),
        equal_length=equal_length(scores, lengths),
        length_controlled=length_controlled(scores, lengths, difficulties) if difficulties is not None else None,
        longer_a=mean_rate([0.5 * ((a > b) + (a >= b)) for a, b in lengths]),
        wins=sum(s > 0.5 for s in scores),
        ties=sum(s == 0.5 for s in scores),
        losses=sum(s < 0.5 for s in scores),
        agreement=proportion(sum(orders), len(orders)) if orders else None,
        value_a=bootstrap_mean([a for a, _ in values]) if values else None,
        value_b=bootstrap_mean([b for _, b in values]) if values else None,
        pass_a=proportion(sum(a for a, _ in passed), len(passed)) if passed else None,
        pass_b=proportion(sum(b for _, b in passed), len(passed)) if passed else None,
        texts_a=texts_of([c.response_a for c in pairs]),
        texts_b=texts_of([c.response_b for c in pairs]),
    )


def repeated_ngrams(text: str) -> float:
    """Returns the share of the text's 4-grams of words that repeat an earlier one, 0 where it has fewer words."""
    words = text.split()
    ngrams = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def texts_of(answers: Sequence[str]) -> Texts:
    """Returns what a system's answers are like, one to each prompt."""
    return Texts(
        characters=bootstrap_mean([float(len(text)) for text in answers]),
        repetition=bootstrap_mean([repeated_ngrams(text) for text in answers]),
        empty=sum(not text.strip() for text in answers),
    )


def sections(found: WinRate, pairs: Sequence[Comparison], scored: Sequence[Scored]) -> list[Section]:
    """Returns the parts of the report page: the figures, and the first prompts with both answers."""
    text = f"Intervals are 95 %, over prompts. {LENGTH_NOTE}"
    examples = [
        [
            (f"{c.id}:", f"score of a {s.score:g}"),
            *((message.role, message.content) for message in c.prompt),
            ("a", c.response_a),
            ("b", c.response_b),
        ]
        for c, s in zip(pairs[:SHOWN_EXAMPLES], scored, strict=False)
    ]
    return [
        Section("Does a beat b?", text, [("", ""), *found.rows()]),
        Section("The first prompts", examples=examples),
    ]


def whole_number(estimate: Estimate) -> str:
    """Formats as ``421 [383, 459]``."""
    return f"{estimate.value:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]"
