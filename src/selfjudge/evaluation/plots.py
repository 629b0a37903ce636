"""Charts as inline SVG, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selfjudge.core.statistics import ReliabilityBin

COLOURS = ("#2563eb", "#dc2626", "#059669", "#9333ea", "#d97706", "#0891b2", "#4b5563", "#be185d")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "selfjudge",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#9ca3af",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Series:
    """One line of a chart, with an optional band around it; ``dashed`` for what was not measured."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())
    dashed: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    level: float | None = None,
    marker: tuple[float, str] | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Returns a line chart; ``level`` draws a horizontal line, ``marker`` a named vertical one."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(x, y)
        for i, line in enumerate(series):
            # Colours come again, with another stroke.
            style, colour = "--" if line.dashed else "-" if i < len(COLOURS) else ":", COLOURS[i % len(COLOURS)]
            axes.plot(line.x, line.y, style, color=colour, label=line.name, linewidth=1.8)
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        if level is not None:
            axes.axhline(level, color="#6b7280", linewidth=1, linestyle=":")
        if marker is not None:
            axes.axvline(marker[0], color="#111827", linewidth=1, linestyle="--")
            axes.annotate(
                marker[1],
                (marker[0], 0.02),
                xycoords=("data", "axes fraction"),
                rotation=90,
                fontsize=8,
                xytext=(3, 0),
                textcoords="offset points",
            )
        if limits is not None:
            axes.set_ylim(limits)
        if len(series) > 4:
            # Too many names to find a place for among the lines.
            figure.set_figheight(4)
            figure.legend(loc="outside lower center", ncols=3, fontsize=9)
        elif len(series) > 1:
            axes.legend(loc="best", fontsize=9)
        return _svg(figure)


def reliability_chart(bins: Sequence[ReliabilityBin]) -> str:
    """Returns a reliability diagram: stated confidence against observed accuracy, with intervals."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("the judge's confidence", "how often it is right")
        axes.plot([0.5, 1], [0.5, 1], color="#6b7280", linewidth=1, linestyle=":")
        for b in bins:
            axes.vlines(b.confidence, b.accuracy.low, b.accuracy.high, color=COLOURS[0], linewidth=1.2)
            axes.annotate(f"n={b.accuracy.n}", (b.confidence, b.accuracy.low), ha="center", va="top", fontsize=8)
        axes.plot([b.confidence for b in bins], [b.accuracy.rate for b in bins], "o-", color=COLOURS[0])
        axes.set_xlim(min([0.48, *(b.confidence - 0.02 for b in bins)]), 1.02)
        axes.set_ylim(min([0.3, *(b.accuracy.low - 0.02 for b in bins)]), 1.02)
        return _svg(figure)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
