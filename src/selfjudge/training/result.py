"""What a training leaves: one model with whole weights, written by the main process."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer

from selfjudge.engines.base_weights import write_base
from selfjudge.engines.save import save_model
from selfjudge.engines.whole_folder import whole_folder
from selfjudge.errors import ModelError
from selfjudge.templates.template import TemplateSet
from selfjudge.training.merge import check_saved, merge, probe_logits
from selfjudge.training.processes import on_main
from selfjudge.training.whole_weights import whole_model


def save_trained(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    templates: TemplateSet | None = None,
    *,
    keep_adapter: bool = False,
) -> None:
    """Writes the trained model, its adapter merged, whole or not at all; all processes call this together.

    A merged model is kept only where it answers as the model with the adapter does.

    Args:
        trainer: after training.
        tokenizer: goes with the model.
        folder: where the model goes.
        templates: the judgment templates it knows.
        keep_adapter: leave its adapter, if it has one, by itself in ``adapter`` beside the folder.

    Raises:
        ModelError: if the merged model answers otherwise; the adapter is then in ``adapter`` beside the folder.
        RunError: if there is no room for it, or it must not be written there.
    """
    model = whole_model(trainer)

    def save() -> None:
        assert model is not None
        if isinstance(model, PeftModel):
            _save_merged(model, tokenizer, folder, templates, keep_adapter=keep_adapter)
        else:
            save_model(model, tokenizer, folder, templates)

    on_main(save)


def _save_merged(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    templates: TemplateSet | None,
    *,
    keep_adapter: bool,
) -> None:
    adapter = folder.with_name("adapter")
    unneeded = folder.with_name("adapter.merged.partial")
    place = adapter if keep_adapter else unneeded
    save_adapter(model, place)
    wanted = probe_logits(model)
    merged = merge(model)
    check = partial(check_saved, kind=type(merged), dtype=merged.dtype, wanted=wanted, adapter=adapter)
    try:
        save_model(merged, tokenizer, folder, templates, check)
    except ModelError:
        place.rename(adapter)
        raise
    shutil.rmtree(unneeded, ignore_errors=True)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes an adapter and a sample of the weights it was trained on, whole or not at all.

    Raises:
        RunError: if there is no room for it, or it must not be written there.
    """
    with whole_folder(folder) as temporary:
        model.save_pretrained(str(temporary))
        write_base(model, temporary)
