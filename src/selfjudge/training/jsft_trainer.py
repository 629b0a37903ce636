"""The JSFT trainer: weighted cross-entropy on target tokens, on transformers.Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from selfjudge.core.logprobs import token_logprobs


class JsftTrainer(Trainer):
    """Minimises  Σ w_t · -log p(token_t)  /  Σ w_t  over all target tokens of an optimisation step.

    The sum runs over the whole step (all micro-batches and processes), so gradient accumulation changes nothing but
    memory. Batches come from :class:`selfjudge.data.collate.JsftCollator`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes what transformers.Trainer takes."""
        super().__init__(*args, **kwargs)
        # Tells Trainer that compute_loss divides by the items of the step itself.
        self.model_accepts_loss_kwargs = True

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Returns the micro-batches of a step and the weight of its targets over all processes."""
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)[0]
        total = torch.stack([_shifted_weights(b).sum() for b in batches]).sum() if batches else torch.zeros(())
        return batches, self.accelerator.gather(total.to(device)).sum()

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Returns this micro-batch's share of the step's loss."""
        weights = _shifted_weights(inputs)
        # Only the columns that predict a target need logits; the vocabulary makes them the largest tensor there is.
        columns = (weights > 0).any(0).nonzero().squeeze(-1)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            logits_to_keep=columns,
        )
        logprobs = token_logprobs(outputs.logits, inputs["input_ids"][:, columns + 1])
        kept = weights[:, columns]
        total = kept.sum() if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = -(logprobs * kept).sum() / total
        return (loss, outputs) if return_outputs else loss


def _shifted_weights(inputs: dict[str, Tensor]) -> Tensor:
    """Returns the weights of the predicted tokens, [rows, length - 1]."""
    return inputs["target_weights"][:, 1:]
