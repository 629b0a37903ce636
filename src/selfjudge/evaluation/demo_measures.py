"""What the demo measures when all is trained: everything against the truth, on prompts of tasks that are new to all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfjudge.core.crossed import Scores, crossed_mean, crossed_rate, paired
from selfjudge.core.statistics import Estimate, Rate, reliability
from selfjudge.core.verdict import agreement_score, winner_strength
from selfjudge.data.load import prepare_data
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.evaluation.world import (
    audit_judge,
    believed_wins,
    by_task,
    is_clear,
    labelled_pairs,
    sample_texts,
    single_texts,
    true_label,
    true_wins,
)
from selfjudge.judge import Judge, as_messages
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Bracket, Comparison, Preferred, Verdict
from selfjudge.tournament import play
from selfjudge.world.people import prompts as world_prompts
from selfjudge.world.truth import utility

PROMPTS = 800
CANDIDATES = 8
_SHOWN_SAMPLES = 6


@dataclass(frozen=True)
class Policies:
    """The JSFT policy, those self-trained on soft and on hard labels, and the frozen judge (the JSFT model)."""

    jsft: TransformersEngine
    soft: TransformersEngine
    hard: TransformersEngine
    judge: Judge


@dataclass(frozen=True)
class Measured:
    """``rates`` by name; ``differences`` in shares, by name; ``details`` for the report. Intervals are over tasks."""

    rates: dict[str, Rate]
    differences: dict[str, Estimate]
    details: dict[str, Any]


@dataclass(frozen=True)
class _Tournament:
    candidates: list[list[str]]
    brackets: list[Bracket]

    @property
    def winners(self) -> list[str]:
        return [texts[b.winner] for texts, b in zip(self.candidates, self.brackets, strict=True)]


def measure(policies: Policies, recipe: Recipe, params: SamplingParams) -> Measured:
    """Measures the policies and the judge; the two sides of a comparison are sampled independently."""
    prompts = world_prompts(PROMPTS, recipe.seed, "results")
    single = {
        name: single_texts(getattr(policies, name), prompts, params.seeded_for(name))
        for name in ("jsft", "soft", "hard")
    }
    played = _play(policies.jsft, policies.judge, prompts, params.seeded_for("candidates"))
    after = _play(policies.soft, policies.judge, prompts, params.seeded_for("candidates after"))
    pairs = [pair for pair in labelled_pairs(prompts, played.candidates) if pair.label != "tie"]
    judged = list(zip(pairs, policies.judge.judge(pairs), strict=True))
    wins = _wins_over_start(policies.judge, prompts, single)
    rates = {
        "selfjudge_vs_jsft": crossed_rate(wins["soft by the truth"]),
        "hard_vs_jsft": crossed_rate(wins["hard by the truth"]),
        "soft_belief": crossed_rate(wins["soft by the judge"]),
        "hard_belief": crossed_rate(wins["hard by the judge"]),
        "tournament_vs_single": crossed_rate(true_wins(prompts, played.winners, single["jsft"])),
        "selfjudge_tournament_vs_single": crossed_rate(true_wins(prompts, after.winners, single["soft"])),
        **_judge_rates(judged),
        **_label_rates(recipe),
    }
    shown = [
        _sample_row(prompts[i], single["jsft"][i], played.winners[i], single["soft"][i]) for i in range(_SHOWN_SAMPLES)
    ]
    details = {
        "n": CANDIDATES,
        "reliability": [b.model_dump() for b in _reliability(judged)],
        "bracket": _bracket(prompts[0], played.candidates[0], played.brackets[0]),
        "samples": shown,
    }
    return Measured(rates, _differences(wins), details)


def _wins_over_start(judge: Judge, prompts: Sequence[str], single: Mapping[str, Sequence[str]]) -> dict[str, Scores]:
    found = {}
    for labels in ("soft", "hard"):
        found[f"{labels} by the truth"] = true_wins(prompts, single[labels], single["jsft"])
        found[f"{labels} by the judge"] = believed_wins(judge, prompts, single[labels], single["jsft"])
    return found


def _differences(wins: Mapping[str, Scores]) -> dict[str, Estimate]:
    """Returns what the report has to say whether it is shown: soft against hard labels, and belief against truth."""
    return {
        "soft_minus_hard": crossed_mean(paired(wins["soft by the truth"], wins["hard by the truth"])),
        "soft_belief_minus_truth": crossed_mean(paired(wins["soft by the judge"], wins["soft by the truth"])),
        "hard_belief_minus_truth": crossed_mean(paired(wins["hard by the judge"], wins["hard by the truth"])),
    }


def _judge_rates(judged: Sequence[tuple[Comparison, Verdict]]) -> dict[str, Rate]:
    """Returns the judge's rates on all pairs, and on the clear ones alone."""
    everything, clear = audit_judge(judged), audit_judge([(c, v) for c, v in judged if is_clear(c)])
    return {
        "judge_accuracy": clear.accuracy,
        "longer_wins": clear.longer_wins,
        "order_agreement": clear.agreement,
        "judge_accuracy_all": everything.accuracy,
        "longer_wins_all": everything.longer_wins,
        "order_agreement_all": everything.agreement,
    }


def _play(policy: TransformersEngine, judge: Judge, prompts: Sequence[str], params: SamplingParams) -> _Tournament:
    candidates = sample_texts(policy, prompts, replace(params, n=CANDIDATES))
    return _Tournament(candidates, play(judge, [as_messages(p) for p in prompts], candidates, params.seed))


def _label_rates(recipe: Recipe) -> dict[str, Rate]:
    """Returns how often people's label in the training data names the better response, of clear pairs and of all."""
    pairs = [
        Comparison(id=r.id, prompt=r.prompt, response_a=r.chosen, response_b=r.rejected, label="A")
        for r in prepare_data(recipe.data, recipe.seed).judgment
    ]
    told = [
        (c, label) for c in pairs if (label := true_label(c.prompt[-1].content, c.response_a, c.response_b)) != "tie"
    ]

    def rate(rows: Sequence[tuple[Comparison, Preferred]]) -> Rate:
        return crossed_rate(
            by_task([c.prompt[-1].content for c, _ in rows], [float(label == "A") for _, label in rows])
        )

    return {"labels_right": rate([row for row in told if is_clear(row[0])]), "labels_right_all": rate(told)}


def _reliability(judged: Sequence[tuple[Comparison, Verdict]]) -> list[Any]:
    return reliability(
        [winner_strength(v.preferred, v.strength) for _, v in judged],
        [agreement_score(v.preferred, c.label) for c, v in judged],
    )


def _bracket(prompt: str, candidates: Sequence[str], bracket: Bracket) -> dict[str, Any]:
    rounds: list[list[dict[str, Any]]] = []
    for match in bracket.matches:
        row: dict[str, Any] = {"a": match.a, "b": match.b, "winner": match.winner}
        for side in ("a", "b"):
            text = candidates[row[side]]
            row |= {f"text_{side}": text, f"utility_{side}": utility(prompt, text)}
        row |= match.verdict.model_dump(include={"preferred", "strength", "agree"})
        if match.round == len(rounds):
            rounds.append([])
        rounds[match.round].append(row)
    return {"prompt": prompt, "rounds": rounds}


def _sample_row(prompt: str, *answers: str) -> dict[str, Any]:
    return {"prompt": prompt, "answers": [{"text": text, "utility": utility(prompt, text)} for text in answers]}
