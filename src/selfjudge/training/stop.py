"""When to stop self-training: rules that see what a run sees, and no true preference.

A frozen judge stays content while the policy learns to exploit its errors. What gives that away without a truth is a
growing distance to the reference, answers that grow, and orders that stop agreeing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from selfjudge.recipes.schema import StopSection


@dataclass(frozen=True)
class StepMeasure:
    """What one optimisation step saw: KL in nats per response, response length in tokens, share of agreeing orders."""

    kl: float
    length: float
    agreement: float


@dataclass
class StopRule:
    """Watches the steps of a run; :meth:`add` returns the reason to stop, once there is one."""

    limits: StopSection
    start_length: float | None = None
    _recent: deque[StepMeasure] = field(init=False)

    def __post_init__(self) -> None:
        """Starts with an empty window."""
        self._recent = deque(maxlen=self.limits.window)

    @property
    def active(self) -> bool:
        """Whether there is a limit at all."""
        limits = self.limits
        return any(limit is not None for limit in (limits.max_kl, limits.max_length_ratio, limits.min_agreement))

    def state(self) -> dict[str, Any]:
        """Returns the rule's memory as JSON values."""
        return {"start_length": self.start_length, "recent": [asdict(measure) for measure in self._recent]}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        self.start_length = state["start_length"]
        self._recent = deque((StepMeasure(**measure) for measure in state["recent"]), maxlen=self.limits.window)

    def add(self, measure: StepMeasure) -> str | None:
        """Adds a step and returns why to stop now, or None. Nothing is judged before the window is full."""
        self._recent.append(measure)
        if len(self._recent) < self.limits.window:
            return None
        kl, length, agreement = (
            fmean(getattr(m, name) for m in self._recent) for name in ("kl", "length", "agreement")
        )
        if self.start_length is None:
            self.start_length = length
        limits = self.limits
        if limits.max_kl is not None and kl > limits.max_kl:
            return f"KL to the reference {kl:.2f} is over the budget of {limits.max_kl} nats per response"
        if limits.max_length_ratio is not None and length > limits.max_length_ratio * self.start_length:
            grown = f"from {self.start_length:.1f} to {length:.1f} tokens"
            return f"responses grew {grown}, over {limits.max_length_ratio} times"
        if limits.min_agreement is not None and agreement < limits.min_agreement:
            return f"the two orders agree on {agreement:.0%} of pairs, under {limits.min_agreement:.0%}"
        return None


def fires_at(rows: Iterable[Mapping[str, Any]], limits: StopSection) -> tuple[int, str] | None:
    """Returns the step after which the rule ends a run, or would have ended it, and the reason; None if it never does.

    Args:
        rows: of metrics.jsonl, one for each step.
        limits: of the rule.
    """
    rule = StopRule(limits)
    for row in rows:
        if "kl" not in row:
            continue
        # Where the pairs are not the policy's own, the samples that are have names of their own.
        length = row.get("own/length", row.get("rollout/length", math.nan))
        disagreement = row.get("own/disagreement_rate", row.get("rollout/disagreement_rate", 0.0))
        reason = rule.add(StepMeasure(row["kl"], length, 1 - disagreement))
        if reason:
            return row["step"], reason
    return None
