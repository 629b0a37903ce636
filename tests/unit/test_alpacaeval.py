"""Our length-controlled win rates on AlpacaEval's published annotations, against the figures of its leaderboard.

The annotations are those of 528 of its 805 prompts, the official figures are over all. How far the two sets of prompts
are apart is part of every difference here. `benchmarks/length_control.py` compares on all prompts.
"""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from test_judge_sets import SHARED

from selfjudge.core import length_control
from selfjudge.core.length_control import equal_length, length_controlled
from selfjudge.data.difficulty import load_difficulties
from selfjudge.data.eval_prompts import EvalPrompt

ANNOTATIONS = SHARED / "multi_alpacaeval_gpt4_dev.jsonl.gz"
DIFFICULTIES = SHARED / "alpacaeval_instruction_difficulty.csv"
WIN_RATE = "gpt4turbo_winrate_vs_gpt4_1106_preview"
RIDGE = 0.3

# `length_controlled_winrate` of weighted_alpaca_eval_gpt4_turbo_leaderboard.csv, github.com/tatsu-lab/alpaca_eval.
FIGURES = """
alpaca-7b=5.88 alpaca-7b_concise=4.47 alpaca-7b_verbose=6.82 alpaca-farm-ppo-human=6.42
alpaca-farm-ppo-sim-gpt4-20k=7.12 baize-v2-13b=7.01 chatglm2-6b=4.36 claude=27.29 claude-2=28.16
claude-2.1=25.25 claude-2.1_concise=18.21 claude-instant-1.2=25.61 falcon-40b-instruct=5.61
falcon-7b-instruct=4.04 FuseChat-Gemma-2-9B-Instruct=70.18 FuseChat-Llama-3.1-8B-Instruct=65.39
FuseChat-Llama-3.2-1B-Instruct=25.27 FuseChat-Llama-3.2-3B-Instruct=54.00 FuseChat-Qwen-2.5-7B-Instruct=63.58
gemma-2b-it=5.44 gemma-7b-it=10.43 gpt-3.5-turbo-0301=18.09 gpt-3.5-turbo-1106=19.30
gpt-3.5-turbo-1106_concise=15.77 gpt-3.5-turbo-1106_verbose=22.00 gpt35_turbo_instruct=17.73
gpt4_0613_concise=21.58 humpback-llama2-70b=16.25 jina-chat=15.87 minichat-3b=5.73 minotaur-13b=11.47
Mixtral-8x7B-Instruct-v0.1_concise=22.96 nous-hermes-13b=9.72 oasst-rlhf-llama-33b=7.97 oasst-sft-llama-33b=9.87
oasst-sft-pythia-12b=3.27 openbuddy-falcon-40b-v9=8.99 openbuddy-llama-30b-v7.1=10.21
openbuddy-llama2-13b-v11.1=9.16 openbuddy-llama2-70b-v10.1=12.57 OpenHermes-2.5-Mistral-7B=16.25 phi-2=4.40
phi-2-sft=5.85 pythia-12b-mix-sft=4.22 Qwen-14B-Chat=12.38 text_davinci_001=9.03 ultralm-13b=7.11
vicuna-13b=9.22 vicuna-13b-v1.5=10.48 vicuna-13b-v1.5-togetherai=11.69 vicuna-7b=6.28 vicuna-7b-v1.3=7.16
vicuna-7b-v1.5=7.62 wizardlm-13b=9.83
"""
OFFICIAL = dict(entry.split("=") for entry in FIGURES.split())


class Annotations:
    """Scores and lengths of the systems in ``OFFICIAL``, [systems, prompts]; NaN where there is no annotation."""

    def __init__(self, rows):
        self.names, self.ids = list(OFFICIAL), [row["id"].removeprefix("alpacaeval-") for row in rows]
        self.official = np.array([float(OFFICIAL[name]) for name in self.names])
        self.scores = np.full((len(self.names), len(rows)), np.nan)
        self.length, self.reference = np.zeros(self.scores.shape, int), np.zeros(len(rows), int)
        place = {name: i for i, name in enumerate(self.names)}
        for j, row in enumerate(rows):
            self.reference[j] = len(row["references"]["gpt4_1106_preview"])
            for c in row["completions"]:
                if WIN_RATE in c and c["model"] in place:
                    self.scores[place[c["model"]], j] = c[WIN_RATE]
                    self.length[place[c["model"]], j] = len(c["response"])

    def of(self, system: int):
        """The prompts that a system is annotated on, its scores and the lengths."""
        there = np.flatnonzero(~np.isnan(self.scores[system]))
        lengths = np.stack([self.length[system, there], self.reference[there]], axis=1)
        return there, self.scores[system, there].tolist(), [tuple(pair) for pair in lengths.tolist()]

    def off(self, rate) -> np.ndarray:
        """How far ``rate(there, scores, lengths)`` is from the official figure, in points, [systems]."""
        return np.array([100 * rate(*self.of(i)).rate for i in range(len(self.names))]) - self.official


@pytest.fixture(scope="module")
def annotations():
    if not ANNOTATIONS.is_file():
        pytest.skip(f"AlpacaEval's annotations ({ANNOTATIONS.name}) are not beside this checkout")
    with gzip.open(ANNOTATIONS, "rt", encoding="utf-8") as handle:
        return Annotations([json.loads(line) for line in handle])


@pytest.fixture(autouse=True)
def one_resample(monkeypatch):
    monkeypatch.setattr(length_control, "RESAMPLES", 1)


def estimated(annotations, systems) -> np.ndarray:
    """Difficulties by AlpacaEval's joint regression: theta and phi for each system, a difficulty for each prompt."""
    there = ~np.isnan(annotations.scores[systems])
    y = np.where(there, annotations.scores[systems], 0)
    difference = (annotations.length[systems] - annotations.reference).astype(float)
    x = np.tanh(difference / np.std(difference, axis=1, ddof=1, where=there, keepdims=True))
    n, m = y.shape

    def loss(b):
        theta, phi, d = np.split(b, [n, 2 * n])
        logit = theta[:, None] + phi[:, None] * x + d
        rest = np.where(there, expit(logit) - y, 0)
        value = np.where(there, np.logaddexp(0, logit) - y * logit, 0).sum() + RIDGE / 2 * d @ d
        return value, np.concatenate([rest.sum(1), (rest * x).sum(1), rest.sum(0) + RIDGE * d])

    return minimize(loss, np.zeros(2 * n + m), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x[2 * n :]


def test_with_difficulties_estimated_from_other_systems(annotations):
    # AlpacaEval's own difficulties are not in the annotations. Half of the systems give those for the other half.
    half = np.arange(len(annotations.names)) % 2
    difficulties = [estimated(annotations, np.flatnonzero(half != side)) for side in (0, 1)]
    off = np.array(
        [
            100 * length_controlled(scores, lengths, difficulties[half[i]][there].tolist()).rate - official
            for i, official in enumerate(annotations.official)
            for there, scores, lengths in [annotations.of(i)]
        ]
    )
    assert len(off) >= 50
    assert np.abs(off).mean() <= 1.5
    assert np.abs(off).max() <= 5


def test_with_alpacaevals_difficulties(annotations):
    if not DIFFICULTIES.is_file():
        pytest.skip(f"{DIFFICULTIES.name} is not there; benchmarks/length_control.py --difficulty-out writes it")
    prompts = [EvalPrompt(id=name, prompt=()) for name in annotations.ids]
    d = np.array(load_difficulties(DIFFICULTIES, prompts))
    off = annotations.off(lambda there, scores, lengths: length_controlled(scores, lengths, d[there].tolist()))
    assert np.abs(off).mean() <= 1
    assert np.abs(off).max() <= 5


def test_without_difficulties(annotations, monkeypatch):
    off = annotations.off(lambda _, scores, lengths: equal_length(scores, lengths))
    assert np.abs(off).mean() <= 1.5
    assert np.abs(off).max() <= 7
    monkeypatch.setattr(length_control, "SHRINKAGE", 0)
    unshrunk = annotations.off(lambda _, scores, lengths: equal_length(scores, lengths))
    assert unshrunk.mean() > 5  # what the shrinkage is for: without it the shorter systems are overrated
    assert unshrunk.max() > 20
