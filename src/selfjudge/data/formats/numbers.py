"""Numbers as files have them: as numbers, or as text, as every cell of a CSV file is."""

from __future__ import annotations

import math
from typing import Any


def to_number(value: Any) -> float | None:
    """Returns a number, or a text that is one (``"7.0"``), as a float; None for all else.

    Truth values, ``nan``, infinities and whole numbers beyond a float are not numbers here.
    """
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # "N/A", null, a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None
