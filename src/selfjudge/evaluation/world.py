"""Measuring a policy in the small world: by the true utility, and by what the judge believes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import TrainerCallback

from selfjudge.core.statistics import Rate, mean_rate
from selfjudge.core.verdict import agreement_score
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.evaluation.judging import JudgeSummary, summarise
from selfjudge.judge import Judge, as_messages
from selfjudge.records import Comparison, Preferred, Verdict
from selfjudge.world.truth import clearly_different, utility


def sample_texts(engine: TransformersEngine, prompts: Sequence[str], params: SamplingParams) -> list[list[str]]:
    """Returns ``params.n`` responses to each instruction."""
    ids = [engine.chat.prompt_ids(as_messages(prompt)) for prompt in prompts]
    return [[completion.text for completion in completions] for completions in engine.sample(ids, params)]


def true_win_rate(prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> Rate:
    """Returns how often our response has the larger true utility; equal utilities count one half."""
    pairs = zip(prompts, ours, theirs, strict=True)
    return mean_rate([agreement_score(true_label(prompt, a, b), "A") for prompt, a, b in pairs])


def true_label(prompt: str, response_a: str, response_b: str) -> Preferred:
    """Returns the side of larger true utility."""
    a, b = utility(prompt, response_a), utility(prompt, response_b)
    return "A" if a > b else "B" if b > a else "tie"


def labelled_pairs(prompts: Sequence[str], samples: Sequence[Sequence[str]]) -> list[Comparison]:
    """Returns the first two samples of each prompt as a pair with its true label, where they differ."""
    return [
        Comparison(id=str(i), prompt=as_messages(prompt), response_a=a, response_b=b, label=true_label(prompt, a, b))
        for i, (prompt, (a, b, *_)) in enumerate(zip(prompts, samples, strict=True))
        if a != b
    ]


@dataclass(frozen=True)
class JudgeAudit:
    """The judge against the truth on on-policy pairs: all of them, and those of clearly different utility."""

    pairs: list[Comparison]
    verdicts: list[Verdict]
    overall: JudgeSummary
    clear: JudgeSummary


def audit_judge(judge: Judge, pairs: list[Comparison]) -> JudgeAudit:
    """Judges pairs that carry their true label and compares."""
    verdicts = judge.judge(pairs)
    clear = [
        (c, v)
        for c, v in zip(pairs, verdicts, strict=True)
        if clearly_different(*(utility(c.prompt[-1].content, text) for text in (c.response_a, c.response_b)))
    ]
    return JudgeAudit(pairs, verdicts, summarise(pairs, verdicts), summarise(*map(list, zip(*clear, strict=True))))


@dataclass(frozen=True)
class CurvePoint:
    """One measurement along a training: win rates against the start by the truth and by the frozen judge, if any."""

    step: int
    truth: Rate
    belief: Rate | None
    words: float

    def row(self) -> dict[str, Any]:
        """Returns a row of curve.jsonl."""
        belief = self.belief.model_dump() if self.belief else None
        return {"step": self.step, "truth": self.truth.model_dump(), "belief": belief, "words": self.words}


class TruthCurve(TrainerCallback):
    """Measures the policy every few steps for the report. It watches only: nothing it sees reaches the training."""

    def __init__(
        self,
        start: TransformersEngine,
        judge: Judge | None,
        prompts: Sequence[str],
        params: SamplingParams,
        every: int,
        on_point: Callable[[CurvePoint], None],
    ) -> None:
        """Takes the policy that training starts from, to compare with; ``on_point`` gets each measurement."""
        self.seconds = 0.0
        """What the measuring took so far."""
        self._chat, self._judge = start.chat, judge
        self._prompts = prompts
        self._start = [texts[0] for texts in sample_texts(start, prompts, params)]
        self._params = params
        self._every = every
        self._on_point = on_point

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measures step 0, where both policies are the same."""
        if state.global_step == 0:  # a resumed training has done so before
            self._measure(0, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measures every few steps and after the last."""
        if state.global_step % self._every == 0 or control.should_training_stop:
            self._measure(state.global_step, model)

    def _measure(self, step: int, model: Any) -> None:
        begin = time.perf_counter()
        texts = [s[0] for s in sample_texts(TransformersEngine(model, self._chat), self._prompts, self._params)]
        truth = true_win_rate(self._prompts, texts, self._start)
        self._on_point(CurvePoint(step, truth, self._belief(texts), fmean(len(text.split()) for text in texts)))
        self.seconds += time.perf_counter() - begin

    def _belief(self, texts: Sequence[str]) -> Rate | None:
        if self._judge is None:
            return None
        pairs = [
            Comparison(id=str(i), prompt=as_messages(p), response_a=a, response_b=b)
            for i, (p, a, b) in enumerate(zip(self._prompts, texts, self._start, strict=True))
        ]
        return mean_rate([agreement_score(v.preferred, "A") for v in self._judge.judge(pairs)])
