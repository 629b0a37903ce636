"""The raw figures of a study, as few as say it all: for a file that stands beside a text which quotes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from selfjudge.study.summary import Figures, Summary
from selfjudge.study.tune import Tuned

DIGITS = 5


def raw_figures(found: Summary, tuned: Mapping[str, Tuned]) -> dict[str, Any]:
    """Returns the figures as JSON values, of five digits.

    ``tuning``: cell → by what it was chosen, the best rate, and rate → score with its interval and seconds. ``results``
    and ``judges``: cell → ``all`` and each seed → rate with its interval. ``values``: mean value of a cell's answers.
    ``claims``, ``curves``, ``costs`` and ``per_answer`` as in summary.json.
    """
    systems = {f.name: f for f in (*found.policies, *(f for of in found.choosing.values() for f in of.values()))}
    raw = {
        "seeds": found.seeds,
        "tuning": {name: _tuning(of) for name, of in tuned.items()},
        "results": {name: _figures(of) for name, of in systems.items()},
        "values": {name: _values(of.value) for name, of in systems.items() if of.value},
        "judges": {of.name: _figures(of) for of in found.judges},
        "claims": [_values(claim) for claim in found.claims],
        "curves": [_values(curve) for curve in found.curves],
        "costs": [_values(cost) for cost in found.costs],
        "per_answer": {name: _values(of) for name, of in found.per_answer.items()},
    }
    rounded: dict[str, Any] = _rounded(raw)
    return rounded


def _tuning(of: Tuned) -> dict[str, Any]:
    rates = {f"{tried.rate:g}": {**_values(tried.score), "seconds": tried.seconds} for tried in of.tried}
    return {"by": of.by, "best": of.best.rate, "rates": rates, "failed": [f"{rate:g}" for rate in of.failed]}


def _figures(of: Figures) -> dict[str, Any]:
    return {"all": _values(of.rate), **{str(seed): _values(rate) for seed, rate in of.seeds.items()}}


def _values(of: BaseModel) -> Any:
    return of.model_dump(mode="json")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(of) for key, of in value.items()}
    return [_rounded(of) for of in value] if isinstance(value, list | tuple) else value
