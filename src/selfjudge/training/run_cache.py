"""The cache of a run: its data as records and token ids, in its folder until it is finished."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from selfjudge.data.io import locked
from selfjudge.data.store import Cache
from selfjudge.errors import RunError, SelfJudgeError
from selfjudge.training.processes import is_main, on_main
from selfjudge.training.run_folder import CACHE

LOCK = "lock"
_logger = logging.getLogger(__name__)


@contextmanager
def run_cache(output_dir: str | Path) -> Iterator[Cache]:
    """The cache of the run in a folder, for a block that makes the data ready and opens the run.

    A run that is refused leaves nothing behind. One that is interrupted does: the next start goes on from there.

    Raises:
        RunError: the folder cannot be made, or another run is making its data ready there.
    """
    folder = Path(output_dir)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    locks: list[IO[str]] = []
    on_main(lambda: locks.append(_claimed(folder)))
    try:
        yield Cache(folder / CACHE)
    except SelfJudgeError:
        if is_main() and not (folder / "run.json").exists():
            shutil.rmtree(folder / CACHE, ignore_errors=True)
            for path in missing:
                with suppress(OSError):
                    path.rmdir()
        raise
    except KeyboardInterrupt:
        if is_main() and not (folder / "run.json").exists():
            _logger.warning("Stopped while the data was made ready: the same command goes on from there.")
        raise
    finally:
        for lock in locks:
            lock.close()


def _claimed(folder: Path) -> IO[str]:
    """Returns the open lock of a run's cache: as long as it is open, no other run comes in."""
    try:
        (folder / CACHE).mkdir(parents=True, exist_ok=True)
        handle = (folder / CACHE / LOCK).open("w")
    except OSError as e:
        raise RunError(f"{folder} cannot be made ({e.strerror}): choose another --output-dir.") from e
    if not locked(handle):
        handle.close()
        raise RunError(
            f"Another process is preparing the data of the run in {folder}: wait for it, or choose another "
            "--output-dir."
        )
    return handle
