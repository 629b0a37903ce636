"""Putting an adapter from a folder on a model: only on the weights that it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from selfjudge.engines.base_weights import first_difference, read_base, sample_files, sample_weights
from selfjudge.engines.safe_files import ADAPTER_WEIGHTS
from selfjudge.errors import ModelError


def with_adapter(model: PreTrainedModel, path: str, folder: Path) -> PeftModel:
    """Returns the model with the adapter in ``folder`` on it.

    Args:
        model: the base.
        path: where the model comes from: its folder, Hub id or built-in name.
        folder: the adapter's own folder (:func:`selfjudge.engines.load.adapter_folder`).

    Raises:
        ModelError: if the adapter is already merged into the model, was trained on other weights (where its folder
            says on which), is of another size or architecture, or cannot be read.
    """
    refuse_merged(path, folder)
    base = read_base(folder)
    if base is not None:
        _refuse_difference(first_difference(base, sample_weights(model)), path, folder)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
        unlike = _unlike(adapted, folder)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ModelError(f"The adapter {folder} does not fit {path!r} ({reason}): {_advice(folder)}") from e
    if unlike:
        raise ModelError(
            f"The adapter {folder} does not fit {path!r} ({unlike[0]} is in one of them alone): {_advice(folder)}"
        )
    return adapted


def refuse_merged(path: str, folder: Path) -> None:
    """Raises ModelError where a run's adapter is to be put on the result of the same run, which has it in its weights.

    Arguments as for :func:`with_adapter`.
    """
    run, config = folder.parent, Path(path) / "config.json"
    merged = run / "final" / "config.json"
    # Of several rounds the whole run's result is the same files as the last round's.
    if (run / "run.json").is_file() and config.is_file() and merged.is_file() and config.samefile(merged):
        raise ModelError(
            f"The adapter {folder} is already merged into {path!r}: use that model without it, or {_advice(folder)}"
        )


def refuse_other_files(path: Path, folder: Path) -> None:
    """Raises ModelError where an adapter was trained on other weights than those in a model folder's files.

    Arguments as for :func:`with_adapter`; nothing is loaded.
    """
    base = read_base(folder)
    if base is not None:
        _refuse_difference(first_difference(base, sample_files(path, [*base.shapes])), str(path), folder)


def _refuse_difference(name: str | None, path: str, folder: Path) -> None:
    if name is not None:
        raise ModelError(
            f"The adapter {folder} was trained on other weights than those of {path!r} ({name} differs): "
            f"{_advice(folder)}"
        )


def _advice(folder: Path) -> str:
    try:
        config: Any = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        name = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        name = None
    return "name the model it was trained on" + (f" ({name!r} at that time)." if name else ".")


def _unlike(adapted: PeftModel, folder: Path) -> list[str]:
    """Returns the names of LoRA weights that the adapter's file has and the model has no place for, or the reverse."""
    wanted = {name for name in get_peft_model_state_dict(adapted) if "lora_" in name}
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as opened:
        found = {name for name in opened.keys() if "lora_" in name}  # noqa: SIM118
    return sorted(wanted ^ found)
