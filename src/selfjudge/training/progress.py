"""Progress of a Trainer run: one bar with the figures that matter beside it."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer

_SHOWN = {
    "loss": "loss",
    "rewards/accuracies": "reward acc",
    "kl": "kl",
    "rollout/disagreement_rate": "orders disagree",
}


class ProgressBar(ProgressCallback):
    """The Trainer's bar with a few figures, instead of a line of every figure per log; metrics.jsonl has them all."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Updates the figures."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            figures = {label: f"{logs[name]:.3g}" for name, label in _SHOWN.items() if name in logs}
            if figures:
                self.training_bar.set_postfix(figures)


def use_progress_bar(trainer: Trainer) -> None:
    """Puts our bar in the place of the Trainer's own output; ``disable_tqdm: true`` turns it off as usual."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(ProgressBar())
