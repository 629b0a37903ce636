"""A reward model at work: rewards of responses, and the best of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from selfjudge.baselines.pairs import response_ids
from selfjudge.baselines.selection import best
from selfjudge.engines.batching import token_budget_batches
from selfjudge.engines.load import (
    DtypeName,
    default_device,
    load_tokenizer,
    pretrained,
    resolve_model,
    torch_dtype,
    whole_pretrained,
)
from selfjudge.engines.own_rope import own_rope
from selfjudge.errors import ModelError
from selfjudge.judge import as_messages
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder

Prompt = str | Sequence[Message]


class RewardScorer:
    """Scores responses with a sequence classifier of one logit."""

    def __init__(
        self,
        model: PreTrainedModel,
        chat: ChatEncoder,
        *,
        token_budget: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Takes a model on its device, in eval mode; the budget counts padded tokens, as an engine's does."""
        self.model = model
        self.chat = chat
        self._token_budget = token_budget or (8192 if model.device.type == "cpu" else 65536)
        self._batch_size = batch_size

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        """Returns the reward of each response to the prompt beside it, in logits of the Bradley-Terry model.

        A response is read as a finished turn, its end token included, as in the reward model's training.
        """
        rows = [
            [id_ for part in response_ids(as_messages(prompt), response, self.chat) for id_ in part]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        result = [0.0] * len(rows)
        for batch in token_budget_batches([len(row) for row in rows], self._token_budget, self._batch_size):
            for i, reward in zip(batch, self._rewards([rows[i] for i in batch]), strict=True):
                result[i] = reward
        return result

    def _rewards(self, rows: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, rows))
        # The classifier reads at the last token that is not padding, by its config's pad_token_id.
        pad = self.model.config.get_text_config().pad_token_id
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        device = self.model.device
        with torch.no_grad(), own_rope(self.model).of(torch.tensor([[len(row)] for row in rows])):
            logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        return [float(reward) for reward in logits.squeeze(-1).float()]


def load_scorer(
    path: str | Path,
    *,
    dtype: DtypeName = "float32",
    device: str | torch.device | None = None,
    token_budget: int | None = None,
    batch_size: int | None = None,
) -> RewardScorer:
    """Loads a reward model: a folder, run folder or Hub id of a sequence classifier with one logit.

    The default is float32, as rewards that are close would be equal in bfloat16.

    Raises:
        ModelError: if it is not there, cannot be read, or is no such model.
    """
    device = torch.device(device or default_device())
    config = pretrained(AutoConfig, resolve_model(path))
    kinds = config.architectures or []
    if config.num_labels != 1 or not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise ModelError(
            f"{path} is no reward model (a sequence classifier with one logit): name one that "
            "`selfjudge baseline reward-model` made, or another of that kind."
        )
    chat = load_tokenizer(path)
    model = whole_pretrained(AutoModelForSequenceClassification, path, dtype=torch_dtype(dtype, device))
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = chat.tokenizer.pad_token_id
    return RewardScorer(model.to(device).eval(), chat, token_budget=token_budget, batch_size=batch_size)


def best_of(scorer: RewardScorer, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]) -> list[int]:
    """Returns the place of each prompt's candidate of highest reward, the first of equals (best-of-N sampling)."""
    return [best(rewards) for rewards in score_candidates(scorer, prompts, candidates)]


def score_candidates(
    scorer: RewardScorer, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
) -> list[list[float]]:
    """Returns the reward of every candidate of every prompt, scored in batches across prompts."""
    pairs = [(prompt, text) for prompt, texts in zip(prompts, candidates, strict=True) for text in texts]
    rewards = iter(scorer.score([p for p, _ in pairs], [t for _, t in pairs]))
    return [[next(rewards) for _ in texts] for texts in candidates]
