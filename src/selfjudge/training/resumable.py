"""Training that can be resumed wherever it was cut off, and that stops with a checkpoint where it can."""

from __future__ import annotations

import signal
from pathlib import Path

import torch
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from selfjudge.errors import ElsewhereError, Interruption, RunError, SelfJudgeError
from selfjudge.training.checkpoint_callback import CheckpointCallback, NotFinite
from selfjudge.training.checkpoints import partial
from selfjudge.training.progress import use_progress_bar
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.signals import Interrupted, Signals

_MEMORY = (
    "Memory ran out: lower per_device_train_batch_size (and raise gradient_accumulation_steps) in a new run, or "
    "judge.token_budget in this one"
)


def train(trainer: Trainer, run: RunFolder) -> None:
    """Trains with our progress bar, from the run's last checkpoint if there is one.

    Raises:
        Interruption: after SIGTERM or Ctrl-C.
        RunError: if loss or gradients are no numbers, memory runs out, the run's folder cannot be written, or a model
            server is gone for good. But for the folder's sake, the last finished step is in a checkpoint then.
    """
    use_progress_bar(trainer)
    # The Trainer makes the checkpoint's own folder within.
    trainer.args.output_dir = str(partial(run.checkpoints, 0).parent)
    accelerator = trainer.accelerator
    run.update(processes=accelerator.num_processes, distributed=accelerator.distributed_type.value)
    checkpoint = run.last_checkpoint()
    with Signals(at_once=trainer.args.world_size == 1) as signals:
        callback = CheckpointCallback(trainer, run, signals)
        trainer.add_callback(callback)
        try:
            _train(trainer, callback, checkpoint)
            signals.allow()  # what came after the last step
        except Interrupted:
            _save(trainer, run, callback)
            received = signals.received or signal.SIGTERM  # of another process
            raise Interruption(f"{received.name} ended the run; {_kept(callback)}.", received) from None
        except torch.OutOfMemoryError as e:
            raise _stopped(trainer, run, callback, _MEMORY, e) from e
        except ElsewhereError:
            raise
        except SelfJudgeError as e:
            raise _stopped(trainer, run, callback, str(e).rstrip("."), e) from e
        except Exception as e:
            # torch, safetensors and tokenizers have errors of their own for files that cannot be written. Between the
            # end of a step and its checkpoint the Trainer still means to save.
            if not isinstance(e, OSError) and not trainer.control.should_save:
                raise
            raise _unwritable(run, callback, e) from e
        finally:
            trainer.remove_callback(callback)


def _train(trainer: Trainer, own: CheckpointCallback, checkpoint: Path | None) -> None:
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if not state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    # Nothing is left to train, but the Trainer would take another step.
    trainer.state = state
    trainer._load_from_checkpoint(str(checkpoint))
    own.saved_step = state.global_step
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ExportableState) and callback is not own:
            callback.on_train_begin(trainer.args, state, trainer.control)


def _save(trainer: Trainer, run: RunFolder, callback: CheckpointCallback) -> None:
    try:
        callback.save_last_step()
    except Exception as e:
        raise _unwritable(run, callback, e) from e


def _stopped(
    trainer: Trainer, run: RunFolder, callback: CheckpointCallback, said: str, error: BaseException
) -> RunError:
    # Of several processes the others may be elsewhere, and a checkpoint takes all of them.
    if trainer.args.world_size == 1 or isinstance(error, NotFinite):
        _save(trainer, run, callback)
    return RunError(f"{said}; {_kept(callback)}.")


def _unwritable(run: RunFolder, callback: CheckpointCallback, error: BaseException) -> RunError:
    said = getattr(error, "strerror", None) or " ".join(str(error).split())[:300].rstrip(".")
    return RunError(f"{run.path} cannot be written ({said}): make room for it or make it writable; {_kept(callback)}.")


def _kept(callback: CheckpointCallback) -> str:
    if callback.saved_step == 0:
        return "there was no checkpoint yet, so --resume begins anew"
    return f"step {callback.saved_step} is in its checkpoint, and --resume goes on from there"
