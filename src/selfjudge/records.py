"""What flows through the system. Frozen, typed, JSON in and out.

Every record is a frozen pydantic model: ``record.model_dump_json()`` writes one JSONL line,
``Record.model_validate_json(line)`` reads it back.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "user", "assistant"]
Preferred = Literal["A", "B", "tie"]

OVERALL = "overall"
"""The principle of a pair that was compared as a whole rather than under one named principle."""


class Record(BaseModel):
    """Base of all records: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a dialogue."""

    role: Role
    content: str


class PreferenceRecord(Record):
    """One labelled pair: ``chosen`` is better than ``rejected`` under ``principle``.

    ``prompt`` ends with the user turn that both responses answer; earlier assistant turns are part of it.
    Rationales, where a source has them, say why each response was rated as it was. ``strength``, where a source tells
    it, is the belief that ``chosen`` is better, 0.5 to 1.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    principle: str = OVERALL
    chosen_rationale: str | None = None
    rejected_rationale: str | None = None
    strength: float | None = Field(None, ge=0.5, le=1)
    source: str = ""

    @model_validator(mode="after")
    def _check(self) -> PreferenceRecord:
        check_prompt(self.prompt)
        return self


class Comparison(Record):
    """A pair put to the judge, with the true label where one is known."""

    id: str
    prompt: tuple[Message, ...]
    response_a: str
    response_b: str
    label: Preferred | None = None

    @model_validator(mode="after")
    def _check(self) -> Comparison:
        check_prompt(self.prompt)
        return self


def check_prompt(prompt: tuple[Message, ...]) -> None:
    """Raises ValueError unless ``prompt`` ends with a non-empty user message."""
    if not prompt or prompt[-1].role != "user" or not prompt[-1].content.strip():
        raise ValueError("a prompt must end with a non-empty user message")


class Completion(Record):
    """One sampled response. ``ids`` are the tokens as sampled, the end-of-turn token included where it was drawn.

    ``text``: the answer, without a thought before it, which is ``reasoning_content``. A thought that does not end is a
    completion that ran into its length limit: it has no text.
    ``logprobs``: log p of each sampled token under the model's own distribution (before temperature and top_p), where
    the engine gives them.
    """

    ids: tuple[int, ...]
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: tuple[float, ...] | None = None
    reasoning_content: str | None = None

    @property
    def answer(self) -> str | None:
        """The text; None where the sample was cut off before it, as within a thought: there is no answer to judge."""
        return None if self.finish_reason == "length" and not self.text.strip() else self.text


class LabelProbabilities(Record):
    """Next-token probabilities of the two labels in one judgment prompt; what is missing to 1 lies off the labels."""

    A: float
    B: float


class OrderProbabilities(Record):
    """The label probabilities of both orders. ``AB`` shows response a first; in ``BA`` the label ``A`` means b."""

    AB: LabelProbabilities
    BA: LabelProbabilities


class PrincipleVerdict(Record):
    """The verdict of one principle on one pair. Fields as in :class:`Verdict`."""

    principle: str
    preferred: Preferred
    strength: float
    agree: bool
    label_mass: float
    p: OrderProbabilities


class Verdict(Record):
    """What the judge says about a pair.

    ``preferred``: the winner, or ``tie`` when neither is ahead. ``strength``: s_a / (s_a + s_b), 0..1, for A.
    ``agree``: both orders prefer the same response. ``label_mass``: probability on the two labels, mean over orders.
    ``p``: label probabilities, mean over principles; ``principles`` has them one by one.
    """

    preferred: Preferred
    strength: float
    agree: bool
    label_mass: float
    p: OrderProbabilities
    principles: tuple[PrincipleVerdict, ...]


class Match(Record):
    """One match of a bracket: candidates ``a`` and ``b`` (indices into the caller's list) and who advanced."""

    round: int
    a: int
    b: int
    winner: int
    verdict: Verdict


class Bracket(Record):
    """A single-elimination tournament. ``order`` is the seeded draw; ``byes`` holds (round, candidate).

    Candidates that take no part, as they have no answer, are not in ``order``.
    """

    seed: int
    order: tuple[int, ...]
    matches: tuple[Match, ...]
    byes: tuple[tuple[int, int], ...]
    winner: int
