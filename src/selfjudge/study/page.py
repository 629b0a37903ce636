"""The page of a study: one self-contained HTML file that says what was found, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from selfjudge.core.ranking import Ranking
from selfjudge.evaluation.page import Section
from selfjudge.evaluation.plots import Series, line_chart
from selfjudge.study.cells import Cell
from selfjudge.study.summary import Figures, Summary, answers_of, curves, kl_curve

SHOWN_PROMPTS = 4
_GIB = 2**30

Points = dict[int, dict[int, float]]
"""Seed → step → value."""


def sections(found: Summary, cells: Sequence[Cell]) -> list[Section]:
    """Returns the parts of the page."""
    return [
        *([Section("Missing cells", ", ".join(found.missing) + ".")] if found.missing else []),
        Section("Against the reference", _AGAINST.format(found.reference), _policies(found.policies)),
        *([Section("Claims", _CLAIMS, _claims(found))] if found.claims else []),
        *([Section("Each against each", _EACH, _matrix(found.ranking))] if found.ranking else []),
        *([Section("Judges", _JUDGES, _judges(found.judges))] if found.judges else []),
        *([_choosing(found)] if found.choosing else []),
        *_curves(cells),
        Section("Costs", _COSTS, _costs(found)),
        *_samples(cells),
    ]


_AGAINST = (
    "How often an answer beats that of {} to the same prompt; ties count one half. Intervals are 95 %, over the "
    "prompts of all seeds; seeds vary more than that, so each is shown."
)
_CLAIMS = (
    "A claim holds if the difference is above zero on every seed and its interval, paired over the prompts of all "
    "seeds, is too; it fails if the interval lies below zero."
)
_EACH = "How often the row beats the column, by the evaluator; rows in the order of their Bradley-Terry scores."
_JUDGES = "How often the better one of two answers is preferred; the same pairs for all judges of a seed."
_COSTS = (
    "Seconds of training on this machine, median over seeds, without measuring. Models are sets of weights held in "
    "training. Samples are answers drawn in training, judgments what was put to a judge or a reward model."
)


def _policies(policies: Sequence[Figures]) -> list[tuple[object, ...]]:
    rows = [(f.name, f.rate, _each(f.seeds), _or_none(f.value), _or_none(f.words)) for f in policies]
    return [("", "win rate", "each seed, %", "mean value", "words"), *rows]


def _judges(judges: Sequence[Figures]) -> list[tuple[object, ...]]:
    return [("", "right on", "each seed, %"), *((f.name, f.rate, _each(f.seeds)) for f in judges)]


def _claims(found: Summary) -> list[tuple[object, ...]]:
    rows = [(c.claim, c.decision, _or_none(c.difference), _each(c.seeds)) for c in found.claims]
    return [("claim", "", "difference", "each seed, points"), *rows]


def _matrix(ranking: Ranking) -> list[tuple[object, ...]]:
    rows = [
        (
            f"{s.rank}. {s.name}",
            f"{s.score:+.2f} [{s.low:+.2f}, {s.high:+.2f}]",
            *(f"{100 * r.rate:.0f}" if r else "" for r in row),
        )
        for s, row in zip(ranking.systems, ranking.rates, strict=True)
    ]
    return [("", "score", *(str(s.rank) for s in ranking.systems)), *rows]


def _choosing(found: Summary) -> Section:
    series = [
        Series(rule, [*of], *([getattr(f.rate, key) for f in of.values()] for key in ("rate", "low", "high")))
        for rule, of in found.choosing.items()
    ]
    chart = line_chart(series, x="candidates N", y=f"win rate against {found.reference}", level=0.5)
    ns = [*next(iter(found.choosing.values()))]
    table = [
        ("", *(f"N = {n}" for n in ns)),
        *((rule, *(f.rate for f in of.values())) for rule, of in found.choosing.items()),
    ]
    return Section("Choosing among N", "", table, [("Win rate of the chosen answer", chart)])


def _curves(cells: Sequence[Cell]) -> list[Section]:
    """Returns one chart for each watched cell, and all lengths and KLs together."""
    charts, words, kls = [], [], []
    for name in dict.fromkeys(cell.name for cell in cells):
        found = curves(cells, name)
        if not found:
            continue
        lines = [_band("by the truth", _points(found, "truth"))]
        if all(row["belief"] for rows in found.values() for row in rows):
            lines.append(_band("in the judge's belief", _points(found, "belief")))
        charts.append((name, line_chart(lines, x="step", y="win rate against the start", level=0.5, limits=(0.0, 1.0))))
        words.append(_band(name, {seed: {row["step"]: row["words"] for row in rows} for seed, rows in found.items()}))
        kl = {cell.seed: kl_curve(cell.folder / "run") for cell in cells if cell.name == name and cell.seed in found}
        if any(kl.values()):
            kls.append(_band(name, kl))
    if not charts:
        return []
    more = [("Words of an answer", line_chart(words, x="step", y="words"))]
    if kls:
        more.append(("KL to the reference", line_chart(kls, x="step", y="nats per response")))
    text = "Mean over seeds, the band from the lowest to the highest; a seed that stopped early ends there."
    return [Section("Along the training", text, charts=charts), Section("Length and KL", text, charts=more)]


def _points(found: dict[int, list[dict[str, dict[str, float]]]], key: str) -> Points:
    return {seed: {int(row["step"]): row[key]["rate"] for row in rows} for seed, rows in found.items()}  # type: ignore[call-overload]


def _band(name: str, of_seeds: Points) -> Series:
    """Returns a line of the mean over the seeds that have a step, between their lowest and highest."""
    steps = sorted({step for points in of_seeds.values() for step in points})
    values = [[points[step] for points in of_seeds.values() if step in points] for step in steps]
    return Series(name, steps, [fmean(v) for v in values], [min(v) for v in values], [max(v) for v in values])


def _costs(found: Summary) -> list[tuple[object, ...]]:
    head = ("", "seconds", "peak memory, GiB", "steps", "stopped early", "models", "samples", "judgments")
    return [
        head,
        *(
            (
                c.name,
                f"{c.seconds:.0f}",
                f"{c.peak_bytes / _GIB:.2f}",
                *("" if x is None else f"{x:,.0f}" for x in (c.steps, c.stopped, c.models, c.samples, c.judgments)),
            )
            for c in found.costs
        ),
    ]


def _samples(cells: Sequence[Cell]) -> list[Section]:
    first = [cell for cell in cells if cell.result.is_file() and cell.seed == cells[0].seed]
    answers = {name: of[cells[0].seed] for name, of in answers_of(first).items() if " of " not in name}
    if not answers:
        return []
    rows = [
        [("prompt", one.prompt), *((name, of[i].text) for name, of in answers.items())]
        for i, one in enumerate(next(iter(answers.values()))[:SHOWN_PROMPTS])
    ]
    return [Section("The first prompts", f"Seed {cells[0].seed}.", examples=rows)]


def _each(seeds: dict[int, float]) -> str:
    return ", ".join(f"{100 * rate:.1f}" for rate in seeds.values())


def _or_none(value: object | None) -> object:
    return "" if value is None else value
