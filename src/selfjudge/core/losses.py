"""Preference losses as pure functions of sequence log-probabilities. Shapes: [pairs] in, [pairs] out; no reduction.

With h = (log π(y_a|x) - log π_ref(y_a|x)) - (log π(y_b|x) - log π_ref(y_b|x)), the log-ratio margin of a over b:

- ``sigmoid``: -log σ(β h)            DPO, arXiv 2305.18290
- ``hinge``:   max(0, 1 - β h)        SLiC, arXiv 2305.10425, on the log-ratio as in RSO, arXiv 2309.06657
- ``ipo``:     (h̄ - 1 / (2β))²        IPO, arXiv 2310.12036; h̄ from log-probs averaged over tokens
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["sigmoid", "hinge", "ipo"]


def sigmoid_loss(margin: Tensor, beta: float) -> Tensor:
    """DPO loss -log σ(β h) of a margin h."""
    return -F.logsigmoid(beta * margin)


def hinge_loss(margin: Tensor, beta: float) -> Tensor:
    """Hinge loss max(0, 1 - β h) of a margin h."""
    return torch.relu(1 - beta * margin)


def ipo_loss(margin: Tensor, beta: float) -> Tensor:
    """IPO loss (h - 1/(2β))² of a token-averaged margin h."""
    return (margin - 1 / (2 * beta)) ** 2


LOSSES: dict[LossName, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": sigmoid_loss,
    "hinge": hinge_loss,
    "ipo": ipo_loss,
}


def preference_loss(margin: Tensor, strength: Tensor, *, loss: LossName, beta: float) -> Tensor:
    """Returns the expected loss under a belief ``strength`` (0..1) that the first response is the better one.

    s L(h) + (1 - s) L(-h). With strength 1 it is the hard-label loss; in between it is cDPO with the judge's own
    confidence, whose wanted margin is finite: for ``sigmoid`` the minimum lies at h = logit(s) / β.
    """
    of_margin = LOSSES[loss]
    return strength * of_margin(margin, beta) + (1 - strength) * of_margin(-margin, beta)


def log_ratio(policy: Tensor, reference: Tensor, lengths: Tensor, *, loss: LossName) -> Tensor:
    """Returns log π - log π_ref of each response, averaged over its tokens for ``ipo`` as its authors define it.

    Args:
        policy: summed log-probs of the responses under the policy, shape [n].
        reference: the same under the reference, shape [n].
        lengths: number of response tokens, shape [n].
        loss: the loss it is meant for.
    """
    ratio = policy - reference
    return ratio / lengths.clamp(min=1) if loss == "ipo" else ratio


def length_regularised(margin: Tensor, difference: Tensor, *, penalty: float, beta: float) -> Tensor:
    """Returns the margin h + (α / β) (|y_a| - |y_b|) of R-DPO (arXiv 2403.19159), with α the ``penalty``.

    If every token costs α, the reward that the policy implies is β log (π / π_ref) + α |y|: a longer response needs
    less of a log-ratio to be as good as the label says.

    Args:
        margin: h, shape [n].
        difference: tokens of the first response less those of the second, shape [n].
        penalty: α >= 0, in units of the reward. h is summed over tokens, as the paper has it.
        beta: as for the loss.
    """
    return margin + penalty / beta * difference


@dataclass(frozen=True)
class Objective:
    """What a pair costs.

    Attributes:
        loss: ``sigmoid`` (DPO), ``hinge`` or ``ipo``.
        beta: strength of the pull towards the reference.
        length_penalty: what a token costs, see :func:`length_regularised`. It needs a margin summed over tokens, so
            not with ``ipo``, whose margin is a mean over tokens.
        nll_weight: this times -log π(y_a) / |y_a| is added (Iterative RPO, arXiv 2404.19733).
    """

    loss: LossName = "sigmoid"
    beta: float = 0.1
    length_penalty: float = 0.0
    nll_weight: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for a length penalty with ``ipo``."""
        if self.loss == "ipo" and self.length_penalty:
            raise ValueError(
                "a length_penalty is added to a margin that is summed over tokens, and the margin of ipo is averaged "
                "over them: set length_penalty to 0, or the loss to sigmoid or hinge"
            )

    def __call__(self, policy: Tensor, reference: Tensor, lengths: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the losses and the margins h of n pairs, both [n].

        Args:
            policy: summed log-probs of all first responses, then of all second ones, [2n].
            reference: the same under the reference, [2n].
            lengths: tokens of the responses, [2n].
            strength: belief that the first is better, [n].
        """
        n = len(strength)
        ratio = log_ratio(policy, reference, lengths, loss=self.loss)
        margin = ratio[:n] - ratio[n:]
        wanted = length_regularised(margin, lengths[:n] - lengths[n:], penalty=self.length_penalty, beta=self.beta)
        losses = preference_loss(wanted, strength, loss=self.loss, beta=self.beta)
        return losses - self.nll_weight * policy[:n] / lengths[:n].clamp(min=1), margin
