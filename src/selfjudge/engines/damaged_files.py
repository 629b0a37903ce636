"""What is wrong with the files of a model that a library could not load, in words that name the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils.memory import should_reduce_batch_size
from transformers.utils import logging as transformers_logging

_OBJECTS = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
)
"""Entries of a config that must be above zero. Lists, with one entry for each layer, are left to transformers."""
_EXPLAINED = (OSError, ValueError, ImportError)
"""What libraries raise with a sentence for readers."""


def load_failure(path: str, error: Exception) -> str:
    """Returns why a model could not be loaded, and what to do about it where that is known.

    Args:
        path: Hub id or folder.
        error: what the library raised.
    """
    found = _damage(Path(path)) if Path(path).is_dir() else None
    if found:
        return found
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, _EXPLAINED):
        return reason
    return f"{type(error).__name__}: {reason} (correct its files, or fetch or save it again)."


def _damage(folder: Path) -> str | None:
    for name in _OBJECTS:
        if (folder / name).is_file() and not isinstance(_json(folder / name), dict):
            return f"{folder / name} is not a JSON object: correct it, or fetch or save the model again."
    for file in sorted(folder.glob("*.jinja")):
        try:
            file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return f"{file} is not UTF-8 text: correct it, or fetch or save the model again."
    config = _json(folder / "config.json")
    for part in (config, (config or {}).get("text_config")):
        for name in _SIZES:
            size = part.get(name) if isinstance(part, dict) else None
            if isinstance(size, str | float | bool) or (isinstance(size, int) and size < 1):
                return (
                    f"{name} is {repr(size)[:100]}, not a number above 0: correct {name} in {folder / 'config.json'}."
                )
    return None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def memory_ran_out(error: Exception) -> bool:
    """Whether an error comes from a lack of memory, and not from a file."""
    return isinstance(error, MemoryError) or should_reduce_batch_size(error)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Within it transformers logs nothing but errors: what is wrong with a model is said by our own errors."""
    held = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(held)
