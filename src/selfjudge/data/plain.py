"""Python objects as the plain values that a JSON file would hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def plain(value: Any) -> Any:
    """Returns a value with mappings and records as dicts, and tuples and arrays (NumPy, PyTorch) as lists.

    A number of NumPy becomes one of Python, what pandas has for a missing value becomes None; any other object stays
    as it is.
    """
    if isinstance(value, str):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if callable(getattr(value, "tolist", None)):
        value = value.tolist()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
