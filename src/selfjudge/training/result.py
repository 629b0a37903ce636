"""What a training leaves: one model with whole weights, written by the main process."""

from __future__ import annotations

import shutil
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer

from selfjudge.engines.load import save_model
from selfjudge.templates.template import TemplateSet
from selfjudge.training.processes import on_main
from selfjudge.training.whole_weights import whole_model


def save_trained(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    templates: TemplateSet | None = None,
    *,
    adapter: Path | None = None,
) -> None:
    """Writes the trained model, its adapter merged, whole or not at all; all processes call this together.

    Args:
        trainer: after training.
        tokenizer: goes with the model.
        folder: where the model goes.
        templates: the judgment templates it knows.
        adapter: where its adapter goes by itself, if it has one.
    """
    model = whole_model(trainer)

    def save() -> None:
        assert model is not None
        if isinstance(model, PeftModel) and adapter is not None:
            _save_adapter(model, adapter)
        merged = model.merge_and_unload() if isinstance(model, PeftModel) else model
        save_model(merged, tokenizer, folder, templates)

    on_main(save)


def _save_adapter(model: PeftModel, folder: Path) -> None:
    temporary = folder.with_name(folder.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(str(temporary))
    temporary.rename(folder)
