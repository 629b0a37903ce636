"""The section of a recipe that compares methods over several seeds. Imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from selfjudge.recipes.comparison import Baseline
from selfjudge.recipes.section import BUILTIN_WORLD, Name, Section

Method = Literal["jsft", "train", "best-of-n"] | Baseline
FROM_JSFT: tuple[Method, ...] = ("train", "offline", "off-policy", "best-of-n")
WITH_REWARD: tuple[Method, ...] = ("rlhf", "rso", "raft", "rest", "best-of-n")


def _growing(rates: list[float]) -> list[float]:
    if any(a >= b for a, b in pairwise(rates)):
        raise ValueError("learning rates to try must grow: give the smallest first.")
    return rates


Rates = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3), AfterValidator(_growing)]


class CellSection(Section):
    """One cell of a study: a method, and what it does otherwise than the recipe says."""

    method: Method
    start: str | None = Field(
        None, description="cell whose model it starts from; by default jsft for train, offline and off-policy, else sft"
    )
    reward: str = Field("reward-model", description="cell of the reward model, for the methods that have one")
    set: list[str] = Field(default=[], description="changes of the recipe, each as section.key=value")
    rate: float | None = Field(None, gt=0, description="learning rate; --tune finds it anew")
    rates: Rates | None = Field(None, description="what --tune tries in place of study.tuning.rates")
    same_rate_as: str | None = Field(None, description="cell whose learning rate it has; it is not tuned itself")
    curve: bool = Field(False, description="whether its policy is measured along the training, see study.curve_every")

    def needs(self) -> list[str]:
        """Returns the cells that must be finished before, the one it starts from first."""
        if self.method in ("jsft", "sft"):
            return [self.start] if self.start else []
        start = self.start or ("jsft" if self.method in FROM_JSFT else "sft")
        return [start, self.reward] if self.method in WITH_REWARD else [start]

    @property
    def tuned_by(self) -> Literal["answers", "judge"] | None:
        """What --tune chooses the learning rate by: a judge's accuracy, a policy's win rate, or nothing to choose."""
        if self.method == "best-of-n" or self.same_rate_as:
            return None
        return "judge" if self.method in ("jsft", "reward-model") else "answers"


class ClaimSection(Section):
    """That one cell is better than another, or no worse by a margin, written before the study is run."""

    better: str = Field(description="cell, or what chooses: 'tournament of N', 'best by reward of N'")
    worse: str
    of: Literal["answers", "judge"] = "answers"
    margin: float | None = Field(
        None, gt=0, lt=1, description="claim only that it is less than this worse, as a share: .02 are two points"
    )


class TuningSection(Section):
    """How --tune finds a learning rate for every cell that trains."""

    seed: int = Field(100, description="trains all that is tried; no result has this seed")
    prompts: str | None = Field(
        None,
        description="file of prompts that rates are chosen by, none of study.prompts; the small world has its own",
    )
    rates: Rates = Field(
        default=[1e-5, 2e-5, 4e-5, 7e-5, 1.2e-4, 2.2e-4, 4e-4],
        description="what every cell tries; where the best lies at an end, more are tried there",
    )


class StudySection(Section):
    """What `selfjudge compare` runs for each seed, in this order, and how it is measured."""

    prompts: str = Field(BUILTIN_WORLD, description="file of prompts to compare on, or builtin:world for its own")
    limit: int = Field(800, ge=2, description="how many of them")
    evaluator: str = Field(
        "world",
        pattern="^(world|reward:.+|judge:.+)$",
        description="world (its true utility), reward:MODEL or judge:MODEL",
    )
    reference: str = Field("sft", description="cell whose answers all others are compared with")
    curve_every: int = Field(
        0, ge=0, description="of builtin:world: steps between two measurements of cells with a curve; 0 measures none"
    )
    candidates: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 2, 4, 8, 16], min_length=1, description="of best-of-n: candidates of a tournament"
    )
    tuning: TuningSection = TuningSection()
    cells: dict[Name, CellSection] = Field(min_length=1)
    claims: list[ClaimSection] = Field(default=[])

    @model_validator(mode="after")
    def _cells_are_known(self) -> Self:
        before: set[str] = set()
        for name, cell in self.cells.items():
            missing = [need for need in (*cell.needs(), cell.same_rate_as) if need and need not in before]
            if missing:
                raise ValueError(f"study.cells.{name} needs the cell {missing[0]}: put one of that name before it.")
            if name == "base" or "," in name:
                raise ValueError(f"study.cells.{name}: a cell's name has no comma and is not base; choose another.")
            before.add(name)
        if self.reference not in before or self.cells[self.reference].needs():
            raise ValueError(f"study.reference={self.reference} must be a cell that needs no other.")
        return self

    def rate_of(self, name: str) -> float | None:
        """Returns the learning rate that a cell has of its own, or None: then it is the recipe's."""
        cell = self.cells[name]
        return self.rate_of(cell.same_rate_as) if cell.same_rate_as else cell.rate
