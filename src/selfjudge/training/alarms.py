"""What a run's log says that somebody should look at: of signs that show without a truth, those that are over a limit.

Where the stop rule (:mod:`selfjudge.training.stop`) ends a run, an alarm only tells. The limits are the recipe's stop
rules where it has them. The defaults are rules of thumb: what shipped recipes stop at, or what is well over the noise
of a window of a few hundred pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import ValidationError

from selfjudge.recipes.schema import StopSection

MAX_KL = 30.0
"""Nats per response; as the shipped recipes for language models have it."""
MAX_LENGTH_RATIO = 1.5
"""Mean length now over that at first."""
MAX_AGREEMENT_FALL = 0.1
"""Of the share of pairs on which both orders agree."""
FIRST_SHOWN = (0.2, 0.8)
"""Share of judgments that the response shown first wins, at least and at most; 0.5 without a position bias."""
MAX_CHOSEN_FALL = 0.1
"""Of the log-probability of chosen responses, as a share of its size at first."""

Row = dict[str, Any]
Measure = Callable[[Row], float | None]


@dataclass(frozen=True)
class Alarm:
    """One sign. ``raised``: it is over its limit; ``metric``: its curve; ``what``: one sentence with the figures;
    ``advice``: what to do where it is raised.
    """

    name: Literal["length", "chosen", "agreement", "position", "kl"]
    raised: bool
    metric: str
    what: str
    advice: str


class _Means(NamedTuple):
    """Of a measure over the first and the last ``window`` steps."""

    first: float
    last: float


def alarms(rows: Sequence[Row], limits: StopSection) -> list[Alarm]:
    """Returns the signs that a log has the metrics for, raised or not.

    A sign is the mean of a metric over the last ``limits.window`` steps, against the first. There is none before both
    windows are full without sharing a step. A mean that is no number is over every limit. Where the pairs are not the
    policy's own, length and agreement are those of the samples that are (``own/...``).

    Args:
        rows: of metrics.jsonl, each with a ``step``, in their order.
        limits: the recipe's ``self_training.stop``.
    """
    found: dict[str, Alarm] = {}
    for measure, alarm in _SIGNS:
        both = means(rows, limits.window, measure)
        if both is not None:
            made = alarm(both, limits)
            found.setdefault(made.name, made)
    return [*found.values()]


def stop_limits(recipe: str | None) -> StopSection:
    """Returns the stop rules of a recipe's text; none where it has none, or cannot be understood."""
    try:
        return StopSection.model_validate(yaml.safe_load(recipe or "")["self_training"]["stop"])
    except (yaml.YAMLError, ValidationError, LookupError, TypeError, ValueError, RecursionError):
        return StopSection()


def watched(row: Row) -> bool:
    """Tells whether a row has anything that an alarm looks at."""
    return any(measure(row) is not None for measure, _ in _SIGNS)


def means(rows: Iterable[Row], window: int, measure: Measure) -> _Means | None:
    """Returns a measure's mean over the first and the last ``window`` steps; None while these share a step."""
    points = [(row["step"], value) for row in rows if (value := measure(row)) is not None]
    if not points:
        return None
    # A line is about the steps since the one before, so the first may be about more than a window.
    begun, ending = max(window, points[0][0]), points[-1][0] - window
    if ending < begun:
        return None
    return _Means(
        fmean(value for step, value in points if step <= begun), fmean(value for step, value in points if step > ending)
    )


def _length_alarm(metric: str, length: _Means, limits: StopSection) -> Alarm:
    limit = limits.max_length_ratio or MAX_LENGTH_RATIO
    ratio = length.last / length.first if length.first else 1.0
    return Alarm(
        "length", not ratio <= limit, metric,
        f"Responses have {length.last:.1f} tokens, {length.first:.1f} at first: {ratio:.2f} times; the limit is "
        f"{limit:g}.",
        "Read the judged pairs: if the longer response wins because it is longer, set self_training.length_penalty or "
        "max_length_difference, or stop earlier by stop.max_length_ratio.",
    )  # fmt: skip


def _chosen_alarm(unit: str, chosen: _Means, limits: StopSection) -> Alarm:
    fall = (chosen.first - chosen.last) / abs(chosen.first) if chosen.first else 0.0
    return Alarm(
        "chosen", not fall <= MAX_CHOSEN_FALL, "logps/chosen",
        f"The log-probability of chosen responses is {chosen.last:.3g} nats per {unit}, {chosen.first:.3g} at first: "
        f"{abs(fall):.0%} {'lower' if fall > 0 else 'higher'}; the limit is {MAX_CHOSEN_FALL:.0%} lower.",
        "The model makes what is preferred less likely too, and puts the probability on something else: lower the "
        "learning rate, raise beta, or set self_training.nll_weight.",
    )  # fmt: skip


def _agreement_alarm(metric: str, agreement: _Means, limits: StopSection) -> Alarm:
    least = limits.min_agreement
    limit = agreement.first - MAX_AGREEMENT_FALL if least is None else least
    return Alarm(
        "agreement", not agreement.last >= limit, metric,
        f"The two orders agree on {agreement.last:.0%} of pairs, {agreement.first:.0%} at first; the limit is "
        f"{limit:.0%}.",
        "The verdicts depend more and more on the order, so that later pairs teach less. Take an earlier checkpoint, "
        "leave such pairs out by self_training.abstain, or set stop.min_agreement.",
    )  # fmt: skip


def _position_alarm(first_shown: _Means, limits: StopSection) -> Alarm:
    least, most = FIRST_SHOWN
    return Alarm(
        "position", not least <= first_shown.last <= most, "rollout/first_shown_rate",
        f"The response shown first wins {first_shown.last:.0%} of judgments, {first_shown.first:.0%} at first; the "
        f"limits are {least:.0%} and {most:.0%}.",
        "The judge goes by the position, so its labels say little about the responses. Measure it on labelled pairs by "
        "eval judge; train it on more judgment rows or with a larger jsft.judgment_weight, or set "
        "self_training.abstain.",
    )  # fmt: skip


def _kl_alarm(kl: _Means, limits: StopSection) -> Alarm:
    limit = limits.max_kl or MAX_KL
    return Alarm(
        "kl", not kl.last <= limit, "kl",
        f"KL to the reference is {kl.last:.2f} nats per response; the limit is {limit:g}.",
        "The policy has left the region where its judge was trained. Compare it with an earlier checkpoint by "
        "something that is not the judge; raise beta, lower the learning rate, or set stop.max_kl.",
    )  # fmt: skip


def _number(name: str, row: Row) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else None


def _per_token(row: Row) -> float | None:
    """Longer responses are less likely as a whole, and no worse for it."""
    chosen, length = _number("logps/chosen", row), _number("length/chosen", row)
    return chosen / length if chosen is not None and length else None


def _per_response(row: Row) -> float | None:
    """Baselines do not log the length; their chosen responses are those of the data, and stay as long."""
    return None if "length/chosen" in row else _number("logps/chosen", row)


def _agreement(name: str, row: Row) -> float | None:
    disagreement = _number(name, row)
    return None if disagreement is None else 1 - disagreement


# Of an alarm's signs the first that a log has is told.
_SIGNS: tuple[tuple[Measure, Callable[[_Means, StopSection], Alarm]], ...] = (
    (partial(_number, "own/length"), partial(_length_alarm, "own/length")),
    (partial(_number, "rollout/length"), partial(_length_alarm, "rollout/length")),
    (partial(_number, "completions/mean_length"), partial(_length_alarm, "completions/mean_length")),
    (_per_token, partial(_chosen_alarm, "token")),
    (_per_response, partial(_chosen_alarm, "response")),
    *(
        (partial(_agreement, name), partial(_agreement_alarm, name))
        for name in ("own/disagreement_rate", "rollout/disagreement_rate")
    ),
    (partial(_number, "rollout/first_shown_rate"), _position_alarm),
    (partial(_number, "kl"), _kl_alarm),
)
