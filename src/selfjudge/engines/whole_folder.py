"""Folders that are written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfjudge.errors import RunError


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into, which becomes ``folder`` at the end, or is gone where writing it fails.

    Raises:
        RunError: if there is no room for it, or it must not be written there.
    """
    temporary = folder.with_name(folder.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        temporary.rename(folder)
    except Exception as e:
        shutil.rmtree(temporary, ignore_errors=True)
        # So end the errors that safetensors and tokenizers have of their own.
        if not isinstance(e, OSError) and "(os error " not in str(e):
            raise
        raise RunError(
            f"{folder} cannot be written ({str(e).splitlines()[0]}): make room for it or make it writable, and run the "
            "command again, a training with --resume."
        ) from e
