"""The cache of a run: its data as records and token ids, in its folder until it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from selfjudge.data.store import Cache
from selfjudge.errors import RunError, SelfJudgeError
from selfjudge.training.processes import is_main
from selfjudge.training.run_folder import CACHE


@contextmanager
def run_cache(output_dir: str | Path) -> Iterator[Cache]:
    """The cache of the run in a folder, for a block that makes the data ready and opens the run.

    A run that is refused leaves nothing behind. One that is interrupted does: the next start goes on from there.
    """
    folder = Path(output_dir)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        (folder / CACHE).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"{folder} cannot be made ({e.strerror}): choose another --output-dir.") from e
    try:
        yield Cache(folder / CACHE)
    except SelfJudgeError:
        if is_main() and not (folder / "run.json").exists():
            shutil.rmtree(folder / CACHE, ignore_errors=True)
            for path in missing:
                with suppress(OSError):
                    path.rmdir()
        raise
