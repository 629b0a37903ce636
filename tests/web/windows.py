"""The windows that the page is looked at in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}

Open = Callable[..., AbstractContextManager[Any]]
