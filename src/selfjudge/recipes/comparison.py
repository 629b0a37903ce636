"""The section of a recipe for the baselines, which SELF-JUDGE is compared with. Imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator

from selfjudge.recipes.section import Section, Training

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
