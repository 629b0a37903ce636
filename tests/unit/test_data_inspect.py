"""The report of `data inspect`, against numbers counted by hand."""

import math
from pathlib import Path

import pytest
from test_data_raw import write

from selfjudge.data.inspect import inspect, longer_chosen, percentiles
from selfjudge.data.sources import Loaded, load_preferences
from selfjudge.errors import DataError


def load(tmp_path: Path) -> Loaded:
    pairs = [("aaaa", "bb"), ("aa", "bbb"), ("cc", "dd"), ("eeeee e", "f"), ("same", "same")]
    prompts = [
        "p" * 3,
        "p" * 3,
        [{"role": "system", "content": "xy"}, {"role": "user", "content": "ppp"}],
        "p q r",
        "p",
    ]
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, (c, r) in zip(prompts, pairs, strict=True)]
    return load_preferences(write(tmp_path / "a.jsonl", rows))


def test_a_report_counted_by_hand(tmp_path: Path) -> None:
    report = inspect(load(tmp_path))
    assert (report.format, report.rows, report.records, report.unit) == ("preference", 5, 4, "characters")
    assert report.dropped == {"identical responses": 1}
    assert report.principles == {"overall": 4}
    assert report.turns == {1: 4}
    assert report.lengths["prompt"] == {0: 3, 5: 3, 25: 3, 50: 3, 75: 5, 95: 5, 99: 5, 100: 5}
    assert report.lengths["chosen"][50] == 2
    assert report.lengths["rejected"][100] == 3
    # longer chosen: yes, no, equal, yes
    assert (report.longer_chosen.rate, report.longer_chosen.n, report.equal_lengths) == (2.5 / 4, 4, 1)
    assert (report.label_bias["longer"].rate, report.label_bias["longer"].n) == (2 / 3, 3)
    # totals 9, 8, 9, 13: the upper median is the third record in the order 8, 9, 9, 13
    assert report.example.id == "a-2"


def test_lengths_in_tokens(tmp_path: Path) -> None:
    report = inspect(load(tmp_path), count_tokens=lambda text: len(text.split()))
    assert report.unit == "tokens"
    assert report.lengths["prompt"][100] == 3
    assert report.lengths["chosen"][100] == 2
    assert report.equal_lengths == 3


def test_the_interval_is_wilsons() -> None:
    rate, equal = longer_chosen([2] * 7 + [1] * 3, [1] * 7 + [2] * 3)
    z, n, p = 1.959963984540054, 10, 0.7
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert equal == 0
    assert rate.low == pytest.approx(centre - half)
    assert rate.high == pytest.approx(centre + half)


def test_percentiles_are_values_that_occur() -> None:
    assert percentiles(list(range(1, 101))) == {0: 1, 5: 5, 25: 25, 50: 50, 75: 75, 95: 95, 99: 99, 100: 100}
    assert set(percentiles([7]).values()) == {7}


def test_nothing_to_inspect(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record to inspect"):
        inspect(Loaded((), (), "hh", 0, ""))
