"""Commands in processes of their own that end at a chosen moment of a chosen phase, wherever in it that is."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_processes = multiprocessing.get_context("forkserver")
# Imported once, for all of them.
_processes.set_forkserver_preload(["selfjudge.cli.main", "selfjudge.training.self_training", "selfjudge.baselines.run"])


@dataclass(frozen=True)
class Moment:
    """The ``count``-th operation of a phase, at which a process gets a signal.

    An operation is one of torch's in the phases ``generation``, ``judging``, ``step`` (forward and backward) and
    ``optimizer``, and one on the file system in the phase ``checkpoint``.
    """

    phase: str
    count: int
    signal: int = signal.SIGKILL


def start(
    arguments: list[str], moment: Moment | None = None, counts: Path | None = None, batch_rows: int | None = None
) -> BaseProcess:
    """Starts a command; ``counts`` gets how many operations each phase had.

    ``batch_rows``: rows that `judge` and `sample` write together, in place of thousands.
    """
    process = _processes.Process(target=_run, args=(arguments, moment, counts, batch_rows))
    process.start()
    return process


def finish(
    arguments: list[str], moment: Moment | None = None, counts: Path | None = None, batch_rows: int | None = None
) -> int | None:
    """Runs a command as :func:`start`, and returns its exit code, negative for a signal that killed it."""
    process = start(arguments, moment, counts, batch_rows)
    process.join(300)
    assert process.exitcode is not None, "the command hangs"
    return process.exitcode


def _run(arguments: list[str], moment: Moment | None, counts: Path | None, batch_rows: int | None) -> None:
    import torch

    from selfjudge.cli import resuming

    torch.set_num_threads(1)
    done = _watch(moment)
    resuming.BATCH_ROWS = batch_rows or resuming.BATCH_ROWS
    sys.argv = ["selfjudge", *arguments]
    from selfjudge.cli.main import main

    try:
        main()
    finally:
        if counts:
            counts.write_text(json.dumps(done))


def _watch(moment: Moment | None) -> Counter[str]:
    """Counts the operations of each phase from now on, and sends the signal."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers import Trainer

    from selfjudge.engines.hf import TransformersEngine
    from selfjudge.training import checkpoint_callback

    done: Counter[str] = Counter()
    phases: list[str] = []

    def operation() -> None:
        done[phases[-1]] += 1
        if moment and phases[-1] == moment.phase and done[moment.phase] == moment.count:
            os.kill(os.getpid(), moment.signal)

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operation()
            return func(*args, **(kwargs or {}))

    def within(owner: Any, name: str, phase: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            phases.append(phase)
            try:
                if phase == "checkpoint":
                    return function(*args, **kwargs)
                with Operations():
                    return function(*args, **kwargs)
            finally:
                phases.pop()

        setattr(owner, name, watched)

    def file_event(event: str, args: Any) -> None:
        if phases and phases[-1] == "checkpoint" and event in _FILE_EVENTS:
            operation()

    within(TransformersEngine, "sample", "generation")
    within(TransformersEngine, "label_probabilities", "judging")
    within(Trainer, "training_step", "step")
    within(torch.optim.AdamW, "step", "optimizer")
    within(Trainer, "_save_checkpoint", "checkpoint")
    within(checkpoint_callback, "commit", "checkpoint")
    sys.addaudithook(file_event)
    return done
