"""Log-probabilities of given tokens, and the KL between two models' distributions of the next token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 2**28
"""The float32 logits that exist at once in :func:`head_logprobs`."""


def chunk_length(vocab: int) -> int:
    """Returns the positions whose float32 logits over ``vocab`` entries fit into a chunk."""
    return max(1, CHUNK_BYTES // (4 * vocab))


def head_logprobs(head: Callable[[Tensor], Tensor], hidden: Tensor, ids: Tensor, chunk: int) -> Tensor:
    """Returns log p(id) at each position in float32, [positions], with the logits of one chunk in memory at a time.

    The backward computes each chunk's logits again: they are the largest tensor of a training step, and the head is a
    small part of a model's work.

    Args:
        head: from [n, hidden] to logits [n, vocab].
        hidden: [positions, hidden]; ``hidden[i]`` predicts ``ids[i]``.
        ids: [positions].
        chunk: positions of a chunk.
    """

    def logprobs(part: Tensor, wanted: Tensor) -> Tensor:
        return token_logprobs(head(part), wanted)

    if len(ids) <= chunk:
        return logprobs(hidden, ids)
    parts = zip(torch.split(hidden, chunk), torch.split(ids, chunk), strict=True)
    return torch.cat([checkpoint(logprobs, part, wanted, use_reentrant=False) for part, wanted in parts])


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Returns log p(id) at each position, in float32 (float64 for float64 logits).

    Args:
        logits: [positions, vocab], where ``logits[i]`` predicts ``ids[i]`` (already shifted).
        ids: [positions].
    """
    # Faster than logsumexp, and its backward makes one tensor over the vocabulary less.
    return -cross_entropy(_precise(logits), ids, reduction="none")


def token_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Returns KL(policy || reference) of the next token at each position, in nats, [positions].

    Computes sum_v p(v) (log p(v) - log q(v)) over the whole vocabulary, in float32 (float64 for float64 logits). Summed
    along responses that the policy samples, it estimates the KL per response: without bias, as the log-ratio of the
    sampled tokens does, and with less variance (Rao-Blackwellised estimate, Amini et al. 2025, arXiv 2504.10637).

    Args:
        policy_logits: [positions, vocab], unscaled: temperature 1.
        reference_logits: [positions, vocab]. Logits equal to the policy's give exactly 0.
    """
    policy, reference = (_precise(logits).log_softmax(-1) for logits in (policy_logits, reference_logits))
    terms = policy.exp() * (policy - reference)
    # A masked token (logit -inf) adds nothing; -inf minus -inf would be NaN. A KL cannot be negative, rounding can.
    return terms.masked_fill(policy == -torch.inf, 0.0).sum(-1).clamp(min=0.0)


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
