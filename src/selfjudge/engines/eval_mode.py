"""A model in eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class EvalMode:
    """A model's modules. A fresh adapter may be in training mode where its base is not, so all of them count."""

    def __init__(self, model: nn.Module) -> None:
        """Takes a model whose modules stay what they are."""
        self._model, self._modules = model, list(model.modules())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it no module is in training mode; afterwards those are that were.

        A change goes through all modules twice: keep it up over several calls, and each of these finds nothing to do.
        """
        training = [module for module in self._modules if module.training]
        if not training:
            yield
            return
        self._model.eval()
        try:
            yield
        finally:
            if len(training) == len(self._modules):
                self._model.train()
            else:
                for module in training:
                    module.training = True
