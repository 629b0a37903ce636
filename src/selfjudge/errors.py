"""Errors a user can cause. Every message says what was wrong, where, and what to do.

The command line turns each of these into one sentence on stderr and exit code 2; anything else is a bug and keeps
its traceback.
"""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s,]*@")
_SHORTEST_SECRET = 8


def without_credentials(text: str) -> str:
    """Returns a text whose URLs have no user and password: ``http://***@host``."""
    return _CREDENTIALS.sub("***@", text)


def without_secret(text: str, secret: str) -> str:
    """Returns a text without an API key; what is too short to be one, such as the ``EMPTY`` of no key, stays."""
    return text.replace(secret, "***") if len(secret) >= _SHORTEST_SECRET else text


class SelfJudgeError(Exception):
    """Base of every error this package raises on purpose. Its message never has the credentials of a URL."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))


class DataError(SelfJudgeError):
    """Input data that cannot be read or does not have the columns it needs."""


class TemplateError(SelfJudgeError):
    """A judgment template that is incomplete, or that a tokenizer cannot express."""


class RowError(SelfJudgeError):
    """One row that a chat template cannot express. The message says why; whoever has the row names it.

    ``place``: of the row among those of the call.
    """

    place = 0


class ModelError(SelfJudgeError):
    """A model or tokenizer that cannot be loaded or used."""


class EngineError(SelfJudgeError):
    """A model server that cannot be reached, refuses a request, or leaves out what was asked for."""


class RecipeError(SelfJudgeError):
    """A recipe that does not validate."""


class RunError(SelfJudgeError):
    """A run folder or output file that must not be written or cannot be resumed."""


class ElsewhereError(SelfJudgeError):
    """Another process of the same training stopped, and said why."""


class Interruption(SelfJudgeError):
    """A command that a signal ended, and that can go on from a checkpoint or a file. ``signal`` is its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class MissingExtraError(SelfJudgeError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package: run `pip install 'selfjudge[{extra}]'`.")
