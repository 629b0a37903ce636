"""What of a model's files is read: safetensors and JSON, never a pickle, and never code."""

from __future__ import annotations

import json
import struct
from pathlib import Path, PurePath

from selfjudge.errors import ModelError

INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


def check_weights(folder: Path) -> None:
    """Passes a model folder whose weights are safetensors files in it.

    Raises:
        ModelError: if it has none (a pickle beside is named), or its index leads elsewhere.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds no weights as safetensors{_instead(folder)}.")
    index = folder / INDEX
    if not index.is_file():
        return
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        elsewhere = sorted(name for name in names if PurePath(name).name != name or not name.endswith(".safetensors"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ModelError(f"{index} is no index of weights: fetch or save the model again.") from e
    if elsewhere:
        raise ModelError(f"{index} names {elsewhere[0]!r}, which is no safetensors file in its folder: do not use it.")


def check_adapter(folder: Path) -> None:
    """Passes an adapter folder whose weights are a safetensors file.

    Raises:
        ModelError: for any other.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no {ADAPTER_WEIGHTS}{_instead(folder)}.")


def check_gguf(file: Path) -> None:
    """Passes a .gguf file that has weights, by its header alone: magic, version, number of tensors, number of values.

    Raises:
        ModelError: if it has none, or is not a .gguf file.
    """
    try:
        with file.open("rb") as opened:
            magic, _, tensors, _ = struct.unpack("<4sIQQ", opened.read(24))
    except (OSError, struct.error) as e:
        raise ModelError(f"{file} could not be read as GGUF (it has no whole header): fetch it again.") from e
    if magic != b"GGUF":
        raise ModelError(f"{file} could not be read as GGUF (it does not begin with GGUF): fetch it again.")
    if not tensors:
        raise ModelError(f"{file} holds no weights, only a vocabulary: name a .gguf file of a model.")


def _instead(folder: Path) -> str:
    pickled = next((file.name for pattern in _PICKLES for file in sorted(folder.glob(pattern))), None)
    if pickled is None:
        return ": fetch or save the model again"
    return f", and {pickled} is not read, as reading a pickle can run code: get it as safetensors, or convert it"
