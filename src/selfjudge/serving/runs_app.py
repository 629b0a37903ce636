"""The server without a model: the page of runs alone, for a machine whose accelerator is training."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response

from selfjudge import __version__
from selfjudge.replies import ModelList
from selfjudge.serving.errors import ErrorReply, add_error_handlers
from selfjudge.serving.gate import Gate
from selfjudge.serving.pages import add_pages
from selfjudge.serving.probes import healthz, metrics
from selfjudge.serving.runs import RunDirectory, RunsApi, add_runs
from selfjudge.serving.settings import ServeSettings


def create_runs_app(directory: RunDirectory, settings: ServeSettings) -> FastAPI:
    """Returns the app that shows the runs under a directory, and answers nothing else."""
    runs = RunsApi(directory)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with runs.running():
            yield

    app = FastAPI(title="selfjudge", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, settings=settings)
    add_error_handlers(app)
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in ("4XX", "5XX")}
    add_runs(app, runs, errors)
    app.get("/v1/models", response_model=ModelList, responses=errors)(_models)
    app.get("/healthz", response_class=Response)(healthz)
    app.get("/readyz", response_class=Response)(healthz)
    app.get("/metrics", response_class=Response)(metrics)
    add_pages(app)
    return app


async def _models() -> ModelList:
    """List no model, as none is served."""
    return ModelList(data=[])
