"""Structure that arrives as text: a list of messages written as JSON or as Python writes it."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from selfjudge.data.formats.messages import Reject

MAX_PYTHON = 1_000_000
"""Characters of Python at most: its syntax tree takes many times the memory of the text."""

_OPENS = re.compile(r"""\s*(?:array\()?(?:\[\s*)?\{\s*(['"])\w+\1\s*:""")
_MESSAGE_OPENS = re.compile(r"""\s*(?:array\()?(?:\[\s*)?\{\s*(['"])(?:role|from|content|value|messages)\1\s*:""")
_ROLE = re.compile(
    r"""(['"])(?:role|from)\1\s*:\s*(['"])(?:system|developer|user|human|assistant|gpt|chatgpt|bot|model|tool|function"""
    r"""|function_call|observation|ipython)\2"""
)


def parse_text(text: str, name: str) -> Any:
    """What a text holds that is written as JSON or Python and has a message in it, or None for any other text.

    Raises:
        Reject: the text looks like messages but is neither JSON nor Python, as after printing an array of NumPy.
    """
    if not _OPENS.match(text) or not _ROLE.search(text):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return _parse_python(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        if _MESSAGE_OPENS.match(text):
            raise Reject(f"{name} is text of messages that cannot be read") from None
        return None


def _parse_python(text: str) -> Any:
    if len(text) > MAX_PYTHON:
        raise ValueError("too long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a backslash before any character warns
        return ast.literal_eval(text.strip())


def parse_list(text: str, name: str) -> Any:
    """What a text holds that is a list as JSON or Python writes it.

    Raises:
        Reject: it is neither.
    """
    for parse in (json.loads, _parse_python):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, list):
            return value
    raise Reject(f"{name} is text of a list that cannot be read")
