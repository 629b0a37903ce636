"""What all sections of a recipe are made of. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from selfjudge.errors import without_credentials

BUILTIN_WORLD = "builtin:world"
"""The model path and data path that mean the embedded small world."""
ROWS = "rows"
"""How rows that are given in Python are called, as a file is by its path."""


def _plain_name(name: str) -> str:
    """Passes what can be the name of a folder beside others."""
    if not name or name[0] in ". " or any(c in "/\\" or not c.isprintable() for c in name):
        raise ValueError(f"{name!r} cannot be the name of a folder: use no slash and no dot or space at its beginning.")
    return name


def _without_secrets(training: dict[str, Any]) -> dict[str, Any]:
    """Passes settings that may be written into a run folder."""
    secret = next((name for name in training if name.endswith("_token") or name.endswith("api_key")), None)
    if secret is not None:
        raise ValueError(f"training.{secret} would be written into the run folder: set HF_TOKEN in its place.")
    return training


def _without_password(url: str | list[str]) -> str | list[str]:
    """Passes the URLs of servers that may be written into a run folder."""
    shown = without_credentials(" ".join([url] if isinstance(url, str) else url))
    if "***@" in shown:
        raise ValueError(
            f"{shown} has a password, which would be written into the run folder: take it out, and set OPENAI_API_KEY."
        )
    return url


def _switch(value: Any) -> Any:
    """Returns off and on as they are meant: YAML reads both words as truth values."""
    return {False: "off", True: "on"}.get(value, value) if isinstance(value, bool) else value


Switch = Annotated[Literal["off", "on"], BeforeValidator(_switch)]
Name = Annotated[str, AfterValidator(_plain_name)]
Urls = Annotated[str | Annotated[list[str], Field(min_length=1)], AfterValidator(_without_password)]
Training = Annotated[dict[str, Any], AfterValidator(_without_secrets)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are checked when they are set, keys are those of YAML."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, serialize_by_alias=True)
