"""What may be said of a run outside the machine it ran on: no folders, no addresses of servers, no keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HIDDEN = "(not shown)"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SECRET = re.compile(r"(?:token|secret|password|passwd|credentials?|api_?key)$", re.IGNORECASE)
_DATA_FILE = re.compile(r"\.(?:jsonl|jsonl\.gz|json|parquet|gguf|jinja|ya?ml)$")


def is_hub_id(path: str) -> bool:
    """Whether a path means a repository on the Hub: ``org/name``, and nothing of that name here."""
    return bool(_HUB_ID.fullmatch(path)) and not _DATA_FILE.search(path) and not Path(path).exists()


def public_path(path: str) -> str:
    """Returns a Hub id as it is, of any other path the last part, and of a URL nothing."""
    if "://" in path:
        return HIDDEN
    if is_hub_id(path):
        return path
    return next((part for part in reversed(re.split(r"[/\\]", path)) if part), path)


def public_settings(value: Any, key: str = "") -> Any:
    """Returns settings with every text that may be a path, an address or a key made fit to be shown."""
    if isinstance(value, dict):
        return {name: public_settings(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [public_settings(item, key) for item in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if _SECRET.search(key) else public_path(value)


def markdown_text(text: object) -> str:
    """Returns any text as one line of Markdown that shows it as it is: no markup, no HTML, no column of a table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", " ".join(str(text).split()))
