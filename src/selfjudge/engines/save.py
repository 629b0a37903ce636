"""Writing a model folder: weights, tokenizer and the judgment templates it knows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfjudge.engines.whole_folder import whole_folder
from selfjudge.templates.template import TemplateSet

TEMPLATES_FOLDER = "judgment_templates"


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    templates: TemplateSet | None = None,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Writes model (safetensors), tokenizer and the judgment templates it knows, whole or not at all.

    ``check`` looks at what was written before it is kept; what it raises leaves nothing behind.

    Raises:
        RunError: if there is no room for it, or it must not be written there.
    """
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if templates is not None:
            kept = temporary / TEMPLATES_FOLDER / templates.name
            kept.mkdir(parents=True)
            for template in templates.templates:
                shutil.copyfile(templates.folder / f"{template.principle}.txt", kept / f"{template.principle}.txt")
        check(temporary)
