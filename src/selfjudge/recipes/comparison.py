"""The sections of a recipe that compare: the baselines, and the study of all methods. Imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from selfjudge.recipes.section import BUILTIN_WORLD, Name, Section, Training

Baseline = Literal["sft", "dpo", "reward-model", "rlhf", "rso", "raft", "rest", "offline", "off-policy"]


class FineTuningSection(Section):
    """A method whose settings are those of its Trainer."""

    training: Training = Field(
        default_factory=dict, description="on top of jsft.training: TRL's SFTConfig or RewardConfig"
    )


class DpoSection(Section):
    """DPO, IPO or hinge on the data's own pairs."""

    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    beta: float = Field(0.1, gt=0)
    training: Training = Field(default_factory=dict, description="on top of self_training.training: TRL's DPOConfig")


class RlhfSection(Section):
    """Reinforcement learning (RLOO) against the reward model."""

    beta: float = Field(0.1, gt=0, description="weight of the KL to the SFT model in the reward")
    training: Training = Field(default_factory=dict, description="on top of self_training.training: TRL's RLOOConfig")


class RsoSection(Section):
    """Statistical rejection sampling optimisation."""

    candidates: int = Field(64, ge=2, description="samples per prompt")
    accepted: int = Field(8, ge=2, multiple_of=2, description="samples kept per prompt; each two are a pair")
    rejection_beta: float = Field(0.5, gt=0, description="β of the distribution that is sampled from")
    loss: Literal["sigmoid", "hinge"] = "hinge"
    beta: float = Field(0.1, gt=0, description="β of the loss")
    training: Training = Field(default_factory=dict, description="on top of self_training.training: TRL's DPOConfig")


class RaftSection(Section):
    """Reward-ranked fine-tuning: the best of k samples, again and again."""

    rounds: int = Field(4, ge=1)
    candidates: int = Field(8, ge=2, description="samples per prompt")
    training: Training = Field(default_factory=dict, description="on top of self_training.training: TRL's SFTConfig")


class RestSection(Section):
    """Reinforced self-training: the samples above a growing threshold, again and again."""

    rounds: int = Field(2, ge=1, description="how often samples are drawn (grow steps)")
    candidates: int = Field(8, ge=1, description="samples per prompt")
    thresholds: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.5, 0.8], min_length=1, description="improve steps of a round: quantiles of its rewards, growing"
    )
    training: Training = Field(default_factory=dict, description="on top of self_training.training: TRL's SFTConfig")

    @field_validator("thresholds")
    @classmethod
    def _grow(cls, thresholds: list[float]) -> list[float]:
        if any(a >= b for a, b in pairwise(thresholds)):
            raise ValueError("baselines.rest.thresholds: each must be larger than the one before.")
        return thresholds


class BaselinesSection(Section):
    """What SELF-JUDGE is compared with. Offline and off-policy judging have no settings but those of self_training."""

    start: str | None = Field(None, description="SFT model or run folder for all but sft; by default runs/NAME/sft")
    reward: str | None = Field(None, description="reward model or run folder; by default runs/NAME/reward-model")
    sft: FineTuningSection = FineTuningSection()
    dpo: DpoSection = DpoSection()
    reward_model: FineTuningSection = FineTuningSection()
    rlhf: RlhfSection = RlhfSection()
    rso: RsoSection = RsoSection()
    raft: RaftSection = RaftSection()
    rest: RestSection = RestSection()


class CellSection(Section):
    """One cell of a study: a method, and what it does otherwise than the recipe says."""

    method: Literal["jsft", "train", "best-of-n"] | Baseline
    start: str | None = Field(
        None, description="cell whose model it starts from; by default jsft for train, offline and off-policy, else sft"
    )
    set: list[str] = Field(default=[], description="changes of the recipe, each as section.key=value")

    def needs(self) -> list[str]:
        """Returns the cells that must be finished before, the one it starts from first."""
        if self.method in ("jsft", "sft"):
            return [self.start] if self.start else []
        start = self.start or ("jsft" if self.method in ("train", "offline", "off-policy", "best-of-n") else "sft")
        return [start, "reward-model"] if self.method in ("rlhf", "rso", "raft", "rest", "best-of-n") else [start]


class ClaimSection(Section):
    """That one cell is better than another, written before the study is run."""

    better: str = Field(description="cell, or what chooses: 'tournament of N', 'best by reward of N'")
    worse: str
    of: Literal["answers", "judge"] = "answers"


class StudySection(Section):
    """What `selfjudge compare` runs for each seed, in this order, and how it is measured."""

    prompts: str = Field(BUILTIN_WORLD, description="file of prompts to compare on, or builtin:world for fresh ones")
    limit: int = Field(400, ge=2, description="how many of them")
    evaluator: str = Field(
        "world",
        pattern="^(world|reward:.+|judge:.+)$",
        description="world (its true utility), reward:MODEL or judge:MODEL",
    )
    reference: str = Field("sft", description="cell whose answers all others are compared with")
    curve_every: int = Field(0, ge=0, description="of builtin:world: steps between two measurements; 0 measures none")
    candidates: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 2, 4, 8, 16], min_length=1, description="of best-of-n: candidates of a tournament"
    )
    cells: dict[Name, CellSection] = Field(min_length=1)
    claims: list[ClaimSection] = Field(default=[])

    @model_validator(mode="after")
    def _cells_are_known(self) -> Self:
        before: set[str] = set()
        for name, cell in self.cells.items():
            missing = [need for need in cell.needs() if need not in before]
            if missing:
                raise ValueError(f"study.cells.{name} needs the cell {missing[0]}: put one of that name before it.")
            before.add(name)
        if self.reference not in before or self.cells[self.reference].needs():
            raise ValueError(f"study.reference={self.reference} must be a cell that needs no other.")
        return self
