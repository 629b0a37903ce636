"""Which weights an adapter was trained on: a sample of them beside it, to compare others with.

Of each weight of floating-point numbers a few values at fixed places are kept in bfloat16. A model has the same ones
there whether it is loaded in float32 or in bfloat16. Where float16 plays a part, values that are close are equal.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor, nn

from selfjudge.engines.safe_files import INDEX
from selfjudge.errors import ModelError

BASE_WEIGHTS = "base_weights.json"
_VALUES = 32
"""Values of each weight. A fine-tuning that changes weights by a ten-thousandth changes one in forty of all values."""
_ADAPTER_PARTS = ("lora_", "modules_to_save", "token_adapter")


@dataclass(frozen=True)
class BaseWeights:
    """A sample of a model's weights: the shape of each, and values of it in bfloat16, [at most 32].

    ``dtype``: that of the model, such as ``float32``.
    """

    dtype: str
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Tensor]


def sample_weights(model: nn.Module) -> BaseWeights:
    """Returns the sample of a model, of a PEFT model that of its base."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    found = {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): weight.detach()
        for name, weight in base.named_parameters()
        if weight.is_floating_point() and not any(part.startswith(_ADAPTER_PARTS) for part in name.split("."))
    }
    dtype = str(getattr(base, "dtype", torch.float32)).removeprefix("torch.")
    values = {name: _values(weight) for name, weight in found.items()}
    return BaseWeights(dtype, {name: tuple(weight.shape) for name, weight in found.items()}, values)


def sample_files(folder: Path, names: Sequence[str]) -> BaseWeights:
    """Returns the sample of a model folder's safetensors files, of those of ``names`` that are in them."""
    index = folder / INDEX
    if index.is_file():
        where: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {folder / file for name, file in where.items() if name in set(names)}
    else:
        files = set(folder.glob("*.safetensors"))
    shapes: dict[str, tuple[int, ...]] = {}
    values: dict[str, Tensor] = {}
    for file in sorted(files):
        with safe_open(file, framework="pt") as opened:
            for name in sorted(set(opened.keys()) & set(names)):
                weight = opened.get_slice(name)
                shapes[name] = tuple(weight.get_shape())
                values[name] = _values_in_file(weight, shapes[name])
    return BaseWeights("as in the file", shapes, values)


def first_difference(trained_on: BaseWeights, found: BaseWeights) -> str | None:
    """Returns the name of a weight in which two models differ, or None if no such weight was found.

    Names that one of them does not have count for nothing, as versions of transformers give weights other names.
    """
    close = "float16" in (trained_on.dtype, found.dtype)
    for name, shape in trained_on.shapes.items():
        if name in found.shapes:
            if found.shapes[name] != shape:
                return name
            ours, theirs = trained_on.values[name], found.values[name]
            if not (
                _are_close(ours, theirs) if close else torch.equal(ours.view(torch.int16), theirs.view(torch.int16))
            ):
                return name
    return None


def _are_close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours.float(), theirs.float(), rtol=2**-6, atol=1e-4, equal_nan=True)


def weights_digest(model: nn.Module) -> str:
    """Returns a SHA-256 of names, shapes and a sample of all of a model's weights, an adapter's among them."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        if weight.is_floating_point():
            digest.update(_values(weight.detach()).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def write_base(model: PeftModel, folder: Path) -> None:
    """Writes the sample of an adapter's base beside the adapter."""
    sample = sample_weights(model)
    bits = torch.cat([*sample.values.values()]).view(torch.int16).numpy().astype("<i2").tobytes()
    content = {"dtype": sample.dtype, "shapes": sample.shapes, "values": base64.b64encode(bits).decode()}
    (folder / BASE_WEIGHTS).write_text(json.dumps(content), encoding="utf-8")


def read_base(folder: Path) -> BaseWeights | None:
    """Returns the sample in an adapter's folder, or None where there is none: others write none.

    Raises:
        ModelError: if the file is damaged.
    """
    file = folder / BASE_WEIGHTS
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        shapes = {str(name): tuple(int(size) for size in shape) for name, shape in content["shapes"].items()}
        counts = [min(_VALUES, int(np.prod(shape, dtype=np.int64))) for shape in shapes.values()]
        bits = np.frombuffer(base64.b64decode(content["values"], validate=True), dtype="<i2").astype(np.int16)
        parts = torch.from_numpy(bits).view(torch.bfloat16).split(counts)
        return BaseWeights(str(content["dtype"]), shapes, dict(zip(shapes, parts, strict=True)))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError, RecursionError) as e:
        raise ModelError(
            f"{file} is damaged: get the adapter's folder again, or remove this file to use the adapter unchecked."
        ) from e


def _places(size: int) -> list[int]:
    """Returns fixed places in so many numbers; a multiplier spreads them over rows and columns."""
    return [(i * 2654435761 + 40503) % size for i in range(min(_VALUES, size))]


def _values(weight: Tensor) -> Tensor:
    places = torch.tensor(_places(weight.numel()), dtype=torch.long, device=weight.device)
    return weight.reshape(-1)[places].to(torch.bfloat16).cpu()


def _values_in_file(weight: Any, shape: tuple[int, ...]) -> Tensor:
    """Returns the same as :func:`_values` of a safetensors slice, of which it reads a few rows."""
    size = int(np.prod(shape, dtype=np.int64))
    if len(shape) < 2 or not size:
        return _values(weight[...])
    row = size // shape[0]
    found = [weight[place // row : place // row + 1].reshape(-1)[place % row] for place in _places(size)]
    return torch.stack(found).to(torch.bfloat16)
