"""Blind pairs of two models for people to vote on, beside what the judge says of them."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from selfjudge.core.statistics import Rate
from selfjudge.data.io import json_line
from selfjudge.records import Comparison, Completion, Preferred
from selfjudge.serving.backend import NamedBackend
from selfjudge.serving.contest import Task
from selfjudge.serving.errors import ApiError
from selfjudge.serving.metrics import CANDIDATES, TOKENS, count_judgments
from selfjudge.serving.requests import Body, ChatMessage, ChatRequest, Text
from selfjudge.serving.votes import ShownPair, VoteStore

NEEDED = (
    "The arena is closed: it needs two models and a place for the votes. Start the server with --arena FILE and either "
    "--adapter (the model with it against the model without it) or --rival (another model)."
)

T = TypeVar("T")


class ArenaPrompt(Body):
    """``POST /v1/arena/pairs``."""

    prompt: Text
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="Default 1; 0 is greedy.")

    def chat(self, model: str) -> ChatRequest:
        """Returns the same as a request for two candidates."""
        message = ChatMessage(role="user", content=self.prompt)
        return ChatRequest(model=model, messages=[message], n_candidates=2, temperature=self.temperature)


class ArenaPair(BaseModel):
    """Two responses; nothing says which model wrote which."""

    id: str
    prompt: str
    response_a: str
    response_b: str


class Vote(Body):
    """``POST /v1/arena/votes``: the better response of a pair."""

    pair: Text
    vote: Preferred


class Revealed(BaseModel):
    """What was hidden before the vote: the models, and the judge's verdict (``strength`` is that of A)."""

    model_a: str
    model_b: str
    preferred: Preferred
    strength: float


class ArenaState(BaseModel):
    """``agreement`` of the judge with the people, over the votes that are no ties; a tie of the judge counts one half.

    ``models`` is empty where the arena is closed, and ``needed`` says then what it needs.
    """

    models: list[str]
    needed: str | None
    wins: dict[str, int]
    ties: int
    agreement: Rate | None


class Arena:
    """Two models, a judge and the votes."""

    def __init__(self, contestants: tuple[NamedBackend, NamedBackend], store: VoteStore) -> None:
        """Takes two models under the one judge that is compared with the people."""
        self._contestants = contestants
        self._store = store
        self._names = tuple(contestant.name for contestant in contestants)

    async def pair(self, tasks: Sequence[Task]) -> ArenaPair:
        """Draws a response of each model, judges them, and keeps them until the vote.

        Args:
            tasks: the same prompt for each of the contestants, in their order.

        Raises:
            ApiError: 409, if they are the same; 503, if the pair cannot be kept.
            DataError: if they do not fit the judge's context together.
            EngineError: if a model fails.
        """
        sides = random.sample(list(zip(self._contestants, tasks, strict=True)), 2)
        async with asyncio.TaskGroup() as group:
            drawn = [group.create_task(_first(*side)) for side in sides]
        answers = [side.result() for side in drawn]
        CANDIDATES.inc(2)
        TOKENS.labels("completion").inc(sum(len(answer.ids) for answer in answers))
        text_a, text_b = (answer.text for answer in answers)
        if text_a == text_b:
            raise ApiError(409, "Both models gave the same answer: try again, or another prompt.", "identical")
        pair_id = uuid.uuid4().hex
        (a, task), (b, _) = sides
        comparison = Comparison(id=pair_id, prompt=task.prompt, response_a=text_a, response_b=text_b)
        judged = await a.backend.verdicts([comparison])
        count_judgments(judged.verdicts)
        TOKENS.labels("prompt").inc(sum(len(side.ids) for side in tasks) + judged.tokens)
        (verdict,) = judged.verdicts
        prompt = task.prompt[-1].content
        shown = ShownPair(pair_id, prompt, text_a, text_b, a.name, b.name, verdict.preferred, verdict.strength)
        await _stored(self._store.add, shown)
        return ArenaPair(id=pair_id, prompt=prompt, response_a=text_a, response_b=text_b)

    async def vote(self, body: Vote) -> Revealed:
        """Takes a vote and tells what was hidden.

        Raises:
            ApiError: 404, if there is no such pair or it has a vote; 503, if the vote cannot be written.
        """
        pair = await _stored(self._store.vote, body.pair, body.vote)
        if pair is None:
            raise ApiError(404, "There is no such pair that waits for a vote.", "not_found", "pair")
        return Revealed(model_a=pair.model_a, model_b=pair.model_b, preferred=pair.preferred, strength=pair.strength)

    async def state(self) -> ArenaState:
        """Tells what came of the votes so far."""
        tally = await _stored(self._store.tally, self._names)
        return ArenaState(
            models=list(self._names), needed=None, wins=tally.wins, ties=tally.ties, agreement=tally.agreement
        )  # fmt: skip

    async def export(self) -> str:
        """Returns the votes as JSON lines of preferences."""
        rows = await _stored(lambda: list(self._store.preferences()))
        return "".join(f"{json_line(row)}\n" for row in rows)


CLOSED = ArenaState(models=[], needed=NEEDED, wins={}, ties=0, agreement=None)


async def _first(contestant: NamedBackend, task: Task) -> Completion:
    # Of one seed, models that hardly differ would say the same.
    params = replace(task.params, n=1, seed=random.getrandbits(31))
    return (await contestant.backend.sample(task.ids, params, repeatable=False))[0]


async def _stored(call: Callable[..., T], *arguments: object) -> T:
    try:
        return await asyncio.to_thread(call, *arguments)
    except SQLAlchemyError as e:
        raise ApiError(503, "The database of votes does not answer: try again later.", "votes_failed") from e
