"""Sampling token by token: the prompt once for all of its samples, and nothing for those that have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.engines.stepwise import TOGETHER, StepwiseBatch

_COMPACT_AT = 0.75
"""Ended rows leave the batch once no more than this share goes on: leaving copies the cache."""


@dataclass(frozen=True)
class Sampled:
    """One sample: token ids, the stop token included where it was drawn, and their log-probs before any warping."""

    ids: list[int]
    logprobs: list[float]


Ended = Callable[[int, Sampled], None]
"""Called with a sample that has just ended, after its row: prompt x n + its place among the prompt's."""


def uniforms(params: SamplingParams, index: int) -> Tensor:
    """Returns [n, max_new_tokens] numbers from [0, 1): the randomness of prompt ``index``'s samples.

    They belong to the prompt, so its samples do not depend on what else is in the batch.
    """
    generator = torch.Generator().manual_seed(params.prompt_seed(index, bits=63))
    return torch.rand(params.n, params.max_new_tokens, generator=generator)


def draw(logits: Tensor, u: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Draws one token per row by inverting the cumulative distribution at ``u``.

    Args:
        logits: [rows, vocab].
        u: [rows], from [0, 1).
        temperature: 0 takes the most likely token.
        top_p: draws from the smallest set of most likely tokens that holds this share.

    Returns:
        Token ids and their log-probs at temperature 1 over the whole vocabulary, both [rows].
    """
    logprobs = logits.float().log_softmax(-1)
    if temperature == 0:
        tokens = logprobs.argmax(-1)
    else:
        p = (logprobs / temperature).softmax(-1)
        if top_p < 1:
            p, order = p.sort(-1, descending=True)
            p = p.where(p.cumsum(-1) - p < top_p, 0)
        cdf = p.cumsum(-1)
        # The first entry above u: entries without mass are never that.
        tokens = torch.searchsorted(cdf, (u.unsqueeze(-1) * cdf[:, -1:]).contiguous(), right=True)
        tokens = tokens.clamp(max=p.shape[-1] - 1)
        tokens = (order.gather(-1, tokens) if top_p < 1 else tokens).squeeze(-1)
    return tokens, logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    u: Tensor,
    params: SamplingParams,
    stop_ids: Sequence[int],
    pad_id: int,
    ended: Ended | None = None,
) -> list[list[Sampled]]:
    """Samples ``params.n`` continuations of each prompt by the model's :func:`sampling_way`, in its current mode.

    Args:
        model: a causal LM.
        prompts: token ids, one batch; of one length where the way does not mix lengths.
        u: [prompts, n, max_new_tokens], from :func:`uniforms`.
        params: as given to the engine; its seed has already gone into ``u``.
        stop_ids: tokens that end a sample.
        pad_id: fills short prompts.
        ended: told of each sample, once, as soon as it has ended.

    Raises:
        ModelError: as :func:`sampling_way`.
    """
    device, way = model.device, sampling_way(model)
    stops = torch.tensor(list(stop_ids), device=device)
    u = u.flatten(0, 1).to(device)
    batch = StepwiseBatch(model, way, prompts, params.n, pad_id)
    logits = batch.first()
    rows = torch.arange(len(u), device=device)
    out = torch.full(u.shape, int(stops[0]), device=device)
    out_logprobs = torch.zeros(u.shape, device=device)
    going = torch.ones_like(rows, dtype=torch.bool)
    for step in range(params.max_new_tokens):
        tokens, logprobs = draw(logits, u[rows, step], params.temperature, params.top_p)
        out[rows, step], out_logprobs[rows, step] = tokens, logprobs
        last = step + 1 == params.max_new_tokens
        over = torch.isin(tokens, stops)
        if ended:
            tell(ended, rows[going & (over | last)], out, out_logprobs, stop_ids)
        going &= ~over
        remaining = int(going.sum())
        if remaining == 0 or last:
            break
        if way.mixed and remaining <= _COMPACT_AT * len(rows):
            keep = going.nonzero().squeeze(-1)
            batch.keep(keep)
            rows, tokens, going = (t[keep] for t in (rows, tokens, going))
        logits = batch.next(tokens)
    return cut(out, out_logprobs, stop_ids, params.n)


def prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor, Cache]:
    """Reads prompts, padded on the left.

    Returns:
        The logits of the first new token [prompts, vocab], the attention mask [prompts, longest], and the cache.
    """
    batch = StepwiseBatch(model, TOGETHER, prompts, 1, pad_id)
    return batch.first(), batch.mask, batch.cache


def cut(ids: Tensor, logprobs: Tensor, stop_ids: Sequence[int], n: int) -> list[list[Sampled]]:
    """Returns the samples of each prompt from rows of tokens, [prompts x n, length], and of their log-probs."""
    samples = [_cut(*row, stop_ids) for row in zip(ids.tolist(), logprobs.tolist(), strict=True)]
    return [samples[i : i + n] for i in range(0, len(samples), n)]


def tell(ended: Ended, rows: Tensor, ids: Tensor, logprobs: Tensor, stop_ids: Sequence[int]) -> None:
    """Tells the samples of some rows, which have ended; ``ids`` and ``logprobs`` as for :func:`cut`."""
    for row, *sample in zip(rows.tolist(), ids[rows].tolist(), logprobs[rows].tolist(), strict=True):
        ended(row, _cut(*sample, stop_ids))


def _cut(ids: list[int], logprobs: list[float], stop_ids: Sequence[int]) -> Sampled:
    """Ends a row after its first stop token; what follows was drawn for company."""
    end = next((i for i, token in enumerate(ids) if token in stop_ids), len(ids) - 1) + 1
    return Sampled(ids[:end], logprobs[:end])
