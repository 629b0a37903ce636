"""The server as an ASGI app: routes, and nothing but routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from selfjudge import __version__
from selfjudge.replies import ChatReply, JudgeReply, ModelList, TextReply
from selfjudge.serving.answers import Served, chat_reply, text_reply, verdicts_reply
from selfjudge.serving.arena import CLOSED, NEEDED, Arena, ArenaPair, ArenaPrompt, ArenaState, Revealed, Vote
from selfjudge.serving.backend import Backend, NamedBackend
from selfjudge.serving.contest import Outcome, Task, hold
from selfjudge.serving.errors import ApiError, ErrorReply, add_error_handlers
from selfjudge.serving.flights import Flights, result
from selfjudge.serving.gate import Gate, log_text
from selfjudge.serving.pages import add_pages
from selfjudge.serving.probes import healthz, metrics
from selfjudge.serving.requests import ChatRequest, CompletionFields, CompletionRequest, JudgeRequest
from selfjudge.serving.runs import RunDirectory, RunsApi, add_runs
from selfjudge.serving.settings import ServeSettings
from selfjudge.serving.streaming import Progress, chat_chunks, stream, text_chunks
from selfjudge.serving.tasks import TaskMaker, comparisons
from selfjudge.serving.votes import VoteStore

_CHECK = 5.0
"""Seconds that the backend may take to show that it is there."""
_LONG = 8192
"""Bytes of a body whose texts take longer to tokenise than a thread takes to begin."""

B = TypeVar("B", bound=CompletionFields)
T = TypeVar("T")


def create_app(
    backend: Backend,
    model: str,
    settings: ServeSettings,
    *,
    judge: str | None = None,
    rival: NamedBackend | None = None,
    votes: VoteStore | None = None,
    runs: RunDirectory | None = None,
) -> FastAPI:
    """Returns the app that serves a model.

    Args:
        backend: answers and judges.
        model: its name.
        settings: of the server.
        judge: the name of the model that judges, if another.
        rival: another model under the same judge, to be served as well.
        votes: opens the arena of the two models.
        runs: run folders to show.
    """
    models = [NamedBackend(model, backend), *([rival] if rival else ())]
    shown = RunsApi(runs)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for one in models:
                await stack.enter_async_context(one.backend.running())
            await stack.enter_async_context(shown.running())
            yield

    app = FastAPI(title="selfjudge", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, settings=settings)
    add_error_handlers(app)
    arena = Arena((models[0], rival), votes) if rival and votes else None
    api = _Api(models, judge or model, settings, arena)
    _add_routes(app, api, shown)
    add_pages(app)
    return app


def _add_routes(app: FastAPI, api: _Api, runs: RunsApi) -> None:
    """Puts the endpoints under their paths."""
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in ("4XX", "5XX")}
    streamed = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}, **errors}
    app.post("/v1/chat/completions", response_model=ChatReply, responses=streamed)(api.chat)
    app.post("/v1/completions", response_model=TextReply, responses=streamed)(api.completions)
    app.post("/v1/judge", response_model=JudgeReply, responses=errors)(api.judge)
    app.get("/v1/arena", response_model=ArenaState, responses=errors)(api.arena)
    app.post("/v1/arena/pairs", response_model=ArenaPair, responses=errors)(api.arena_pair)
    app.post("/v1/arena/votes", response_model=Revealed, responses=errors)(api.arena_vote)
    app.get("/v1/arena/votes.jsonl", response_class=Response, responses=errors)(api.arena_export)
    add_runs(app, runs, errors)
    app.get("/v1/models", response_model=ModelList, responses=errors)(api.models)
    app.get("/healthz", response_class=Response)(healthz)
    app.get("/readyz", response_class=Response, responses=errors)(api.readyz)
    app.get("/metrics", response_class=Response)(metrics)


@dataclass(frozen=True)
class _Model:
    """A model that is served."""

    served: Served
    backend: Backend
    tasks: TaskMaker


class _Api:
    """The endpoints."""

    def __init__(
        self, models: Sequence[NamedBackend], judge: str, settings: ServeSettings, arena: Arena | None
    ) -> None:
        self._backend = models[0].backend
        self._models = {
            name: _Model(Served(name, backend.max_length, judge), backend, TaskMaker(backend, settings))
            for name, backend in models
        }
        self._settings = settings
        self._arena = arena
        self._flights = Flights(settings.max_requests, settings.timeout)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Answer a dialogue with the best of several candidates, as OpenAI's chat completions."""
        model = self._model(body)
        tasks = [await _made(model.tasks.chat, body, request)]
        return await self._answer(model, tasks, body, request, chat_reply, chat_chunks)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """Continue each prompt with the best of several candidates, as OpenAI's completions."""
        model = self._model(body)
        tasks = await _made(model.tasks.completions, body, request)
        return await self._answer(model, tasks, body, request, text_reply, text_chunks)

    async def judge(self, body: JudgeRequest, request: Request) -> Response:
        """Judge pairs of responses in both orders."""
        self._flights.require_room()
        pairs = comparisons(body)
        judged = await result(self._flights.start(self._backend.verdicts(pairs)), request)
        return _json(verdicts_reply(pairs, judged, principles=bool(body.principles)))

    async def arena(self) -> ArenaState:
        """Tell which models meet, and how far the judge agrees with the people."""
        return await self._arena.state() if self._arena else CLOSED

    async def arena_pair(self, body: ArenaPrompt, request: Request) -> Response:
        """Draw a response of each model, to be voted on without knowing whose it is."""
        arena = self._open_arena()
        self._flights.require_room()
        tasks = [await asyncio.to_thread(model.tasks.chat, body.chat(name)) for name, model in self._models.items()]
        return _json(await result(self._flights.start(arena.pair(tasks)), request))

    async def arena_vote(self, body: Vote) -> Revealed:
        """Vote on a pair; the reply tells the models and the judge's verdict."""
        return await self._open_arena().vote(body)

    async def arena_export(self) -> Response:
        """Give all votes that are no ties as JSON lines of preferences."""
        return Response(await self._open_arena().export(), media_type="application/jsonl")

    async def models(self) -> ModelList:
        """List the models that are served."""
        return ModelList(data=[model.served.model() for model in self._models.values()])

    async def readyz(self) -> Response:
        """Tell whether requests can be answered now."""
        try:
            await asyncio.wait_for(self._backend.check(), _CHECK)
        except TimeoutError as e:
            raise ApiError(503, "The model does not answer.", "not_ready") from e
        return Response("ok", media_type="text/plain")

    def _model(self, body: CompletionFields) -> _Model:
        self._flights.require_room()
        if body.model not in self._models:
            raise ApiError(
                404, f"The model `{body.model}` is not served here; GET /v1/models tells which is.", "model_not_found",
                "model",
            )  # fmt: skip
        return self._models[body.model]

    def _open_arena(self) -> Arena:
        if self._arena is None:
            raise ApiError(404, NEEDED, "arena_closed")
        return self._arena

    async def _answer(
        self, model: _Model, tasks: Sequence[Task], body: CompletionFields, request: Request, reply: Any, chunks: Any
    ) -> Response:
        """Works on tasks and answers with what ``reply`` makes of their outcomes, streamed by ``chunks`` if asked."""
        progress = Progress(whole=bool(body.selfjudge))

        async def work() -> BaseModel:
            outcomes = await self._hold(model.backend, tasks, progress)
            made: BaseModel = reply(model.served, body, tasks, outcomes)
            if self._settings.log_text:
                log_text(request, tasks, outcomes)
            return made

        flight = self._flights.start(work())
        if not body.stream:
            return _json(await result(flight, request))
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return stream(flight, progress, request, partial(chunks, usage=usage))

    async def _hold(self, backend: Backend, tasks: Sequence[Task], progress: Progress) -> list[Outcome]:
        """Holds all tournaments at once; the first that fails cancels the others."""
        on_failure = self._settings.on_judge_failure
        async with asyncio.TaskGroup() as group:
            held = [
                group.create_task(hold(backend, task, on_failure, partial(progress.report, i)))
                for i, task in enumerate(tasks)
            ]
        return [task.result() for task in held]


async def _made(make: Callable[[B], T], body: B, request: Request) -> T:
    """Returns ``make(body)``: for a long text in a thread, as it takes a while; for a short one the thread would."""
    if request.state.body_size > _LONG:
        return await asyncio.to_thread(make, body)
    return make(body)


def _json(reply: BaseModel) -> Response:
    # What was not set (the tournament, unless asked for) is left out, as OpenAI's clients expect.
    return Response(reply.model_dump_json(exclude_unset=True), media_type="application/json")
