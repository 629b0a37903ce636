"""When a run's checkpoints are written, and what else than the Trainer's own state is in them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from selfjudge.engines.base_weights import write_base
from selfjudge.errors import RunError
from selfjudge.training.checkpoints import commit, partial
from selfjudge.training.processes import on_main
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.signals import Interrupted, Signals
from selfjudge.training.whole_weights import shards_weights


class NotFinite(RunError):
    """Loss or gradients are not numbers."""


@dataclass(frozen=True)
class _StepEnd:
    """What a checkpoint of a step holds beside the weights, as it was when the step ended."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    device: torch.Tensor | None
    logs: dict[str, int]
    loss: torch.Tensor
    last_logged: int

    @classmethod
    def now(cls, trainer: Trainer, run: RunFolder) -> _StepEnd:
        device = _device_module(trainer)
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(),
            cpu=torch.get_rng_state(),
            device=device.get_rng_state() if device else None,
            logs=run.log_sizes(),
            loss=trainer._tr_loss.clone(),
            last_logged=trainer._globalstep_last_logged,
        )

    def restore_randomness(self, trainer: Trainer) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            _device_module(trainer).set_rng_state(self.device)


class CheckpointCallback(TrainerCallback, ExportableState):
    """Makes what the Trainer saved a checkpoint of the run, and sees to it that the last finished step can be saved.

    To be added after all callbacks that write logs or have a state.
    """

    def __init__(self, trainer: Trainer, run: RunFolder, signals: Signals) -> None:
        """Takes a trainer whose ``output_dir`` is the parent of the run's partial checkpoints."""
        self._trainer = trainer
        self._run = run
        self._signals = signals
        self._end: _StepEnd | None = None
        self._stopping = False
        self.saved_step = 0
        """The step of the newest checkpoint; 0 where there is none."""

    def state(self) -> dict[str, Any]:
        """Returns what the Trainer writes into a checkpoint: the loss since the last log line."""
        end = self._end
        return {"args": {}, "attributes": {"loss": end.loss.item(), "last_logged": end.last_logged} if end else {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes back what :meth:`state` gave."""
        self.saved_step = state.global_step
        before = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes")
        if before:
            self._trainer._tr_loss += before["loss"]
            self._trainer._globalstep_last_logged = before["last_logged"]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forward and backward passes may be broken off."""
        self._signals.allow()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the run before weights would become NaN; from here on the step is finished."""
        self._signals.forbid()
        if not _finite(self._trainer):
            raise NotFinite(
                f"The loss of step {state.global_step + 1} or its gradient is not a finite number: the weights were "
                "left as they are; lower learning_rate or max_grad_norm, or use float32 weights, in a new run"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks for a checkpoint where a process has received a signal."""
        self._end = _StepEnd.now(self._trainer, self._run)
        self._stopping = _any_process(self._trainer, self._signals.received is not None)
        control.should_save = control.should_save or self._stopping

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts the line that was just written among those of the step."""
        # metrics.jsonl has them all; with them here too, memory and every checkpoint would grow with the run.
        del state.log_history[:-1]
        if self._end is not None:
            self._end = _StepEnd.now(self._trainer, self._run)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Commits the checkpoint once all processes have written their part of it."""
        assert self._end is not None
        self._trainer.accelerator.wait_for_everyone()
        logs = self._end.logs

        def write() -> None:
            model = self._trainer.model
            if isinstance(model, PeftModel) and not shards_weights(args):  # else a process has only its shard
                write_base(model, partial(self._run.checkpoints, state.global_step))
            commit(self._run.checkpoints, state.global_step, logs, args.save_total_limit)

        on_main(write)
        self.saved_step = state.global_step
        if self._stopping:
            raise Interrupted

    def save_last_step(self) -> None:
        """Writes the checkpoint of the last finished step unless it is there; for use between steps, by all processes.

        Raises:
            Exception: whatever torch, safetensors or tokenizers raise if it cannot be written.
        """
        trainer = self._trainer
        if self._end is None or self.saved_step == trainer.state.global_step:
            return
        self._stopping = False
        self._end.restore_randomness(trainer)
        trainer._save_checkpoint(trainer.model, None)
        trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)


def _device_module(trainer: Trainer) -> Any:
    """Returns torch's module of the trainer's device where that has a random state of its own, else None."""
    module = torch.get_device_module(trainer.args.device)
    return module if hasattr(module, "get_rng_state") else None


def _any_process(trainer: Trainer, value: bool) -> bool:
    if trainer.args.world_size == 1:
        return value
    return bool(trainer.accelerator.gather(torch.tensor([value], device=trainer.args.device)).any())


def _finite(trainer: Trainer) -> bool:
    """Whether the loss and, where no scaler looks after them, the gradients of a step are numbers, on all processes."""
    total = trainer._tr_loss.detach()
    if getattr(trainer.accelerator, "scaler", None) is None:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        total = total + (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).to(total.device)
    return not _any_process(trainer, not bool(torch.isfinite(total)))
