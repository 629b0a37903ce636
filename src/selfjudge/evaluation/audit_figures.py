"""The figures of an audit, read back for the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfjudge.core.statistics import Rate
from selfjudge.errors import DataError


def read_audit(path: Path, of: Path) -> dict[str, Any]:
    """Returns ``input``, ``pairs`` and ``turned`` (probe → rate, those that were tried) of an audit's JSON; no texts.

    Args:
        path: what ``eval audit --json`` wrote.
        of: the run folder whose model was audited.

    Raises:
        DataError: the file cannot be read, is no audit, or is the audit of another model.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        turned = {name: finding["turned"] for name, finding in found["findings"].items()}
        rates = {name: Rate.model_validate(rate).model_dump() for name, rate in turned.items() if rate["n"]}
        model, told = str(found["model"]), {"input": str(found["input"]), "pairs": int(found["summary"]["pairs"])}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name the file of `eval audit --json`.") from None
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError):
        raise DataError(f"{path} is no audit: name the file that `selfjudge eval audit --json` wrote.") from None
    if Path(model).resolve() not in (of.resolve(), (of / "final").resolve()):
        raise DataError(f"{path} is the audit of {model}, not of {of}: audit the model of this run.")
    return {**told, "turned": rates}
