"""The published algorithm (SELF-JUDGE, arXiv 2402.11253), in our own words, to be timed against.

What makes it slow is kept: batches of 8 in the order of the data, one generated token for each judgment, both orders
computed from scratch; for its training see `published_training.py`. Its mistakes that do not bear on speed are left
out, so that results can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfjudge.core.bracket import BracketState
from selfjudge.engines.stepwise import left_pad
from selfjudge.records import Comparison, Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder

BATCH = 8


class PublishedJudge:
    """Judges with one generated token per order, eight prompts at a time."""

    def __init__(self, model: PreTrainedModel, encoder: JudgmentEncoder, chat: ChatEncoder) -> None:
        """Takes a model that is on its device."""
        self._model, self._encoder, self._chat = model, encoder, chat

    def probabilities(self, comparisons: Sequence[Comparison]) -> Tensor:
        """Returns [n, 2, 2]: pair, order, label."""
        (principle,) = self._encoder.principles.values()
        orders = [
            [principle.prompt(c.prompt, c.response_a, c.response_b) for c in comparisons],
            [principle.prompt(c.prompt, c.response_b, c.response_a) for c in comparisons],
        ]
        columns = [torch.cat([self._batch(o[i : i + BATCH]) for i in range(0, len(o), BATCH)]) for o in orders]
        return torch.stack(columns, 1)

    def prefers_first(self, comparisons: Sequence[Comparison]) -> list[bool]:
        """Returns whether the first response wins each pair."""
        p = self.probabilities(comparisons)
        return (p[:, 0, 0] + p[:, 1, 1] >= p[:, 0, 1] + p[:, 1, 0]).tolist()

    @torch.no_grad()
    def _batch(self, prompts: Sequence[Any]) -> Tensor:
        ids, mask = left_pad([p.token_ids for p in prompts], self._chat.tokenizer.pad_token_id)
        output = self._model.generate(
            input_ids=ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            max_new_tokens=1,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            pad_token_id=self._chat.tokenizer.pad_token_id,
        )
        p = output.scores[0].float().softmax(-1).cpu()
        return p.gather(1, torch.tensor([p.label_ids for p in prompts]))


def published_tournament(
    judge: PublishedJudge, prompts: Sequence[tuple[Message, ...]], candidates: Sequence[Sequence[str]], seed: int
) -> list[int]:
    """Returns the winner's index for each prompt; prompts are played one after another."""
    winners = []
    for i, (prompt, texts) in enumerate(zip(prompts, candidates, strict=True)):
        state = BracketState(len(texts), seed + i)
        while not state.finished:
            pairs = state.pairings()
            comparisons = [
                Comparison(id=f"{a}-{b}", prompt=prompt, response_a=texts[a], response_b=texts[b]) for a, b in pairs
            ]
            first = judge.prefers_first(comparisons)
            state.advance([a if wins else b for (a, b), wins in zip(pairs, first, strict=True)])
        winners.append(state.alive[0])
    return winners
