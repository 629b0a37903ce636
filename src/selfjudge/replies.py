"""What `selfjudge serve` answers with: for the server, and for clients."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from selfjudge.records import Match, OrderProbabilities, Preferred, PrincipleVerdict

FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens spent on all candidates and judgments: those read (prompts) and those drawn (completions)."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Tournament(BaseModel):
    """How an answer was found.

    ``complete`` is False where judging failed midway; ``failure`` then says so, and the answer is only the best placed
    of the matches that were played. ``placing`` has the places of all ``candidates``, the best first. ``order`` is the
    seeded draw, ``byes`` are (round, candidate). A candidate that is not in ``order`` took no part, as it
    was cut off before its answer began.
    """

    complete: bool
    failure: str | None
    seed: int
    candidates: list[str]
    placing: list[int]
    order: list[int]
    byes: list[tuple[int, int]]
    matches: list[Match]


class AssistantMessage(BaseModel):
    """An answer. ``reasoning_content``: the thought before it, where there is one."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None = None


class ChatChoice(BaseModel):
    """One of the answers, by placing."""

    index: int
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: None = None


class ChatReply(BaseModel):
    """``chat.completion`` of OpenAI's API, with the tournament where it was asked for."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    selfjudge: Tournament | None = None


class TextChoice(BaseModel):
    """One of the answers: those to the first prompt by placing, then those to the second.

    ``reasoning_content``: the thought before it, where there is one.
    """

    index: int
    text: str
    reasoning_content: str | None = None
    finish_reason: FinishReason
    logprobs: None = None


class TextReply(BaseModel):
    """``text_completion`` of OpenAI's API, with one tournament for each prompt where they were asked for."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    selfjudge: list[Tournament] | None = None


class PairVerdict(BaseModel):
    """The fields that ``selfjudge judge`` writes, and the verdicts of the principles one by one where asked for."""

    id: str
    preferred: Preferred
    strength: float
    agree: bool
    label_mass: float
    p: OrderProbabilities
    principles: list[PrincipleVerdict] | None = None


class JudgeReply(BaseModel):
    """One verdict for each pair, in their order."""

    verdicts: list[PairVerdict]
    usage: Usage


class Model(BaseModel):
    """A model that answers; ``max_model_len`` is its context in tokens, ``judge`` the name of the model that judges."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["selfjudge"] = "selfjudge"
    max_model_len: int
    judge: str


class ModelList(BaseModel):
    """The model that is served, and its rival where there is one."""

    object: Literal["list"] = "list"
    data: list[Model]
