"""Alarms: what a log says without a truth. Expected values are worked out in the comments."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfjudge.recipes.schema import StopSection
from selfjudge.training.alarms import Alarm, alarms, means, stop_limits, watched

TWO = StopSection(window=2)


def log(every: int = 1, **metrics: list[float]) -> list[dict[str, Any]]:
    """Rows of columns; ``__`` in a name stands for the slash."""
    length = len(next(iter(metrics.values())))
    return [
        {"step": every * (i + 1), **{name.replace("__", "/"): column[i] for name, column in metrics.items()}}
        for i in range(length)
    ]


def only(rows: list[dict[str, Any]], limits: StopSection = TWO) -> Alarm:
    (alarm,) = alarms(rows, limits)
    return alarm


def test_a_log_without_these_metrics_says_nothing() -> None:
    assert alarms([], TWO) == []
    assert alarms(log(loss=[3.0, 2.0, 1.0, 0.5, 0.1]), TWO) == []


def test_windows_are_steps_and_share_none() -> None:
    def kl(row: dict[str, Any]) -> float | None:
        return row.get("kl")

    rows = log(kl=[1.0, 3.0, 5.0, 7.0, 100.0])
    assert means(rows[:3], 2, kl) is None  # steps 1 and 2, and 2 and 3: the second would be in both
    assert means(rows[:4], 2, kl) == (2.0, 6.0)
    assert means(rows, 2, kl) == (2.0, 53.5)
    # Lines every 10 steps are means of 10 steps each: a window of 10 is one line.
    assert means(log(every=10, kl=[1.0, 3.0]), 10, kl) == (1.0, 3.0)
    # A line every 50 steps is more than a window, and all there is.
    assert means(log(every=50, kl=[1.0, 3.0]), 10, kl) == (1.0, 3.0)
    assert means(log(every=50, kl=[1.0]), 10, kl) is None
    # The Trainer's last line has no metric, and does not move the window.
    assert means([*rows[:4], {"step": 9, "train_loss": 1.0}], 2, kl) == (2.0, 6.0)


def test_length_against_its_start() -> None:
    # 10 at first; 15 is 1.5 times, which is the limit and not over it; 15.5 is.
    quiet = only(log(rollout__length=[9.0, 11.0, 14.0, 16.0]))
    assert (quiet.name, quiet.raised, quiet.metric) == ("length", False, "rollout/length")
    raised = only(log(rollout__length=[9.0, 11.0, 15.0, 16.0]))
    assert raised.raised
    assert raised.what == "Responses have 15.5 tokens, 10.0 at first: 1.55 times; the limit is 1.5."
    assert only(log(rollout__length=[9.0, 11.0, 14.0, 16.0]), StopSection(window=2, max_length_ratio=1.4)).raised
    assert not only(log(rollout__length=[9.0, 11.0, 15.0, 16.0]), StopSection(window=2, max_length_ratio=1.6)).raised
    assert not only(log(rollout__length=[0.0] * 4)).raised


def test_length_as_the_reinforcement_learning_baseline_logs_it() -> None:
    alarm = only(log(completions__mean_length=[10.0, 10.0, 20.0, 20.0]))
    assert (alarm.name, alarm.raised, alarm.metric) == ("length", True, "completions/mean_length")


def test_the_policys_own_samples_speak_where_the_pairs_are_anothers() -> None:
    rows = log(
        rollout__length=[10.0] * 4,
        own__length=[10.0, 10.0, 20.0, 20.0],
        rollout__disagreement_rate=[0.2, 0.2, 0.9, 0.9],
        own__disagreement_rate=[0.2] * 4,
    )
    del rows[1]["own/length"]  # no answer fitted, so that this line has the pairs' length alone
    assert [(a.name, a.raised, a.metric) for a in alarms(rows, TWO)] == [
        ("length", True, "own/length"), ("agreement", False, "own/disagreement_rate")
    ]  # fmt: skip


def test_chosen_logprobs_per_token() -> None:
    # -2 nats a token at first. As a whole -20 has become -40, but of responses twice as long: no fall.
    longer = log(logps__chosen=[-20.0, -20.0, -40.0, -40.0], length__chosen=[10.0, 10.0, 20.0, 20.0])
    assert not only(longer).raised
    # -2.18 is 9 % lower, -2.22 is 11 %.
    under = log(logps__chosen=[-20.0, -20.0, -21.8, -21.8], length__chosen=[10.0] * 4)
    assert not only(under).raised
    over = only(log(logps__chosen=[-20.0, -20.0, -22.2, -22.2], length__chosen=[10.0] * 4))
    assert (over.name, over.raised, over.metric) == ("chosen", True, "logps/chosen")
    assert "is -2.22 nats per token, -2 at first: 11% lower; the limit is 10% lower." in over.what
    rising = only(log(logps__chosen=[-20.0, -20.0, -15.0, -15.0], length__chosen=[10.0] * 4))
    assert not rising.raised
    assert "25% higher" in rising.what


def test_chosen_logprobs_of_a_baseline_are_of_whole_responses() -> None:
    # DPO's: -16 becomes -20, a quarter lower.
    alarm = only(log(logps__chosen=[-16.0, -16.0, -20.0, -20.0]))
    assert alarm.raised
    assert "-20 nats per response, -16 at first: 25% lower" in alarm.what


def test_agreement_falls_by_ten_points_or_under_the_recipes_limit() -> None:
    # 80 % at first: 71 % is 9 points lower, 69 % is 11.
    assert not only(log(rollout__disagreement_rate=[0.2, 0.2, 0.29, 0.29])).raised
    alarm = only(log(rollout__disagreement_rate=[0.2, 0.2, 0.31, 0.31]))
    assert (alarm.name, alarm.raised) == ("agreement", True)
    assert alarm.what == "The two orders agree on 69% of pairs, 80% at first; the limit is 70%."
    rows = log(rollout__disagreement_rate=[0.2, 0.2, 0.31, 0.31])
    assert not only(rows, StopSection(window=2, min_agreement=0.6)).raised
    assert only(rows, StopSection(window=2, min_agreement=0.7)).raised


@pytest.mark.parametrize(("now", "raised"), [(0.19, True), (0.2, False), (0.5, False), (0.8, False), (0.81, True)])
def test_a_judge_that_goes_by_the_position(now: float, raised: bool) -> None:
    alarm = only(log(rollout__first_shown_rate=[0.6, 0.6, now, now]))
    assert (alarm.name, alarm.raised, alarm.metric) == ("position", raised, "rollout/first_shown_rate")
    assert alarm.what == (
        f"The response shown first wins {now:.0%} of judgments, 60% at first; the limits are 20% and 80%."
    )


def test_kl_over_a_budget() -> None:
    assert not only(log(kl=[0.0, 0.0, 29.0, 31.0])).raised  # the mean is 30, the limit itself
    assert only(log(kl=[0.0, 0.0, 30.0, 31.0])).raised
    alarm = only(log(kl=[0.0, 0.0, 2.0, 3.0]), StopSection(window=2, max_kl=1.8))
    assert (alarm.name, alarm.raised, alarm.metric) == ("kl", True, "kl")
    assert alarm.what == "KL to the reference is 2.50 nats per response; the limit is 1.8."
    assert not only(log(kl=[100.0, 100.0, 1.0, 1.0])).raised  # what counts is now


def test_what_is_no_number_is_over_every_limit() -> None:
    nothing = [1.0, 1.0, math.nan, math.nan]
    rows = log(rollout__length=nothing, logps__chosen=nothing, rollout__disagreement_rate=nothing, kl=nothing)
    rows = [row | {"rollout/first_shown_rate": row["kl"]} for row in rows]
    found = alarms(rows, StopSection(window=2, min_agreement=0.1))
    assert [(a.name, a.raised) for a in found] == [
        ("length", True), ("chosen", True), ("agreement", True), ("position", True), ("kl", True)
    ]  # fmt: skip


def test_text_in_place_of_a_number_is_not_looked_at() -> None:
    assert alarms([{"step": i, "kl": "much", "rollout/length": None} for i in range(1, 9)], TWO) == []


@pytest.mark.parametrize("name", ["kl", "logps/chosen", "rollout/disagreement_rate", "rollout/length", "own/length"])
def test_rows_with_a_sign_are_known(name: str) -> None:
    assert watched({"step": 1, name: 0.5})
    assert not watched({"step": 1, "loss": 0.5})


@given(
    st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 50), st.booleans()), max_size=40), st.integers(1, 6)
)  # fmt: skip
def test_the_first_and_the_last_lines_say_what_all_do(lines: list[tuple[int, float, bool]], window: int) -> None:
    """What a reader of a long log keeps: as many lines at both ends as a window has steps."""
    rows, step = [], 0
    for ahead, value, also in lines:
        step += ahead
        rows.append({"step": step, "kl": value} | ({"rollout/length": value} if also else {}))
    every = [{**row, "rollout/length": row["kl"]} for row in rows]
    limits = StopSection(window=window)
    kept = every if len(every) <= 2 * window else every[:window] + every[-window:]
    assert alarms(kept, limits) == alarms(every, limits)


@pytest.mark.parametrize(
    ("recipe", "limits"),
    [
        ("self_training: {stop: {max_kl: 5, window: 3}}", StopSection(max_kl=5.0, window=3)),
        ("self_training: {stop: {}}", StopSection()),
        ("self_training: {stop: {max_kl: much}}", StopSection()),
        ("self_training: {}", StopSection()),
        ("self_training: [1]", StopSection()),
        ("jsft: {}", StopSection()),
        ("{", StopSection()),
        ("\x00", StopSection()),
        ("[" * 10_000, StopSection()),
        ("2020-99-99", StopSection()),
        ("", StopSection()),
        (None, StopSection()),
    ],
)
def test_the_limits_of_a_recipe_or_none(recipe: str | None, limits: StopSection) -> None:
    assert stop_limits(recipe) == limits
