"""What is told of runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from selfjudge.core.statistics import Rate
from selfjudge.records import Preferred


class RunSummary(BaseModel):
    """A run in the list. ``step`` and ``last`` are of the end of its log, ``updated`` is when it ended or went on."""

    name: Annotated[str, Field(description="Its folder under the directory; `.` is the directory itself.")]
    status: Annotated[
        Literal["running", "finished", "damaged"],
        Field(description="`running` is also one that was killed; `damaged`: run.json cannot be read."),
    ]
    problem: str | None
    stage: str | None
    recipe: str | None
    started: str | None
    finished: str | None
    stopped: Annotated[str | None, Field(description="Why it was stopped early.")]
    updated: str | None
    step: float | None
    last: dict[str, float | None]
    alarms: Annotated[list[str], Field(description="Names of those that are raised.")]
    unread: Annotated[int, Field(description="Bytes of its logs that are still to be read.")]


class RunList(BaseModel):
    """The runs, the one written to last coming first. ``needed``: what the server lacks to show any."""

    needed: str | None
    runs: list[RunSummary]
    left_out: Annotated[int, Field(description="Runs beyond the number that is shown.")]


class Sign(BaseModel):
    """Something to watch; ``raised`` where it is over its limit. ``metric`` is its curve."""

    name: str
    raised: bool
    metric: str
    what: str
    advice: str


class Series(BaseModel):
    """A curve; a value is null where it was no number. A point is the mean of ``each`` logged values."""

    name: str
    steps: list[float | None]
    values: list[float | None]
    each: int


class Chart(BaseModel):
    """Curves that belong together."""

    title: str
    series: list[Series]


class VerdictStatistics(BaseModel):
    """Of the pairs in rollouts.jsonl. ``longer_preferred``: of the judged pairs of unequal length that are no ties, in
    characters; ``strength``: mean of the winner's.
    """

    pairs: int
    judged: int
    ties: Rate
    agreement: Rate
    longer_preferred: Rate | None
    strength: float


class JudgedPair(BaseModel):
    """Two samples and the verdict on them, null where they were not judged. Long texts are cut."""

    step: float
    prompt: str
    response_a: str
    response_b: str
    preferred: Preferred | None
    strength: float | None
    agree: bool | None


class RunView(BaseModel):
    """One run."""

    run: RunSummary
    signs: list[Sign]
    charts: list[Chart]
    verdicts: VerdictStatistics | None
    pairs: Annotated[list[JudgedPair], Field(description="The newest first.")]
    judge: Annotated[dict[str, Rate], Field(description="What its model is as a judge of held-out pairs.")]
    nested: Annotated[list[str], Field(description="Runs within its folder, such as rounds.")]
    recipe: str | None
    damaged_lines: int
