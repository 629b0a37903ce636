"""`selfjudge serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVE = ("serve", "--port", "0", "--n", "3", "--max-new-tokens", "6")


@contextmanager
def serving(*options: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs the command until it listens; gives the URL of its API and the process."""
    command = [sys.executable, "-m", "selfjudge.cli.main", *map(str, (*SERVE, *options))]
    # Few open files, as many systems allow at first.
    command = ["sh", "-c", 'ulimit -S -n 512 && exec "$@"', "sh", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        yield found.group(0), process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, 128 + signal.SIGTERM)
