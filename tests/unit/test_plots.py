"""Charts show what they were given."""

import pytest
from matplotlib.figure import Figure

from selfjudge.core.statistics import ReliabilityBin, proportion
from selfjudge.evaluation import plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_svg", lambda figure: figures.append(figure) or "")
    return figures


def test_every_line_is_on_the_chart_and_many_names_are_beside_it(drawn: list[Figure]) -> None:
    lines = [plots.Series(str(i), [1, 2], [i, i], dashed=i == 1) for i in range(10)]
    plots.line_chart(lines, x="x", y="y")
    plots.line_chart(lines[:2], x="x", y="y")
    many, few = drawn
    looks = [(line.get_color(), line.get_linestyle()) for line in many.axes[0].lines]
    assert len(looks) == len({*looks}) == 10
    assert [line.get_linestyle() for line in few.axes[0].lines] == ["-", "--"]
    assert many.axes[0].get_legend() is None
    assert [text.get_text() for text in many.legends[0].get_texts()] == [str(i) for i in range(10)]
    assert few.axes[0].get_legend() is not None


def test_a_judge_that_is_often_wrong_is_on_the_chart(drawn: list[Figure]) -> None:
    bins = [ReliabilityBin(confidence=c, accuracy=proportion(hits, 40)) for c, hits in ((0.55, 30), (0.75, 2))]
    plots.reliability_chart(bins)
    low, high = drawn[0].axes[0].get_ylim()
    assert all(low < b.accuracy.low and b.accuracy.high < high for b in bins)
