"""Prints the raw figures of a study as the Markdown tables of docs/study.md: python study_tables.py RESULTS.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]


def tables(raw: Figures) -> str:
    """Returns all tables, each under its name."""
    parts = {
        "Learning rates": tuning(raw["tuning"]),
        "Results": results(raw),
        "Judges": judges(raw["judges"]),
        "Choosing among N": choosing(raw),
        "Claims": claims(raw["claims"]),
        "Curves": curves(raw["curves"]),
    }
    return "\n\n".join(f"{name}\n\n{text}" for name, text in parts.items())


def tuning(tuned: Figures) -> str:
    """Returns a table for each grid: a row for each cell, the best of a row in bold."""
    grids: dict[tuple[float, ...], list[str]] = {}
    for name, of in tuned.items():
        rates = [float(rate) for rate in of["rates"]]
        key = next((grid for grid in grids if set(grid) & set(rates)), ())
        merged = tuple(sorted({*key, *rates}))
        grids[merged] = [*grids.pop(key, []), name]
    return "\n\n".join(_grid(grid, {name: tuned[name] for name in names}) for grid, names in grids.items())


def _grid(grid: Sequence[float], tuned: Figures) -> str:
    rows = []
    for name, of in tuned.items():
        scores = {float(rate): f"{100 * score['rate']:.1f}" for rate, score in of["rates"].items()}
        scores[of["best"]] = f"**{scores[of['best']]}**"
        seconds = sum(score["seconds"] for score in of["rates"].values())
        by = "win rate" if of["by"] == "answers" else "accuracy"
        rows.append([name, by, *(scores.get(rate, "") for rate in grid), f"{seconds:.0f}"])
    return _table(["", "by", *(f"{rate:g}" for rate in grid), "seconds"], rows)


def results(raw: Figures) -> str:
    """Returns what each system reached beside what its training took; the best first."""
    costs = {cost["name"]: cost for cost in raw["costs"]}
    most = {rule: max(_n(name) for name in raw["results"] if name.startswith(rule)) for rule in _rules(raw)}
    shown = [name for name in raw["results"] if " of " not in name or _n(name) == most[name.rpartition(" of ")[0]]]
    rows = []
    for name in shown:
        cost = costs.get(name)
        spent = (
            [f"{cost['seconds']:.0f}", f"{cost['with_start']:.0f}", *map(_count, _counts(cost))] if cost else [""] * 5
        )
        value = f"{raw['values'][name]['value']:.2f}" if name in raw["values"] else ""
        rows.append([name, _rate(raw["results"][name]["all"]), _seeds(raw["results"][name]), value, *spent])
    head = ["", "win rate", "each seed", "utility", "seconds", "with start", "models", "samples", "judgments"]
    return _table(head, rows)


def judges(judged: Figures) -> str:
    """Returns how often each judge is right."""
    return _table(["", "right on", "each seed"], ([name, _rate(of["all"]), _seeds(of)] for name, of in judged.items()))


def choosing(raw: Figures) -> str:
    """Returns what each way to choose among N candidates reaches, and what an answer costs."""
    names = sorted((name for name in raw["per_answer"]), key=lambda name: (_rules(raw).index(_rule(name)), _n(name)))
    rows = []
    for name in names:
        cost = raw["per_answer"][name]
        spent = [str(cost["samples"]), str(cost["judgments"]), f"{1000 * cost['seconds']:.1f}"]
        rows.append([name, _rate(raw["results"][name]["all"]), _seeds(raw["results"][name]), *spent])
    return _table(["", "win rate", "each seed", "samples", "judgments", "ms an answer"], rows)


def claims(decided: Sequence[Figures]) -> str:
    """Returns the claims with their decisions."""
    rows = []
    for claim in decided:
        decision = claim["decision"]
        shown = decision if decision == "not shown" else f"**{decision}**"
        each = ", ".join(_points(x) for x in claim["seeds"].values())
        rows.append([claim["claim"], shown, _difference(claim["difference"]), each])
    return _table(["claim", "", "difference, points", "each seed"], rows)


def curves(watched: Sequence[Figures]) -> str:
    """Returns how far each training rises and whether it falls again."""
    rows = []
    for curve in watched:
        at = {point["step"]: point for point in curve["points"]}
        best, last = at[curve["peak"]], curve["points"][-1]
        falls = "falls" if curve["fall"]["low"] > 0 else "not shown"
        fall = f"{falls}, {_difference(curve['fall'])}" if best is not last else ""
        belief = _rate(_as_rate(last["belief"])) if last["belief"] else ""
        stops = ", ".join("–" if step is None else str(step) for step in curve["stops"].values())
        rates = [_rate(_as_rate(best["truth"])), str(best["step"]), _rate(_as_rate(last["truth"])), belief]
        rows.append([curve["name"], *rates, fall, stops])
    head = [
        "",
        "highest",
        "at step",
        "at step 200",
        "the judge's belief there",
        "fall, points",
        "rule fires after step",
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def _rules(raw: Figures) -> list[str]:
    return list(dict.fromkeys(_rule(name) for name in raw["per_answer"]))


def _rule(name: str) -> str:
    return name.rpartition(" of ")[0]


def _n(name: str) -> int:
    return int(name.rpartition(" of ")[2])


def _counts(cost: Figures) -> list[float]:
    return [cost["models"], cost["samples"], cost["judgments"]]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _rate(of: Figures) -> str:
    return f"{100 * of['rate']:.1f} [{100 * of['low']:.1f}, {100 * of['high']:.1f}]"


def _as_rate(estimate: Figures) -> Figures:
    return {**estimate, "rate": estimate["value"]}


def _seeds(of: Figures) -> str:
    return ", ".join(f"{100 * rate['rate']:.1f}" for seed, rate in of.items() if seed != "all")


def _difference(of: Figures) -> str:
    return f"{_points(of['value'])} [{_points(of['low'])}, {_points(of['high'])}]"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def main() -> None:
    """Prints the tables of the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results.json of a study's folder")
    file = parser.parse_args().results
    if not file.is_file():
        parser.error(f"there is no file {file}: name the results.json of a study's folder")
    print(tables(json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
