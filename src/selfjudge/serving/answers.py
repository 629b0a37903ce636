"""From outcomes to the bodies of replies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from selfjudge.records import Comparison, Completion
from selfjudge.replies import (
    AssistantMessage,
    ChatChoice,
    ChatReply,
    JudgeReply,
    Model,
    PairVerdict,
    TextChoice,
    TextReply,
    Tournament,
    Usage,
)
from selfjudge.serving.backend import Judged
from selfjudge.serving.contest import Outcome, Task
from selfjudge.serving.ids import new_id
from selfjudge.serving.metrics import TOKENS, count_judgments
from selfjudge.serving.requests import ChatRequest, CompletionRequest


@dataclass(frozen=True)
class Served:
    """A model as clients see it: its name, its context in tokens, and the name of the model that judges its answers."""

    name: str
    max_length: int
    judge: str
    since: int = field(default_factory=lambda: int(time.time()))

    def model(self) -> Model:
        """Returns its entry in the list of models."""
        return Model(id=self.name, created=self.since, max_model_len=self.max_length, judge=self.judge)


def chat_reply(served: Served, body: ChatRequest, tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> ChatReply:
    """Returns the reply to a dialogue: its best ``n`` candidates."""
    (task,), (outcome,) = tasks, outcomes
    choices = [
        ChatChoice(index=i, message=AssistantMessage(role="assistant", content=c.text, **_thought(c)),
                   finish_reason=c.finish_reason, logprobs=None)
        for i, c in enumerate(_best(outcome, body.n))
    ]  # fmt: skip
    reply = ChatReply(
        id=new_id("chatcmpl"), object="chat.completion", created=int(time.time()), model=served.name,
        choices=choices, usage=_usage(outcomes),
    )  # fmt: skip
    if body.selfjudge or outcome.failure:
        reply.selfjudge = _tournament(task, outcome)
    return reply


def text_reply(
    served: Served, body: CompletionRequest, tasks: Sequence[Task], outcomes: Sequence[Outcome]
) -> TextReply:
    """Returns the reply to prompts: the best ``n`` candidates of each."""
    best = [c for outcome in outcomes for c in _best(outcome, body.n)]
    reply = TextReply(
        id=new_id("cmpl"), object="text_completion", created=int(time.time()), model=served.name,
        choices=[TextChoice(index=i, text=c.text, finish_reason=c.finish_reason, logprobs=None, **_thought(c))
                 for i, c in enumerate(best)],
        usage=_usage(outcomes),
    )  # fmt: skip
    if body.selfjudge or any(outcome.failure for outcome in outcomes):
        reply.selfjudge = [_tournament(*pair) for pair in zip(tasks, outcomes, strict=True)]
    return reply


def verdicts_reply(pairs: Sequence[Comparison], judged: Judged, *, principles: bool) -> JudgeReply:
    """Returns the reply to pairs; ``principles`` adds their verdicts one by one."""
    verdicts = [
        PairVerdict(id=pair.id, preferred=v.preferred, strength=v.strength, agree=v.agree, label_mass=v.label_mass,
                    p=v.p)
        for pair, v in zip(pairs, judged.verdicts, strict=True)
    ]  # fmt: skip
    if principles:
        for told, v in zip(verdicts, judged.verdicts, strict=True):
            told.principles = list(v.principles)
    TOKENS.labels("prompt").inc(judged.tokens)
    count_judgments(judged.verdicts)
    return JudgeReply(
        verdicts=verdicts, usage=Usage(prompt_tokens=judged.tokens, completion_tokens=0, total_tokens=judged.tokens)
    )


def _best(outcome: Outcome, n: int | None) -> list[Completion]:
    return [outcome.candidates[place] for place in outcome.placing[: n or 1]]


def _thought(completion: Completion) -> dict[str, str]:
    """Returns the field of a thought, where there is one; replies leave out what was not set."""
    thought = completion.reasoning_content
    return {} if thought is None else {"reasoning_content": thought}


def _usage(outcomes: Sequence[Outcome]) -> Usage:
    prompt = sum(outcome.prompt_tokens for outcome in outcomes)
    completion = sum(outcome.completion_tokens for outcome in outcomes)
    TOKENS.labels("prompt").inc(prompt)
    TOKENS.labels("completion").inc(completion)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _tournament(task: Task, outcome: Outcome) -> Tournament:
    bracket = outcome.bracket
    return Tournament(
        complete=outcome.failure is None,
        failure=outcome.failure,
        seed=task.params.seed,
        candidates=[candidate.text for candidate in outcome.candidates],
        placing=list(outcome.placing),
        order=list(bracket.state.order) if bracket else [],
        byes=bracket.state.byes if bracket else [],
        matches=bracket.matches if bracket else [],
    )
