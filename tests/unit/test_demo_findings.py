"""What the demo's report says of a run: what the intervals show, and no more."""

from __future__ import annotations

from selfjudge.core.statistics import Estimate, Rate
from selfjudge.evaluation.demo_findings import findings, points


def rate(value: float, half: float = 0.03) -> Rate:
    return Rate(rate=value, low=value - half, high=value + half, n=800)


def difference(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=800)


def said(soft_minus_hard: Estimate, gap: Estimate, hard: list[float]) -> list[str]:
    rates = {name: rate(0.74) for name in ("selfjudge_vs_jsft", "hard_vs_jsft", "soft_belief", "hard_belief")}
    differences = {
        "soft_minus_hard": soft_minus_hard,
        "soft_belief_minus_truth": difference(0.01, 0.05),
        "hard_belief_minus_truth": gap,
    }
    curves = {
        labels: [{"step": 20 * i, "truth": rate(value, 0.05).model_dump()} for i, value in enumerate(values)]
        for labels, values in (("soft", [0.5, 0.7, 0.75]), ("hard", hard))
    }
    return findings(rates, differences, curves)


def test_what_is_outside_its_interval_is_said_to_be_so() -> None:
    found = said(difference(0.041, 0.02), difference(0.15, 0.05), [0.5, 0.72, 0.6])
    assert found[0] == "Soft labels end above hard ones by the truth: +4.1 points [2.1, 6.1]."
    assert "within its interval: +1.0 points [−4.0, 6.0]" in found[1]
    assert found[2] == "With soft labels the win rate by the truth is highest at the last step, 40."
    assert "believes too much, +15.0 points" in found[3]
    assert found[4].startswith("With hard labels the win rate by the truth falls: 72.0 % [67.0, 77.0] at step 20")
    assert "60.0 % [55.0, 65.0] at step 40, the last" in found[4]


def test_what_is_within_its_interval_is_called_that() -> None:
    found = said(difference(0.041, 0.05), difference(0.15, 0.2), [0.5, 0.72, 0.68])
    assert found[0] == "No difference between soft and hard labels is shown by the truth: +4.1 points [−0.9, 9.1]."
    assert "within its interval" in found[3]
    assert "is not shown to fall" in found[4]
    found = said(difference(-0.05, 0.02), difference(-0.1, 0.05), [0.5, 0.72, 0.68])
    assert found[0].startswith("Hard labels end above soft ones")
    assert "believes too little, −10.0 points [−15.0, −5.0]" in found[3]


def test_points_have_proper_minus_signs() -> None:
    assert points(Estimate(value=-0.012, low=-0.1, high=0.076, n=3)) == "−1.2 points [−10.0, 7.6]"
