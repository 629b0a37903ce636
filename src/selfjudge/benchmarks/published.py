"""The published algorithm (SELF-JUDGE, arXiv 2402.11253), in our own words, to be timed against.

What makes it slow is kept: batches of 8 in the order of the data, one generated token for each judgment, both orders
computed from scratch, samples decoded and tokenised again, the LoRA adapter unmerged, whole logit tensors copied to
the CPU for a logged mean. Its mistakes that do not bear on speed are left out, so that results can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from selfjudge.core.bracket import BracketState
from selfjudge.engines.decode import left_pad
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


class PublishedStep:
    """One on-policy step: sample two responses per prompt, judge them, and take a DPO step with LoRA."""

    def __init__(self, model: PeftModel, chat: ChatEncoder, encoder: JudgmentEncoder, beta: float = 0.1) -> None:
        """Takes a PEFT model: adapter on is the policy, adapter off reference and judge."""
        self._model, self._chat, self._beta = model, chat, beta
        self._judge = PublishedJudge(model, encoder, chat)  # type: ignore[arg-type]
        self._optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-6)

    def run(self, prompts: Sequence[tuple[Message, ...]], new_tokens: int) -> None:
        """Takes one step on ``prompts``."""
        encoded = [self._chat.prompt_ids(prompt) for prompt in prompts]
        samples = self._sample(encoded, new_tokens)
        comparisons = [
            Comparison(id="", prompt=prompt, response_a=a, response_b=b)
            for prompt, (a, b) in zip(prompts, samples, strict=True)
        ]
        with self._model.disable_adapter():
            first = self._judge.prefers_first(comparisons)
        chosen = [a if wins else b for (a, b), wins in zip(samples, first, strict=True)]
        rejected = [b if wins else a for (a, b), wins in zip(samples, first, strict=True)]
        self._train(encoded, [self._chat.text_ids(text) for text in (*chosen, *rejected)])

    @torch.no_grad()
    def _sample(self, encoded: Sequence[Sequence[int]], new_tokens: int) -> list[tuple[str, str]]:
        ids, mask = left_pad(encoded, self._chat.tokenizer.pad_token_id)
        self._model.eval()
        output = self._model.generate(
            input_ids=ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            num_return_sequences=2,
            do_sample=True,
            top_k=0,
            top_p=0.9,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            pad_token_id=self._chat.tokenizer.pad_token_id,
        )
        texts = [self._chat.decode(row) for row in output[:, ids.shape[1] :].tolist()]
        return list(zip(texts[::2], texts[1::2], strict=True))

    def _train(self, encoded: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> None:
        self._model.train()
        rows = [[*x, *y] for x, y in zip([*encoded, *encoded], responses, strict=True)]
        ids, mask = left_pad(rows, self._chat.tokenizer.pad_token_id)
        is_response = torch.zeros_like(mask)
        for i, y in enumerate(responses):
            is_response[i, ids.shape[1] - len(y) :] = 1
        ids, mask, is_response = (t.to(self._model.device) for t in (ids, mask, is_response))
        with torch.no_grad(), self._model.disable_adapter():
            reference = self._logprobs(ids, mask, is_response)
        policy = self._logprobs(ids, mask, is_response)
        ratio = (policy - reference).chunk(2)
        loss = -functional.logsigmoid(self._beta * (ratio[0] - ratio[1])).mean()
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _logprobs(self, ids: Tensor, mask: Tensor, is_response: Tensor) -> Tensor:
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        self.logged = logits.detach().float().cpu().mean()
        logprobs = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        return (logprobs * is_response[:, 1:]).sum(-1)
