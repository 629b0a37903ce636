"""The figures in the text are those of the raw files in docs/results, and the shipped rates are the tuned ones."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from families import FAMILIES
from models.families_table import MODELS, markdown

from selfjudge.recipes.load import load_recipe

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def raw(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|") and "---" not in line]


def missing(tables: str, *pages: str) -> list[str]:
    """The table rows that stand on none of the pages."""
    written = {line for page in pages for line in rows((ROOT / page).read_text(encoding="utf-8"))}
    return [row for row in rows(tables) if row not in written]


def test_the_study_has_the_figures_of_its_raw_file() -> None:
    assert missing(script("study_tables").tables(raw("world-study")), "docs/study.md") == []


def test_the_demo_has_the_figures_of_its_raw_file() -> None:
    assert missing(script("demo_tables").tables(raw("demo")), "README.md", "docs/experiments.md") == []


def test_the_gpu_has_the_figures_of_its_raw_file() -> None:
    assert missing(script("gpu_tables").tables(raw("gpu")), "docs/performance.md") == []


def test_the_shipped_rates_are_the_best_of_the_tuning() -> None:
    study, tuning = load_recipe("world-study").study, raw("world-study")["tuning"]
    trained = {name for name, cell in study.cells.items() if cell.tuned_by}
    assert tuning.keys() == trained
    for name, found in tuning.items():
        scores = {float(rate): score["rate"] for rate, score in found["rates"].items()}
        assert study.cells[name].rate == found["best"] == max(scores, key=scores.__getitem__), name
        tried = sorted(scores)
        assert len(tried) >= 7
        assert scores[found["best"]] > max(scores[tried[0]], scores[tried[-1]]), f"{name}: the best lies at an end"


def test_every_cell_has_a_result_on_every_seed() -> None:
    study, found = load_recipe("world-study").study, raw("world-study")
    assert len(found["seeds"]) >= 5
    seeds = {str(seed) for seed in found["seeds"]} | {"all"}
    policies = {name for name, cell in study.cells.items() if cell.method not in ("best-of-n", "reward-model")}
    for name in policies - {"judgment-only"} | {f"tournament of {n}" for n in study.candidates}:
        assert found["results"][name].keys() == seeds
        for rate in found["results"][name].values():
            assert rate["low"] <= rate["rate"] <= rate["high"]
    assert {"jsft", "judgment-only", "reward-model", "self-judge"} <= found["judges"].keys()
    assert len(found["claims"]) == len(study.claims)
    assert all(claim["decision"] in ("holds", "fails", "not shown") for claim in found["claims"])


def test_the_readme_tells_the_studys_leads_and_lags_alike() -> None:
    """Each as the distance of the better one, with its interval."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for words in (" points", " better", "("):
        text = text.replace(words, "")
    claims = {claim["claim"]: claim["difference"] for claim in raw("world-study")["claims"]}
    for worse in ("sft", "rso", "off-policy", "rlhf", "rest", "dpo"):
        value, low, high = (100 * claims[f"self-judge > {worse}"][key] for key in ("value", "low", "high"))
        lead, lag = f"{value:.1f} [{low:.1f}, {high:.1f}]", f"{-value:.1f} [{-high:.1f}, {-low:.1f}]"
        assert lead.replace("-", "−") in text or (value < 0 and lag in text), worse


COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def test_the_studys_sentences_have_the_figures_of_its_raw_file() -> None:
    """What the text picks out, from the raw file: a changed figure must be told anew."""
    found = raw("world-study")
    decisions = Counter(claim["decision"] for claim in found["claims"])
    held, failed, open_ = (COUNTS[decisions[decision]] for decision in ("holds", "fails", "not shown"))
    claims = {claim["claim"]: claim["difference"] for claim in found["claims"]}
    curves = {curve["name"]: curve for curve in found["curves"]}
    ends = [f"{100 * rate:.0f}" for rate in curves["hard labels 200 steps"]["points"][-1]["seeds"].values()]
    last = curves["self-judge 200 steps"]["points"][-1]
    fired = Counter(curves["self-judge 200 steps"]["stops"].values())
    rates = {name: tried["rates"] for name, tried in found["tuning"].items()}
    told = (
        f"{held} hold, {failed} fail and {open_} are not shown",
        f"beats SFT by {points(claims['self-judge > sft'])} points and RSO by {points(claims['self-judge > rso'])} [",
        f"RLHF is better by {points(claims['self-judge > rlhf'])} points",
        f"and ReST by {points(claims['self-judge > rest'])}",
        f"with the same judge, by {points(claims['self-judge > off-policy'])} points",
        f"4 beat 1 by {points(claims['tournament of 4 > tournament of 1'])} points",
        f"16 beat 4 by {points(claims['tournament of 16 > tournament of 4'])}",
        f"is {points(claims['tournament of 16 > best by reward of 16'])} points behind",
        f"with as many judgments {points(claims['tournament of 16 > best by reward of 30'])}",
        f"stand at {', '.join(ends[:-1])} and {ends[-1]} %",
        f"{points({'value': last['belief']['value'] - last['truth']['value']}, 0)} points above the truth at step 200",
        f"at step 103 or 104 on {COUNTS[fired[103] + fired[104]]} seeds",
        f"off-policy would have {100 * rates['off-policy']['0.00022']['rate']:.1f} %",
        f"offline {100 * rates['offline']['0.00022']['rate']:.1f} %",
    )
    text = " ".join((ROOT / "docs" / "study.md").read_text(encoding="utf-8").split())
    assert [sentence for sentence in told if sentence not in text] == []


def points(difference: dict[str, float], digits: int = 1) -> str:
    """The size of a difference of shares in points."""
    return f"{abs(100 * difference['value']):.{digits}f}"


def test_the_families_of_models() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    found = raw("models")
    assert markdown(found) in page
    assert found.keys() == MODELS.keys() == FAMILIES.keys()
