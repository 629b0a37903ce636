"""Runs the code blocks of the documentation as tests: tests/doc_blocks.py says how."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything reads it
# With these Rich and Typer would print to the tests as to a terminal, with colours.
os.environ.pop("FORCE_COLOR", None)
os.environ.pop("GITHUB_ACTIONS", None)
os.environ.pop("PY_COLORS", None)
os.environ.pop("TTY_COMPATIBLE", None)

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from doc_blocks import DOCUMENTATION
from doc_shell import Shell
from doc_world import furnish, train

import selfjudge

pytest_collect_file = DOCUMENTATION.pytest()

# A shell that starts `make test &` in a script makes it ignore Ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def documented_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take as there: a tiny model after a few steps of JSFT and self-training, and files for it."""
    return train(tmp_path_factory.mktemp("documented"))


@pytest.fixture(scope="module")
def shell(documented_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A page's own folder, with what the pages take as there."""
    folder = furnish(tmp_path_factory.mktemp("page"), documented_runs)
    with ExitStack() as servers, pytest.MonkeyPatch.context() as patch:
        # Servers run in processes of their own and in another folder.
        patch.setenv("PYTHONPATH", os.fspath(Path(selfjudge.__file__).parents[1]))
        yield Shell(folder, servers)
