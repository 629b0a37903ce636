"""The page of a study: one self-contained HTML file that says what was found, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from selfjudge.core.statistics import Estimate, Rate
from selfjudge.evaluation.page import Section
from selfjudge.evaluation.plots import Series, line_chart
from selfjudge.study.cells import Cell
from selfjudge.study.curves import Curve, curve_rows, kl_curve
from selfjudge.study.summary import Figures, Summary, answers_of
from selfjudge.study.tune import Tuned

SHOWN_PROMPTS = 4
_GIB = 2**30

Points = dict[int, dict[int, float]]
"""Seed → step → value."""


def sections(found: Summary, cells: Sequence[Cell], tuned: Mapping[str, Tuned]) -> list[Section]:
    """Returns the parts of the page; ``tuned``: what --tune found, if it was asked for."""
    return [
        *([Section("Missing cells", ", ".join(found.missing) + ".")] if found.missing else []),
        *([Section("Learning rates", _TUNING, tuning_table(tuned))] if tuned else []),
        Section("Against the reference", _AGAINST.format(found.reference), _policies(found.policies)),
        *([Section("Claims", _CLAIMS.format(len(found.claims)), _claims(found))] if found.claims else []),
        *([Section("Each against each", _EACH, _matrix(found))] if any(any(row) for row in found.matrix) else []),
        *([Section("Judges", _JUDGES, _judges(found.judges))] if found.judges else []),
        *(_choosing(found) if found.choosing else []),
        *_curves(found.curves, cells),
        Section("Costs of training", _COSTS, _costs(found)),
        *_samples(cells),
    ]


_TUNING = (
    "Score by learning rate in percent, on a seed and on prompts of tasks that are in no result: the win rate against "
    "the reference at the recipe's own rate, of judges their accuracy. All tried the same grid or one as long, and "
    "more beyond an end where the best lay. Seconds are of a processor, for all trainings of a cell."
)
_AGAINST = (
    "How often an answer beats that of {} to the same prompt, both sampled independently; ties count one half. "
    "Intervals are 95 %, over seeds and tasks together."
)
_CLAIMS = (
    "{} claims were tested. A claim holds if the interval of the difference, paired by prompt, over seeds and tasks "
    "together, lies above zero and the mean of every seed does too; it fails if interval and every seed lie below. "
    "“No worse” has its margin in place of zero. Where there is no difference at all, an interval lies above zero by "
    "chance in at most one of forty claims."
)
_EACH = (
    "How often the row beats the column, by the evaluator. Systems that choose among the same candidates are not "
    "independent of each other: between them it is how often one choice is better than the other."
)
_JUDGES = "How often the better one of two answers is preferred; the same pairs for all judges of a seed."
_COSTS = (
    "Processor seconds of training, median over seeds, without measuring; “with start” adds the cells it builds on, "
    "but not the base model. Models are sets of weights held in training. Samples are answers drawn in training, "
    "judgments what was put to a judge or a reward model."
)
_PER_ANSWER = (
    "Win rate of the chosen answer beside what one answer costs. A tournament of N makes 2 (N - 1) judgments, a "
    "best-of-N N of them, so that both are there: as many samples, and as many judgments. Seconds are of a processor."
)


def tuning_table(tuned: Mapping[str, Tuned]) -> list[tuple[object, ...]]:
    """Returns a row for each cell: its score at every rate, the best, and what all of them cost."""
    head = ("", "chosen by", "best rate", "score by rate, %", "seconds")
    return [head, *(_tuning_row(found) for found in tuned.values())]


def _tuning_row(found: Tuned) -> tuple[object, ...]:
    scores = ", ".join(f"{t.rate:g}: {100 * t.score.rate:.1f}" for t in found.tried)
    end = " (the last tried)" if found.at_end else ""
    by = "win rate" if found.by == "answers" else "accuracy"
    return (found.cell, by, f"{found.best.rate:g}{end}", scores, f"{sum(t.seconds for t in found.tried):.0f}")


def _policies(policies: Sequence[Figures]) -> list[tuple[object, ...]]:
    rows = [(f.name, f.rate, _each(f.seeds), _or_none(f.value), _or_none(f.words)) for f in policies]
    return [("", "win rate", "each seed, %", "mean value", "words"), *rows]


def _judges(judges: Sequence[Figures]) -> list[tuple[object, ...]]:
    return [("", "right on", "each seed, %"), *((f.name, f.rate, _each(f.seeds)) for f in judges)]


def _claims(found: Summary) -> list[tuple[object, ...]]:
    rows = [
        (c.claim, c.decision, _or_none(c.difference), ", ".join(f"{100 * x:.1f}" for x in c.seeds.values()))
        for c in found.claims
    ]
    return [("claim", "", "difference", "each seed, points"), *rows]


def _matrix(found: Summary) -> list[tuple[object, ...]]:
    rows = [
        (f"{place}. {policy.name}", *(f"{100 * r.rate:.0f}" if r else "" for r in row))
        for place, (policy, row) in enumerate(zip(found.policies, found.matrix, strict=True), start=1)
    ]
    return [("", *(str(place + 1) for place in range(len(rows)))), *rows]


def _choosing(found: Summary) -> list[Section]:
    series = [
        Series(rule, [*of], *([getattr(f.rate, key) for f in of.values()] for key in ("rate", "low", "high")))
        for rule, of in found.choosing.items()
    ]
    chart = line_chart(series, x="candidates N", y=f"win rate against {found.reference}", level=0.5)
    head = ("", "win rate", "samples", "judgments", "seconds an answer")
    rows = [
        (f.name, f.rate, *((c.samples, c.judgments, f"{c.seconds:.3f}") if (c := found.per_answer.get(f.name)) else ()))
        for of in found.choosing.values()
        for f in of.values()
    ]
    return [Section("Choosing among N", _PER_ANSWER, [head, *rows], [("Win rate of the chosen answer", chart)])]


def _curves(found: Sequence[Curve], cells: Sequence[Cell]) -> list[Section]:
    """Returns one chart for each watched cell, all lengths and KLs together, and who falls."""
    if not found:
        return []
    charts = [(curve.name, _curve_chart(curve)) for curve in found]
    words = [Series(c.name, [p.step for p in c.points], [p.words for p in c.points]) for c in found]
    more = [("Words of an answer", line_chart(words, x="step", y="words"))]
    kls = [_band(c.name, kl) for c in found if any((kl := _kls(cells, c.name)).values())]
    if kls:
        more.append(("KL to the reference", line_chart(kls, x="step", y="nats per response")))
    head = ("", "highest", "at step", "last", "at step", "fall", "the stop rule fires after step, each seed")
    table = [head, *(_curve_row(curve) for curve in found)]
    text = (
        "Win rate against the start, mean over seeds; intervals are of the seeds' means. The highest point is picked "
        "among all, so a fall is on the large side. No run was stopped; the last column says when the recipe's rule, "
        "which sees KL, length and agreement of the policy's own samples, would have."
    )
    return [
        Section("Along the training", text, table, charts),
        Section("Length and KL", "Mean over seeds, of KL the band from the lowest to the highest.", charts=more),
    ]


def _curve_chart(curve: Curve) -> str:
    steps = [point.step for point in curve.points]
    lines = [_line("by the truth", steps, [point.truth for point in curve.points])]
    beliefs = [point.belief for point in curve.points if point.belief is not None]
    if len(beliefs) == len(steps):
        lines.append(_line("in the judge's belief", steps, beliefs))
    return line_chart(lines, x="step", y="win rate against the start", level=0.5, limits=(0.0, 1.0))


def _line(name: str, steps: Sequence[int], values: Sequence[Estimate]) -> Series:
    return Series(name, steps, [v.value for v in values], [v.low for v in values], [v.high for v in values])


def _curve_row(curve: Curve) -> tuple[object, ...]:
    best = next(point for point in curve.points if point.step == curve.peak)
    last = curve.points[-1]
    said = "falls" if curve.falls else "not shown to fall"
    fall = f"{said}, {100 * curve.fall.value:.1f} points [{100 * curve.fall.low:.1f}, {100 * curve.fall.high:.1f}]"
    stops = ", ".join("–" if step is None else str(step) for step in curve.stops.values())
    return (curve.name, best.truth, best.step, last.truth, last.step, "" if best is last else fall, stops)


def _kls(cells: Sequence[Cell], name: str) -> Points:
    seeds = curve_rows(cells, name)
    return {c.seed: kl_curve(c.folder / "run") for c in cells if c.name == name and c.seed in seeds}


def _band(name: str, of_seeds: Points) -> Series:
    """Returns a line of the mean over the seeds that have a step, between their lowest and highest."""
    steps = sorted({step for points in of_seeds.values() for step in points})
    values = [[points[step] for points in of_seeds.values() if step in points] for step in steps]
    return Series(name, steps, [fmean(v) for v in values], [min(v) for v in values], [max(v) for v in values])


def _costs(found: Summary) -> list[tuple[object, ...]]:
    quality = {f.name: f.rate for f in found.policies}
    head = (
        *("", "win rate", "seconds", "with start", "peak memory, GiB", "steps", "stopped early", "models", "samples"),
        "judgments",
    )
    return [
        head,
        *(
            (
                c.name,
                quality.get(c.name, ""),
                f"{c.seconds:.0f}",
                f"{c.with_start:.0f}",
                f"{c.peak_bytes / _GIB:.2f}",
                *("" if x is None else f"{x:,.0f}" for x in (c.steps, c.stopped, c.models, c.samples, c.judgments)),
            )
            for c in found.costs
        ),
    ]


def _samples(cells: Sequence[Cell]) -> list[Section]:
    seed = cells[0].seed if cells else 0
    first = [cell for cell in cells if cell.result.is_file() and cell.seed == seed]
    answers = {name: of[seed] for name, of in answers_of(first).items() if " of " not in name}
    if not answers:
        return []
    rows = [
        [("prompt", one.prompt), *((name, of[i].text) for name, of in answers.items())]
        for i, one in enumerate(next(iter(answers.values()))[:SHOWN_PROMPTS])
    ]
    return [Section("The first prompts", f"Seed {seed}.", examples=rows)]


def _each(seeds: Mapping[int, Rate]) -> str:
    return ", ".join(f"{100 * rate.rate:.1f}" for rate in seeds.values())


def _or_none(value: object | None) -> object:
    return "" if value is None else value
