"""Names for requests and replies."""

from __future__ import annotations

import random

_random = random.Random()


def new_id(prefix: str) -> str:
    """Returns a name that no other has. It keeps no secret, so the system is not asked: that costs a thread switch."""
    return f"{prefix}-{_random.getrandbits(128):032x}"
