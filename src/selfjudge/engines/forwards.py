"""Modules that run with another forward for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def replaced_forwards(forwards: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Within it each module runs with the forward beside it; its hooks stay. Afterwards each is as it was."""
    pairs = list(forwards)
    before = [module.__dict__.get("forward") for module, _ in pairs]
    for module, forward in pairs:
        module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for (module, _), own in zip(pairs, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own
