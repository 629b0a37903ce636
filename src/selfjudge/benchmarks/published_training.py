"""The published way to train (SELF-JUDGE, arXiv 2402.11253), in our own words, to be timed against.

What makes it slow is kept: samples decoded and tokenised again, the LoRA adapter unmerged, whole logit tensors copied
to the CPU for a logged mean; and for JSFT what is customary: rows padded in the order of the data, and logits of all
positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from selfjudge.benchmarks.published import PublishedJudge
from selfjudge.data.rows import Row
from selfjudge.engines.stepwise import left_pad
from selfjudge.records import Comparison, Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder

_RATE = 5e-6


class PublishedStep:
    """One on-policy step: sample two responses per prompt, judge them, and take a DPO step with LoRA."""

    def __init__(self, model: PeftModel, chat: ChatEncoder, encoder: JudgmentEncoder, beta: float = 0.1) -> None:
        """Takes a PEFT model: adapter on is the policy, adapter off reference and judge."""
        self._model, self._chat, self._beta = model, chat, beta
        self._judge = PublishedJudge(model, encoder, chat)  # type: ignore[arg-type]
        self._optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=_RATE)

    def run(self, prompts: Sequence[tuple[Message, ...]], new_tokens: int) -> None:
        """Takes one step on ``prompts``, with samples of exactly ``new_tokens`` tokens."""
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
        self._model.train()
        self.loss(encoded, [self._chat.text_ids(text) for text in (*chosen, *rejected)]).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

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

    def loss(self, encoded: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        """Returns the mean DPO loss of pairs.

        Args:
            encoded: token ids of n prompts.
            responses: token ids of their n chosen responses, then of their n rejected ones.
        """
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
        return -functional.logsigmoid(self._beta * (ratio[0] - ratio[1])).mean()

    def _logprobs(self, ids: Tensor, mask: Tensor, is_response: Tensor) -> Tensor:
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._model(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False).logits
        self.logged = logits.detach().float().cpu().mean()
        logprobs = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        return (logprobs * is_response[:, 1:]).sum(-1)


class PaddedJsft:
    """JSFT as a plain loop: batches in the order of the data, padded on the right, the model's own cross-entropy."""

    def __init__(self, model: PreTrainedModel, pad_id: int, batch: int) -> None:
        """Takes a model whose trainable weights are to be trained, and how many examples make a batch."""
        self._model, self._pad_id, self._batch = model, pad_id, batch
        self._optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=_RATE)

    def run(self, examples: Sequence[Sequence[Row]]) -> None:
        """Takes a step on every batch."""
        self._model.train()
        for i in range(0, len(examples), self._batch):
            self.loss([row for example in examples[i : i + self._batch] for row in example]).backward()
            self._optimizer.step()
            self._optimizer.zero_grad()

    def loss(self, rows: Sequence[Row]) -> Tensor:
        """Returns the mean cross-entropy of the rows' targets."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self._pad_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            mask[i, : len(row.ids)] = 1
            labels[i, : len(row.ids)] = torch.tensor(row.ids).where(torch.tensor(row.is_target), -100)
        ids, mask, labels = (t.to(self._model.device) for t in (ids, mask, labels))
        loss: Tensor = self._model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        return loss
