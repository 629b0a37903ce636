"""A judge on labelled test sets: as a whole, by subset, and against a second judge on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from selfjudge.core.paired import PairedComparison, compare_paired
from selfjudge.core.verdict import winner_strength
from selfjudge.data.judge_sets import JudgePair
from selfjudge.evaluation.judging import JudgeSummary, agreement_score, prompts_of, summarise
from selfjudge.evaluation.page import Section
from selfjudge.evaluation.plots import reliability_chart
from selfjudge.records import Comparison, Verdict

SHOWN_ERRORS = 6


class JudgeEvaluation(BaseModel):
    """Summaries of one judge, and where there is a second on the same pairs, its summary and the paired test.

    ``paired`` compares the accuracies on the pairs labelled A or B; None without a second judge or without labels.
    ``left_out``: pairs that do not fit the context of a judge. ``subsets``: the first judge's, by name.
    """

    model_config = ConfigDict(frozen=True)

    overall: JudgeSummary
    subsets: dict[str, JudgeSummary]
    left_out: int
    second: JudgeSummary | None = None
    paired: PairedComparison | None = None


@dataclass(frozen=True)
class Judged:
    """Test pairs with the verdicts of one judge, or of two on the same pairs."""

    pairs: Sequence[JudgePair]
    verdicts: Sequence[Verdict]
    against: Sequence[Verdict] | None = None


def evaluate_judge(judged: Judged, left_out: int = 0) -> JudgeEvaluation:
    """Returns the evaluation of a non-empty list of judged pairs."""
    comparisons = [pair.comparison for pair in judged.pairs]
    against = judged.against
    return JudgeEvaluation(
        overall=summarise(comparisons, judged.verdicts),
        subsets=_by_subset(judged),
        left_out=left_out,
        second=None if against is None else summarise(comparisons, against),
        paired=None if against is None else paired_accuracy(comparisons, judged.verdicts, against),
    )


def paired_accuracy(
    comparisons: Sequence[Comparison], first: Sequence[Verdict], second: Sequence[Verdict]
) -> PairedComparison | None:
    """Returns the paired test of two judges' accuracy on the pairs labelled A or B; None without any."""
    rows = [row for row in zip(comparisons, first, second, strict=True) if row[0].label in ("A", "B")]
    if not rows:
        return None
    of_first = [agreement_score(v.preferred, c.label) for c, v, _ in rows]
    of_second = [agreement_score(w.preferred, c.label) for c, _, w in rows]
    return compare_paired(of_first, of_second, prompts_of([c for c, *_ in rows]))


def sections(judged: Judged, evaluation: JudgeEvaluation) -> list[Section]:
    """Returns the parts of the report page."""
    first, second = evaluation.overall, evaluation.second
    table = [("", "judge"), *first.rows()]
    if second is not None:
        other = dict(second.rows())
        table = [("", "judge", "against"), *((name, value, other.get(name, "–")) for name, value in first.rows())]
    found = [Section("All pairs", _PAIRS_TEXT, table, _charts(evaluation))]
    if evaluation.paired:
        found.append(paired_section(evaluation.paired))
    if len(evaluation.subsets) > 1:
        found.append(Section("By subset", table=subset_table(evaluation.subsets)))
    errors = _errors(judged)
    if errors:
        found.append(Section("Where it is surest and wrong", examples=errors))
    return found


_PAIRS_TEXT = (
    "Every rate has its 95 % interval, over prompts. “The longer wins” is what a rule that sees the lengths alone gets "
    "on the same pairs; a judge that knows more shows it where the shorter answer is the right one."
)


def paired_section(paired: PairedComparison) -> Section:
    """Returns the part about two judges on the same rows."""
    rows = [
        ("", ""),
        ("Accuracy of the first minus that of the second", paired.difference),
        ("Pairs on which the first does better", paired.first_better),
        ("Pairs on which the second does better", paired.second_better),
        ("p (exact McNemar test, two-sided)", f"{paired.p_value:.3g}"),
        ("Pairs, prompts", f"{paired.difference.n}, {paired.groups}"),
    ]
    return Section("Both judges on the same pairs", table=rows)


def subset_table(subsets: dict[str, JudgeSummary]) -> list[tuple[object, ...]]:
    """Returns head and one row for each subset."""
    rows: list[tuple[object, ...]] = [
        (
            "subset",
            "pairs",
            "prompts",
            "accuracy",
            "longer wins",
            "shorter is right",
            "orders agree",
            "prefers the first shown",
        )
    ]
    for name, s in subsets.items():
        rated = [rate or "–" for rate in (s.accuracy, s.longer_wins, s.shorter_right)]
        rows.append((name, s.pairs, s.prompts, *rated, s.agreement, s.first_shown_rate))
    return rows


def _by_subset(judged: Judged) -> dict[str, JudgeSummary]:
    rows: dict[str, list[tuple[Comparison, Verdict]]] = {}
    for pair, verdict in zip(judged.pairs, judged.verdicts, strict=True):
        rows.setdefault(pair.subset, []).append((pair.comparison, verdict))
    return {name: summarise(*map(list, zip(*rows[name], strict=True))) for name in sorted(rows)}


def _charts(evaluation: JudgeEvaluation) -> list[tuple[str, str]]:
    named = [("Can its confidence be believed?", evaluation.overall), ("… the second judge's?", evaluation.second)]
    return [(caption, reliability_chart(s.reliability)) for caption, s in named if s and s.reliability]


def _errors(judged: Judged) -> list[list[tuple[str, str]]]:
    wrong = [
        (winner_strength(v.preferred, v.strength), pair, v)
        for pair, v in zip(judged.pairs, judged.verdicts, strict=True)
        if {pair.comparison.label, v.preferred} == {"A", "B"}
    ]
    wrong.sort(key=lambda row: -row[0])
    return [
        [
            (
                f"{pair.subset}, {pair.comparison.id}:",
                f"label {pair.comparison.label}, strength for A {v.strength:.2f}",
            ),
            *((message.role, message.content) for message in pair.comparison.prompt),
            ("A", pair.comparison.response_a),
            ("B", pair.comparison.response_b),
        ]
        for _, pair, v in wrong[:SHOWN_ERRORS]
    ]
