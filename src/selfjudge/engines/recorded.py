"""Work on a GPU that is recorded as a CUDA graph and from then on replayed: hundreds of kernels as one launch."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch

_logger = logging.getLogger(__name__)


class Recorded:
    """A step that is run once as it is, then recorded, and from then on replayed; on a CPU it is just run.

    Recordings share a memory pool: what a step leaves behind lies outside of it, and they never run at the same time.
    """

    def __init__(self, step: Callable[[], None], name: str, pool: Any) -> None:
        """Takes the pool to record with; None to record nothing."""
        self._step, self._name, self._pool = step, name, pool
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Takes the step."""
        if self._graph is not None:
            self._graph.replay()
        elif self._pool is None:
            self._step()
        elif self._calls == 0:
            self._try()
        else:
            try:
                self._graph = self._recorded()
            except torch.OutOfMemoryError:
                # A recording's memory is new, and while one is made torch gives nothing back of what it has in store.
                torch.cuda.empty_cache()
                self._graph = self._recorded()
            self._graph.replay()
        self._calls += 1

    def _try(self) -> None:
        """Runs the step, and finds out whether it can be recorded: not if it waits for the device somewhere.

        To find out by recording would leave torch's allocator, before 2.12, in the failed recording's pool.
        """
        try:
            with _waiting_is_an_error():
                self._step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            _logger.warning(
                "This model's sampling cannot be recorded, it runs step by step (%s).", str(e).split("\n")[0]
            )
            self._pool = None
            self._step()  # once more: what it had written by then, it writes again

    def _recorded(self) -> torch.cuda.CUDAGraph:
        """Returns the graph; recording runs nothing.

        By hand and not by torch.cuda.graph, which gives all cached memory back to the device first, and leaves its
        stream current where the recording fails.
        """
        start, graph = time.perf_counter(), torch.cuda.CUDAGraph()
        stream = _recording_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                self._step()
            except BaseException:
                with suppress(RuntimeError):  # that the recording is broken off; what broke it says more
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        _logger.info("Recorded sampling for %s in %.1f s.", self._name, time.perf_counter() - start)
        return graph


@cache
def _recording_stream(device: int) -> torch.cuda.Stream:
    """Returns the one stream that all recordings of a device are made on: matrix products keep a workspace for each."""
    return torch.cuda.Stream(device)


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():  # each switch says that it is a prototype
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
