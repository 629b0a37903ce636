"""Measuring a policy in the small world: by the true utility, and by what the judge believes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import TrainerCallback

from selfjudge.core.crossed import Scores, crossed_rate
from selfjudge.core.statistics import Rate
from selfjudge.core.verdict import agreement_score
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.evaluation.judging import longer
from selfjudge.judge import Judge, as_messages
from selfjudge.records import Comparison, Preferred, Verdict
from selfjudge.world.grammar import parse, task_of
from selfjudge.world.truth import clearly_different, utility


def sample_texts(engine: TransformersEngine, prompts: Sequence[str], params: SamplingParams) -> list[list[str]]:
    """Returns ``params.n`` responses to each instruction."""
    ids = [engine.chat.prompt_ids(as_messages(prompt)) for prompt in prompts]
    return [[completion.text for completion in completions] for completions in engine.sample(ids, params)]


def by_task(prompts: Sequence[str], scores: Sequence[float]) -> Scores:
    """Returns one seed's score of each prompt with the prompt's task, for intervals over tasks."""
    return {0: [(task_of(parse(prompt)), score) for prompt, score in zip(prompts, scores, strict=True)]}


def true_wins(prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> Scores:
    """Returns 1 where our response has the larger true utility, one half where they are equal, else 0."""
    pairs = zip(prompts, ours, theirs, strict=True)
    return by_task(prompts, [agreement_score(true_label(prompt, a, b), "A") for prompt, a, b in pairs])


def believed_wins(judge: Judge, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> Scores:
    """Returns 1 where the judge prefers our response, one half for a tie, else 0."""
    pairs = [
        Comparison(id=str(i), prompt=as_messages(prompt), response_a=a, response_b=b)
        for i, (prompt, a, b) in enumerate(zip(prompts, ours, theirs, strict=True))
    ]
    return by_task(prompts, [agreement_score(verdict.preferred, "A") for verdict in judge.judge(pairs)])


def true_label(prompt: str, response_a: str, response_b: str) -> Preferred:
    """Returns the side of larger true utility."""
    a, b = utility(prompt, response_a), utility(prompt, response_b)
    return "A" if a > b else "B" if b > a else "tie"


def single_texts(engine: TransformersEngine, prompts: Sequence[str], params: SamplingParams) -> list[str]:
    """Returns one response to each instruction, the first of ``params.n``."""
    return [texts[0] for texts in sample_texts(engine, prompts, params)]


def labelled_pairs(prompts: Sequence[str], samples: Sequence[Sequence[str]]) -> list[Comparison]:
    """Returns the first two samples of each prompt as a pair with its true label, where they differ."""
    return [
        Comparison(id=str(i), prompt=as_messages(prompt), response_a=a, response_b=b, label=true_label(prompt, a, b))
        for i, (prompt, (a, b, *_)) in enumerate(zip(prompts, samples, strict=True))
        if a != b
    ]


@dataclass(frozen=True)
class JudgeAudit:
    """A judge against the truth, and how often "the longer wins" would be right on the same pairs.

    Intervals are over tasks.
    """

    accuracy: Rate
    longer_wins: Rate
    agreement: Rate


def audit_judge(judged: Sequence[tuple[Comparison, Verdict]]) -> JudgeAudit:
    """Compares verdicts with the true labels of their pairs, none of which is a tie."""
    prompts = [c.prompt[-1].content for c, _ in judged]

    def rate(scores: Sequence[float]) -> Rate:
        return crossed_rate(by_task(prompts, scores))

    return JudgeAudit(
        accuracy=rate([agreement_score(v.preferred, c.label) for c, v in judged]),
        longer_wins=rate([agreement_score(longer(c), c.label) for c, _ in judged]),
        agreement=rate([float(v.agree) for _, v in judged]),
    )


def is_clear(pair: Comparison) -> bool:
    """Returns whether the utilities of the two responses are clearly different."""
    return clearly_different(*(utility(pair.prompt[-1].content, text) for text in (pair.response_a, pair.response_b)))


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
    """Measures the policy every few steps for the report. It watches only: nothing it sees reaches the training.

    Start and policy are sampled independently of each other. The policy has the same random numbers at every step, so
    that steps differ by the training and less by chance.
    """

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
        """What the measuring took of the processor so far."""
        self._chat, self._judge = start.chat, judge
        self._prompts = prompts
        self._start = single_texts(start, prompts, params.seeded_for("start"))
        self._params = params.seeded_for("policy")
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
        begin = time.process_time()
        prompts, start = self._prompts, self._start
        texts = single_texts(TransformersEngine(model, self._chat), prompts, self._params)
        truth = crossed_rate(true_wins(prompts, texts, start))
        belief = crossed_rate(believed_wins(self._judge, prompts, texts, start)) if self._judge else None
        self._on_point(CurvePoint(step, truth, belief, fmean(len(text.split()) for text in texts)))
        self.seconds += time.process_time() - begin
