"""The JSFT trainer: weighted cross-entropy on target tokens, on transformers.Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from selfjudge.engines.fast_kernels import FastKernels
from selfjudge.engines.target_logprobs import target_logprobs, try_head
from selfjudge.training.even import EvenCollator, EvenRows, even_sampler
from selfjudge.training.whole_weights import check_layout


class JsftTrainer(Trainer):
    """Minimises  Σ w_t · -log p(token_t)  /  Σ w_t  over all target tokens of an optimisation step.

    The sum runs over the whole step (all micro-batches and processes), so gradient accumulation changes nothing but
    memory. Batches come from :class:`selfjudge.data.collate.JsftCollator`.
    """

    def __init__(
        self, *args: Any, train_dataset: Sequence[Any], data_collator: Callable[..., dict[str, Any]], **kwargs: Any
    ) -> None:
        """Takes what transformers.Trainer takes."""
        collator = EvenCollator(data_collator, train_dataset[0], "target_weights")
        super().__init__(*args, train_dataset=EvenRows(train_dataset), data_collator=collator, **kwargs)
        # Tells Trainer that compute_loss divides by the items of the step itself.
        self.model_accepts_loss_kwargs = True
        check_layout(self.accelerator)
        try_head(self.model)
        self._kernels = FastKernels(self.model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The Trainer's, evened out for several processes."""
        return even_sampler(self, super()._get_train_sampler(train_dataset))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Returns the micro-batches of a step and the weight of its targets over all processes."""
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)[0]
        total = torch.cat([b["target_weights"] for b in batches]).sum() if batches else torch.zeros(())
        return batches, self.accelerator.gather(total.to(device)).sum()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's; the backward is part of it, which may compute the forward again."""
        with self._kernels.in_use():
            loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Returns this micro-batch's share of the step's loss."""
        weights = inputs["target_weights"]
        forward = {name: inputs[name] for name in ("input_ids", "position_ids") if name in inputs}
        logprobs = target_logprobs(model, forward, inputs["targets"])
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = -(logprobs * weights).sum() / total
        return (loss, {"logprobs": logprobs}) if return_outputs else loss
