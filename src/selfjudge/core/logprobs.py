"""Log-probabilities of given tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Returns log p(id) at each position, in float32.

    Args:
        logits: [batch, length, vocab], where ``logits[:, t]`` predicts ``ids[:, t]`` (already shifted).
        ids: [batch, length].
    """
    logits = logits.float()
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(logits, dim=-1)


def sequence_logprobs(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Returns the summed log-prob of the masked tokens of each row, shape [batch]. Arguments as above."""
    return (token_logprobs(logits, ids) * mask).sum(-1)
