"""The run folders under a directory, as they are at this moment, over HTTP."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel

from selfjudge.serving.errors import ApiError
from selfjudge.serving.run_replies import RunList, RunView
from selfjudge.serving.tail import whole
from selfjudge.serving.watched_run import WatchedRun

NEEDED = "No runs are shown: start the server with --runs DIR, the directory that holds the run folders."

_SHOWN = 200
"""Runs that are listed, those written to last."""
_FOLDERS = 20_000
"""Folders that are looked into at most."""
_DEPTH = 6
"""How far below the directory runs are looked for."""
_SKIPPED = ("checkpoints", "final", "adapter")
"""Folders of a run that hold no runs."""
_FRESH = 2.0
"""Seconds for which the folders that were found are good."""
_BUDGET = 2**25
"""Bytes of logs that one answer reads, or a little more; the next one goes on."""

CLOSED = RunList(needed=NEEDED, runs=[], left_out=0)


class RunDirectory:
    """Looks at runs. Its calls block, and are for one thread at a time.

    A run has a name only because its folder was found: no path is ever made of what a client sends. Links are not
    followed, so whatever is told lies in the directory.
    """

    def __init__(self, directory: Path) -> None:
        """Takes a directory that is there; reads nothing yet."""
        self._root = directory.resolve()
        self._runs: dict[str, WatchedRun] = {}
        self._left_out = 0
        self._good_until = 0.0

    def list(self) -> RunList:
        """Returns the runs there are."""
        self._find()
        budget = _BUDGET
        for run in self._runs.values():
            budget -= run.read(budget)
        return RunList(needed=None, runs=[run.summary() for run in self._runs.values()], left_out=self._left_out)

    def view(self, name: str) -> RunView | None:
        """Returns one run, or None if there is none of this name."""
        self._find(anew=name not in self._runs)
        run = self._runs.get(name)
        if run is None:
            return None
        run.read(_BUDGET)
        within = "" if name == "." else f"{name}/"
        return run.view([other for other in sorted(self._runs) if other != name and other.startswith(within)])

    def _find(self, *, anew: bool = False) -> None:
        """Looks for run folders, unless it was done a moment ago."""
        if time.monotonic() < self._good_until and not anew:
            return
        found = sorted(_run_folders(self._root), key=_changed, reverse=True)
        self._left_out = len(found[_SHOWN:])
        names = {whole(os.fspath(folder.relative_to(self._root))): folder for folder in found[:_SHOWN]}
        self._runs = {
            name: self._runs.get(name) or WatchedRun(name, folder, self._root) for name, folder in names.items()
        }
        self._good_until = time.monotonic() + _FRESH


def _run_folders(root: Path) -> Iterator[Path]:
    """Yields the folders that hold a run.json, ``root`` among them."""
    waiting = deque([(root, 0)])
    looked = 0
    while waiting and looked < _FOLDERS:
        folder, depth = waiting.popleft()
        looked += 1
        try:
            entries = [*os.scandir(folder)]
        except OSError:  # gone since, or not for us
            continue
        if any(entry.name == "run.json" for entry in entries):
            yield folder
        if depth < _DEPTH:
            below = (e for e in entries if e.name not in _SKIPPED and not e.name.startswith("."))
            waiting.extend((Path(e.path), depth + 1) for e in below if e.is_dir(follow_symlinks=False))


def _changed(folder: Path) -> float:
    """Returns when a run was written to last."""
    times = [0.0]
    for name in ("run.json", "metrics.jsonl"):
        with suppress(OSError):
            times.append(os.lstat(folder / name).st_mtime)
    return max(times)


class RunsApi:
    """The endpoints. Files are read in a thread, one answer after another."""

    def __init__(self, directory: RunDirectory | None) -> None:
        """Takes what is looked at, if anything is."""
        self._directory = directory
        self._thread = ThreadPoolExecutor(1, "runs")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it the endpoints can be asked."""
        with self._thread:
            yield

    async def runs(self, request: Request) -> Response:
        """List the runs under the directory that the server shows."""
        if self._directory is None:
            return _tagged(CLOSED.model_dump_json(), request)
        return await self._answer(self._directory.list, request)

    async def run(
        self, name: Annotated[str, Query(description="As in the list; `.` is the directory itself.")], request: Request
    ) -> Response:
        """Show one run: curves, alarms, judged pairs, verdicts, recipe."""
        directory = self._directory
        if directory is None:
            raise ApiError(404, NEEDED, "runs_closed")
        return await self._answer(lambda: directory.view(name), request)

    async def _answer(self, read: Callable[[], BaseModel | None], request: Request) -> Response:
        def made() -> str | None:
            reply = read()
            return None if reply is None else reply.model_dump_json()

        body = await asyncio.get_running_loop().run_in_executor(self._thread, made)
        if body is None:
            raise ApiError(404, "There is no such run, or no longer: GET /v1/runs lists them.", "not_found", "name")
        return _tagged(body, request)


def add_runs(app: FastAPI, api: RunsApi, errors: dict[int | str, dict[str, Any]]) -> None:
    """Puts the endpoints into an app; ``errors`` are their documented failures."""
    unchanged: dict[int | str, dict[str, Any]] = {304: {"description": "As before: what `If-None-Match` names."}}
    app.get("/v1/runs", response_model=RunList, responses=unchanged | errors)(api.runs)
    app.get("/v1/run", response_model=RunView, responses=unchanged | errors)(api.run)


def _tagged(body: str, request: Request) -> Response:
    """Answers without a body where the client has this one: who polls asks mostly for what has not changed."""
    tag = f'"{sha256(body.encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")
