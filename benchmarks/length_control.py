"""Compares our length-controlled win rates with those that AlpacaEval 2 published: python length_control.py CHECKOUT.

CHECKOUT is a clone of https://github.com/tatsu-lab/alpaca_eval; nothing of it is in this repository. The systems are
those whose annotations it holds. AlpacaEval loads the difficulties of its prompts and its baseline's rows from the Hub.
Neither is needed here, as both follow from what the clone publishes:

- A published prediction is sigmoid(theta + psi * difficulty), with the published theta and psi of its system.
- At a system's published coefficients the gradient of AlpacaEval's loss is zero. What its own rows leave over is the
  gradient of the baseline's rows, and only two sums in it are unknown.

--difficulty-out FILE writes the difficulties for `selfjudge eval winrate --difficulty`.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from selfjudge.core import length_control
from selfjudge.core.statistics import Rate, mean_rate

Array = NDArray[np.float64]
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
BASELINE = "gpt4_1106_preview"
PREDICTED = f"results/vicuna-13b-v1.5/{ANNOTATOR}/{ANNOTATOR}/annotations.json"
WEIGHTS = f"src/alpaca_eval/metrics/weights/{ANNOTATOR}/length_controlled_v1/baseline_{BASELINE}.csv"
LEADERBOARD = f"src/alpaca_eval/leaderboards/data_AlpacaEval_2/{ANNOTATOR}_leaderboard.csv"
LEFT_OUT = {BASELINE, "NullModel", "gpt4_gamed"}
"""The baseline itself, and two entries that were made to deceive the annotator."""
PROMPTS = 805
ROW_WEIGHT = 0.1
"""Of the baseline's rows: AlpacaEval's lambda of 0.2, for its verbose and its concise half."""


@dataclass(frozen=True)
class System:
    """A system of the leaderboard. ``scores``, ``lengths``, ``difficulties``: of its annotated prompts."""

    name: str
    official: float
    weights: Array
    scores: Array
    lengths: list[tuple[int, int]]
    difficulties: Array


def table(path: Path) -> dict[str, dict[str, str]]:
    """Returns the rows of a CSV by the value of their first column."""
    with path.open(encoding="utf-8", newline="") as handle:
        return {next(iter(row.values())): row for row in csv.DictReader(handle)}


def weights_of(checkout: Path) -> dict[str, Array]:
    """Returns each system's published (theta, phi, psi), phi for our sign: of a's length less b's."""
    names = ("not_gamed_baseline.astype(float)", "np.tanh(std_delta_len)", "instruction_difficulty")
    rows = table(checkout / WEIGHTS)
    return {name: np.array([float(row[n]) for n in names]) * [1, -1, 1] for name, row in rows.items()}


def difficulties_of(checkout: Path) -> dict[str, float]:
    """Returns the difficulty of each instruction, in AlpacaEval's order."""
    theta, _, psi = weights_of(checkout)["vicuna-13b-v1.5"]
    rows = json.loads((checkout / PREDICTED).read_text(encoding="utf-8"))
    return {row["instruction"]: float((logit(row["glm_preference"]) - theta) / psi) for row in rows}


def systems_of(checkout: Path, difficulty: dict[str, float]) -> list[System]:
    """Returns the systems that have an official figure and annotations in the clone."""
    weights, board, found = weights_of(checkout), table(checkout / LEADERBOARD), []
    for name, row in board.items():
        path = checkout / f"results/{name}/{ANNOTATOR}/annotations.json"
        if name in LEFT_OUT or not row["length_controlled_winrate"] or not path.is_file():
            continue
        rows = [r for r in json.loads(path.read_text(encoding="utf-8")) if r["preference"] is not None]
        # AlpacaEval's preference is 1 where the baseline is preferred, 2 where the system is, and 0 for a tie.
        scores = np.array([r["preference"] - 1 if r["preference"] else 0.5 for r in rows])
        lengths = [(len(r["output_2"]), len(r["output_1"])) for r in rows]
        given = np.array([difficulty[r["instruction"]] for r in rows])
        found.append(System(name, float(row["length_controlled_winrate"]), weights[name], scores, lengths, given))
    return found


def length_term(lengths: list[tuple[int, int]]) -> Array:
    """Returns the regression's x of the difference in length, [prompts]."""
    difference = np.array([a - b for a, b in lengths], dtype=float)
    return np.tanh(difference / difference.std(ddof=1))


def pull_of(checkout: Path, systems: list[System], difficulty: dict[str, float]) -> tuple[Array, Array, float]:
    """Returns centre and curvature of the baseline's rows for (phi, psi), and how far the systems disagree on them.

    The gradient of those rows is the sum of weight * (sigmoid(phi x + psi d) - y) * (x, d). All but the sum of
    y * (x, d) is known. Each system with all prompts gives that sum once more; the disagreement is the largest
    deviation from their mean.
    """
    texts = {m: _outputs(checkout, m) for m in (BASELINE, f"{BASELINE}_concise", f"{BASELINE}_verbose")}
    base = texts.pop(BASELINE)
    x = np.concatenate([length_term([(len(t[i]), len(base[i])) for i in difficulty]) for t in texts.values()])
    columns = np.stack([x, np.tile(list(difficulty.values()), 2)], axis=1)
    sums = []
    for s in (s for s in systems if len(s.scores) == PROMPTS):
        own = np.stack([np.ones(PROMPTS), length_term(s.lengths), s.difficulties], axis=1)
        gradient = own.T @ (expit(own @ s.weights) - s.scores)
        # The L1 penalty has the same weight on all three; theta has nothing else to balance it.
        rest = gradient[1:] + abs(gradient[0]) * np.sign(s.weights[1:])
        sums.append(ROW_WEIGHT * columns.T @ expit(columns @ s.weights[1:]) + rest)
    known = np.mean(sums, axis=0)

    def loss(b: Array) -> float:
        return float(ROW_WEIGHT * np.logaddexp(0, columns @ b).sum() - known @ b)

    centre = minimize(loss, np.zeros(2), method="BFGS").x
    p = expit(columns @ centre)
    curvature = ROW_WEIGHT * (columns * (p * (1 - p))[:, None]).T @ columns
    return centre, curvature, float(np.abs(np.array(sums) - known).max())


def _outputs(checkout: Path, model: str) -> dict[str, str]:
    rows = json.loads((checkout / f"results/{model}/model_outputs.json").read_text(encoding="utf-8"))
    return {row["instruction"]: row["output"] for row in rows}


def shrunk(value: float) -> Callable[[System], Rate]:
    """Returns ``equal_length`` with another shrinkage."""

    def rate(s: System) -> Rate:
        before, length_control.SHRINKAGE = length_control.SHRINKAGE, value
        try:
            return length_control.equal_length(s.scores.tolist(), s.lengths)
        finally:
            length_control.SHRINKAGE = before

    return rate


FIGURES: dict[str, Callable[[System], Rate]] = {
    "win rate": lambda s: mean_rate(s.scores.tolist()),
    **{f"equal_length, shrinkage {v}": shrunk(v) for v in (0.0, 0.01, 0.015, 0.02)},
    "length_controlled": lambda s: length_control.length_controlled(
        s.scores.tolist(), s.lengths, s.difficulties.tolist()
    ),
}


def compare(title: str, systems: list[System], rates: dict[str, dict[str, Rate]]) -> None:
    """Prints a row for each figure: how far it is from the official one, in points."""
    print(f"\n{title}: {len(systems)} systems\n")
    print("| figure | mean difference | mean absolute | largest | official in our interval |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in rates.items():
        off = np.array([100 * found[s.name].rate - s.official for s in systems])
        inside = sum(100 * found[s.name].low <= s.official <= 100 * found[s.name].high for s in systems)
        worst = int(np.abs(off).argmax())
        largest = f"{off[worst]:+.1f} ({systems[worst].name})"
        print(f"| {name} | {off.mean():+.2f} | {np.abs(off).mean():.2f} | {largest} | {inside} |")


def main() -> None:
    """Prints the baseline's pull and the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--difficulty-out", type=Path)
    given = parser.parse_args()
    difficulty = difficulties_of(given.checkout)
    if given.difficulty_out:
        rows = [f"{i},{value!r}\n" for i, value in enumerate(difficulty.values())]
        given.difficulty_out.write_text("index,instruction_difficulty\n" + "".join(rows), encoding="utf-8")
    systems = systems_of(given.checkout, difficulty)
    centre, curvature, deviation = pull_of(given.checkout, systems, difficulty)
    print(f"centre {centre.round(3)}, curvature {curvature.round(2).tolist()}; systems agree to {deviation:.3f}")
    # Higher difficulties are easier prompts. The baseline's own lengths, and each system's less the baseline's:
    first = next(s for s in systems if len(s.scores) == PROMPTS)
    own = np.corrcoef([b for _, b in first.lengths], first.difficulties)[0, 1]
    less = np.mean([np.corrcoef(length_term(s.lengths), s.difficulties)[0, 1] for s in systems])
    print(f"correlation with difficulty: the baseline's length {own:.2f}, a system's less that {less:.2f} on average")
    rates = {name: {s.name: figure(s) for s in systems} for name, figure in FIGURES.items()}
    compare("All", systems, rates)
    compare(f"All {PROMPTS} prompts annotated", [s for s in systems if len(s.scores) == PROMPTS], rates)
    longer = {s.name: np.mean([a > b for a, b in s.lengths]) for s in systems}
    compare("Longer on less than a tenth of the prompts", [s for s in systems if longer[s.name] < 0.1], rates)
    compare("Longer on a tenth or more", [s for s in systems if longer[s.name] >= 0.1], rates)


if __name__ == "__main__":
    main()
