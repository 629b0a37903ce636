"""Gathers the figures of demo runs and prints them as the tables of README.md and docs/experiments.md.

python benchmarks/demo_tables.py runs/demo-0 runs/demo-1 runs/demo-2 > docs/results/demo.json
python benchmarks/demo_tables.py docs/results/demo.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

Figures = Mapping[str, Any]

QUESTIONS = {
    "Does the self-trained policy (soft labels) beat its JSFT start?": "selfjudge_vs_jsft",
    "… with hard labels?": "hard_vs_jsft",
    "Does a tournament of 8 beat a single sample, both by the JSFT model?": "tournament_vs_single",
    "… both by the self-trained policy?": "selfjudge_tournament_vs_single",
}
OF_PAIRS = {
    "Is the judge right?": "judge_accuracy",
    '… how often would "the longer wins" be right on the same pairs?': "longer_wins",
    "… do both orders of these pairs agree?": "order_agreement",
    "How many of the labels that it learnt from are right?": "labels_right",
}


def gathered(folders: Sequence[Path]) -> dict[str, Any]:
    """Returns seed → the rates, differences, stops, last points of the curves and seconds of its run."""
    return {str(_json(folder / "run.json")["seed"]): _run(folder) for folder in folders}


def _run(folder: Path) -> dict[str, Any]:
    details = _json(folder / "details.json")
    curves = {}
    for labels in ("soft", "hard"):
        lines = (folder / labels / "curve.jsonl").read_text(encoding="utf-8").splitlines()
        points = [json.loads(line) for line in lines]
        best = max(points, key=lambda point: point["truth"]["rate"])
        curves[labels] = {"first": points[0], "best": best, "last": points[-1], "kl": _last_kl(folder / labels)}
    seconds = round(_json(folder / "results.json")["seconds"])
    shown = {key: details[key] for key in ("rates", "differences", "stops")}
    return {"seconds": seconds, **shown, "curves": curves}


def _last_kl(run: Path) -> float:
    """Returns the mean KL to the reference over the last ten steps, in nats per response."""
    logged = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return fmean([row["kl"] for row in logged if "kl" in row][-10:])


def tables(raw: Figures) -> str:
    """Returns the README's tables of the first seed, and those of all seeds."""
    first = next(iter(raw.values()))
    return "\n\n".join([_readme(first), _all_seeds(raw), _curves(raw)])


def _readme(run: Figures) -> str:
    asked = [[question, _rate(run["rates"][name])] for question, name in QUESTIONS.items()]
    pairs = [
        [question, _rate(run["rates"][f"{name}_all"]), _rate(run["rates"][name])] for question, name in OF_PAIRS.items()
    ]
    shares = _table(["question", "share [95 % interval]"], asked)
    return shares + "\n\n" + _table(["question", "all pairs", "clearly different pairs"], pairs)


def _all_seeds(raw: Figures) -> str:
    names = {
        **QUESTIONS,
        **{f"{question} All pairs": f"{name}_all" for question, name in OF_PAIRS.items()},
        **{f"{question} Clearly different pairs": name for question, name in OF_PAIRS.items()},
    }
    rows = [[question, *(_rate(run["rates"][name]) for run in raw.values())] for question, name in names.items()]
    rows.append(["Seconds", *(str(run["seconds"]) for run in raw.values())])
    return _table(["", *(f"seed {seed}" for seed in raw)], rows)


def _curves(raw: Figures) -> str:
    rows = []
    for labels in ("soft", "hard"):
        for seed, run in raw.items():
            curve, stop, rates = run["curves"][labels], run["stops"][labels], run["rates"]
            truth = rates["selfjudge_vs_jsft" if labels == "soft" else "hard_vs_jsft"]
            best = f"{_rate(curve['best']['truth'])} at step {curve['best']['step']}"
            gap = _difference(run["differences"][f"{labels}_belief_minus_truth"])
            stopped = f"step {stop['step']}" if stop else "silent"
            ends = [_rate(truth), _rate(rates[f"{labels}_belief"]), gap, best, _rate(curve["last"]["truth"])]
            words = f"{curve['first']['words']:.1f} → {curve['last']['words']:.1f}"
            rows.append([labels, seed, *ends, f"{curve['kl']:.2f}", words, stopped])
    measured = ["by the truth", "by the judge", "judge less truth, points", "curve, highest", "curve, last"]
    differences = [["soft − hard", *(_difference(run["differences"]["soft_minus_hard"]) for run in raw.values())]]
    return (
        _table(["labels", "seed", *measured, "KL", "words", "stop rule"], rows)
        + "\n\n"
        + _table(["points by the truth", *(f"seed {seed}" for seed in raw)], differences)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(line.replace("|  |", "| |") for line in lines)


def _rate(of: Figures) -> str:
    return f"{100 * of['rate']:.1f} % [{100 * of['low']:.1f}, {100 * of['high']:.1f}]"


def _difference(of: Figures) -> str:
    value, low, high = (f"{100 * of[key]:+.1f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def main() -> None:
    """Prints the figures of folders as JSON, or those of such a file as tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="folders of demo runs, or one file made of them")
    paths = parser.parse_args().paths
    for path in paths:
        if not (path.is_file() if len(paths) == 1 and not path.is_dir() else (path / "details.json").is_file()):
            parser.error(f"{path} is neither the folder of a finished demo nor a file of such figures")
    if paths[0].is_dir():
        print(json.dumps(gathered(paths), indent=1))
    else:
        print(tables(_json(paths[0])))


if __name__ == "__main__":
    main()
