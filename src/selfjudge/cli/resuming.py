"""Commands that go on where they stopped: `judge` and `sample`."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfjudge.cli.common import UNWRITABLE, check_outputs, refuse_inputs
from selfjudge.errors import Interruption, RunError, SelfJudgeError

if TYPE_CHECKING:
    from selfjudge.cli.engines import EngineOptions, OpenedEngine
    from selfjudge.data.partial import PartialOutput

ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with an interrupted command, from the last batch it wrote.")
]
BATCH_ROWS = 4096
"""Rows of a batch at most: those that are written together."""
BATCH_TOKENS = {"cpu": 2**18}
"""Judged tokens of a batch at most, by kind of device: minutes of work, and many batches of the engine."""
_BATCH_TOKENS_ELSEWHERE = 2**22


def beginning(outputs: Sequence[Path], inputs: Iterable[str | Path | None], *, overwrite: bool, resume: bool) -> date:
    """Returns the date on which the work on outputs began: today, or earlier where it is resumed.

    Called before any long work; writes nothing.

    Raises:
        RunError: if an output is there, or in part and ``resume`` is False, or is one of the inputs, or finished.
    """
    from selfjudge.data.partial import journal_path, partial_path, read_journal

    if overwrite and resume:
        raise typer.BadParameter("not with --overwrite, which begins anew.", param_hint="--resume")
    refuse_inputs([*outputs, *map(partial_path, outputs), journal_path(outputs[0])], inputs)
    found = None if overwrite else read_journal(outputs[0])
    if found is None:
        if resume and outputs[0].exists():
            raise RunError(f"{outputs[0]} is finished: there is nothing to resume.")
        check_outputs(*outputs, overwrite=overwrite)
        return date.today()
    if not resume:
        raise RunError(
            f"{partial_path(outputs[0])} is there, from a command that was interrupted: go on with it by --resume, or "
            "begin anew with --overwrite."
        )
    return date.fromisoformat(found.date)


@contextmanager
def resumable(
    outputs: Sequence[Path], settings: Mapping[str, Any], rows: int, *, overwrite: bool, began: date
) -> Iterator[PartialOutput]:
    """Yields the outputs to add batches to, and puts them in their place at the end.

    Args:
        outputs: the files.
        settings: what the rows are made from, see :class:`selfjudge.data.partial.PartialOutput`.
        rows: how many there will be.
        overwrite: begin anew, and replace the outputs.
        began: as :func:`beginning` says.

    Raises:
        Interruption: after SIGTERM or Ctrl-C, if a batch is done. Without one nothing is left behind.
        RunError: as PartialOutput does; and where the body ends in an error of the user's, that error with how to go
            on.
    """
    from selfjudge.data.partial import PartialOutput

    output = PartialOutput(outputs, settings, overwrite=overwrite, date=began.isoformat())
    try:
        yield output
        output.finish()
    except BaseException as error:
        kept = f"{output.rows:,} of {rows:,} rows are in {output.partial}, and --resume goes on from there"
        if not output.rows:
            output.drop()
        told = _told(error, kept if output.rows else "")
        if told is None:
            raise
        raise told from error
    finally:
        output.close()


def _told(error: BaseException, kept: str) -> SelfJudgeError | None:
    """Returns the error that tells of another one and of how to go on, or None where the other one does as it is."""
    ended = _signal(error)
    if ended:
        return Interruption(f"{ended.name} ended the command; {kept}.", ended) if kept else None
    if _is_out_of_memory(error):
        said = "Memory ran out: free some, or take a device with more"
    elif isinstance(error, OSError) and error.errno in UNWRITABLE:
        said = f"{error.filename or 'The output'} cannot be written ({error.strerror}): make room for it"
    elif isinstance(error, SelfJudgeError) and kept:
        said = str(error).rstrip(".")
    else:
        return None
    return RunError(f"{said}; {kept}." if kept else f"{said}.")


def _signal(error: BaseException) -> signal.Signals | None:
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    # What the command line's handler raises.
    return signal.SIGTERM if isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM else None


def _is_out_of_memory(error: BaseException) -> bool:
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and should_reduce_batch_size(error))


def batches(tokens: Sequence[int], opened: OpenedEngine, done: int) -> list[range]:
    """Returns the rows that are judged and written together, from row ``done`` on, at which a batch has ended.

    They depend on the rows and the kind of engine alone, and so are the same when a command is resumed.

    Args:
        tokens: the judged tokens of each row.
        opened: the engine; batches are smaller on a CPU.
        done: rows that are done.
    """
    from selfjudge.engines.batching import total_budget_batches

    budget = BATCH_TOKENS.get(device_kind(opened) or "", _BATCH_TOKENS_ELSEWHERE)
    found = (range(rows[0], rows[-1] + 1) for rows in total_budget_batches(tokens, budget, BATCH_ROWS))
    return [rows for rows in found if rows.start >= done]


def device_kind(opened: OpenedEngine) -> str | None:
    """Returns ``cpu``, ``cuda`` or another kind of device of a model in this process, None of a server or vLLM."""
    from selfjudge.engines.hf import TransformersEngine

    engine = opened.engine
    return str(engine.model.device.type) if isinstance(engine, TransformersEngine) else None


def model_settings(model: str, options: EngineOptions, opened: OpenedEngine) -> dict[str, Any]:
    """Returns what of a model changes its output, under the names of options.

    A model in this process is known by its weights, wherever it lies; one elsewhere by its name.
    """
    from selfjudge import __version__
    from selfjudge.engines.base_weights import weights_digest
    from selfjudge.engines.hf import TransformersEngine

    found: dict[str, Any] = {"selfjudge": __version__, "--engine": "server" if options.server else options.engine}
    engine = opened.engine
    if isinstance(engine, TransformersEngine):
        digest = weights_digest(engine.model)
        return {**found, "--device": device_kind(opened), "--model, --adapter or --dtype": digest}
    if options.server:
        return {**found, "--served-model": getattr(engine, "model", None)}
    adapter = str(options.adapter.resolve()) if options.adapter else None
    return {**found, "--model": model, "--adapter": adapter, "--dtype": options.dtype}


def digest_of(rows: Iterable[object]) -> str:
    """Returns a SHA-256 of rows by what they are written as."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row!r}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()
