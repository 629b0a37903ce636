"""`selfjudge serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from selfjudge.cli.common import (
    AdapterOption,
    BatchSizeOption,
    ChatTemplateOption,
    DeviceOption,
    DtypeOption,
    EngineOption,
    ServedModelOption,
    TemplatesOption,
    TokenBudgetOption,
    quiet,
)
from selfjudge.cli.engines import EngineOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

    from selfjudge.serving.arena import Arena
    from selfjudge.serving.backend import Backend
    from selfjudge.serving.in_process import InProcessBackend
    from selfjudge.serving.settings import ServeSettings


def serve(
    model: Annotated[
        str | None,
        typer.Option(help="Hub id, model folder, run folder or .gguf file. Without one --runs is all that is served."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of a server of this model, such as http://localhost:8000/v1; may be repeated. --model then names "
            "the tokenizer."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    n: Annotated[int, typer.Option(min=1, help="Candidates of an answer, where the request does not say.")] = 8,
    max_candidates: Annotated[int, typer.Option(min=1, help="Candidates that one request may ask for.")] = 64,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of a chat answer at most, where the request does not say.")
    ] = 768,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Requests accepted at a time, waiting ones included; more get 429.")
    ] = 256,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request's body at most.")] = 2**20,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that a request may take.")] = 600.0,
    api_keys: Annotated[
        Path | None, typer.Option(help="File of SHA-256 hashes of the keys that are let in, one a line.")
    ] = None,
    on_judge_failure: Annotated[
        Literal["error", "best-so-far"],
        typer.Option(help="When judging fails midway: 503, or the best placed until then, marked as such."),
    ] = "error",
    arena: Annotated[
        str | None,
        typer.Option(
            help="Open the arena, and keep votes in this file of SQLite, or in the database of this SQLAlchemy URL."
        ),
    ] = None,
    rival: Annotated[
        str | None, typer.Option(help="With --arena and --backend: the other model, by its name on the servers.")
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Show the run folders under this directory on the page."),
    ] = None,
    log_text: Annotated[bool, typer.Option("--log-text", help="Write prompts and answers to the log.")] = False,
    adapter: AdapterOption = None,
    template: TemplatesOption = None,
    chat_template: ChatTemplateOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    token_budget: TokenBudgetOption = None,
    batch_size: BatchSizeOption = None,
    engine: EngineOption = "transformers",
    served_model: ServedModelOption = None,
) -> None:
    """Answer by tournaments over HTTP, as OpenAI's API: chat completions, completions, and verdicts on pairs.

    With --model alone the model runs in this process; with --backend requests go to servers of it, such as vLLM. With
    --adapter the adapted model is sampled and the model without it judges. With --runs alone no model is loaded, and
    only the page of runs is served. Stops on Ctrl-C or SIGTERM, after the requests it has accepted.
    """
    from selfjudge.serving.gate import read_key_hashes
    from selfjudge.serving.settings import ServeSettings

    if n > max_candidates:
        raise typer.BadParameter(f"{n} is more than --max-candidates, {max_candidates}", param_hint="--n")
    settings = ServeSettings(
        n=n, max_candidates=max_candidates, max_new_tokens=max_new_tokens, max_requests=max_requests,
        max_body=max_body, timeout=timeout, key_hashes=read_key_hashes(api_keys) if api_keys else frozenset(),
        on_judge_failure=on_judge_failure, log_text=log_text,
    )  # fmt: skip
    if model is None:
        _serve_runs(runs, settings, host, port, others=(backend, adapter, arena, rival, served_model))
        return
    _check_arena(arena, rival, adapter, served=bool(backend))
    if backend:
        if adapter is not None:
            raise typer.BadParameter("not with --backend: the servers hold the weights", param_hint="--adapter")
        upstream, name = _upstream(model, backend, template, chat_template, served_model)
        met = None
        if arena and rival:
            other, _ = _upstream(model, backend, template, chat_template, rival)
            met = _upstream_arena(arena, upstream, name, other, rival)
        _run(upstream, name, settings, host, port, met, runs)
        return
    if served_model is not None:
        raise typer.BadParameter("only with --backend", param_hint="--served-model")
    opened = EngineOptions(adapter, template, chat_template, dtype, device, token_budget, batch_size, engine).open(
        model
    )

    from selfjudge.serving.in_process import InProcessBackend

    here = InProcessBackend(opened.engine, opened.judge(opened.base), opened.chat)
    _run(here, model, settings, host, port, _adapter_arena(arena, here, model) if arena else None, runs)


def _check_arena(arena: str | None, rival: str | None, adapter: Path | None, *, served: bool) -> None:
    """Raises BadParameter unless an arena has two models, and a rival an arena."""
    if rival is not None and (arena is None or not served):
        raise typer.BadParameter("only with --arena and --backend", param_hint="--rival")
    if arena is not None and (rival if served else adapter) is None:
        needed = "--rival" if served else "--adapter (it then meets the model without it), or --backend with --rival"
        raise typer.BadParameter(f"needs two models: add {needed}", param_hint="--arena")


def _adapter_arena(database: str, backend: InProcessBackend, model: str) -> Arena:
    """Returns the arena of a model with its adapter and without."""
    from functools import partial

    from selfjudge.serving.arena import Arena, Contestant
    from selfjudge.serving.votes import VoteStore

    adapted = Contestant(f"{model} with the adapter", partial(backend.sample, repeatable=False))
    return Arena(backend, (adapted, Contestant(model, backend.sample_judge)), VoteStore(database))


def _upstream_arena(database: str, backend: Backend, model: str, other: Backend, rival: str) -> Arena:
    """Returns the arena of two models of the servers."""
    from functools import partial

    from selfjudge.serving.arena import Arena, Contestant
    from selfjudge.serving.votes import VoteStore

    first = Contestant(model, partial(backend.sample, repeatable=False))
    second = Contestant(rival, partial(other.sample, repeatable=False), other.running)
    return Arena(backend, (first, second), VoteStore(database))


def _upstream(
    model: str, urls: Sequence[str], template: str | None, chat_template: str | None, served_model: str | None
) -> tuple[Backend, str]:
    """Returns the backend of running servers, and the name of the model there."""
    from selfjudge.engines.load import load_tokenizer, model_templates
    from selfjudge.engines.openai_server import DEFAULT_RETRIES, OpenAIEngine
    from selfjudge.serving.upstream import UpstreamBackend
    from selfjudge.templates.encode import JudgmentEncoder
    from selfjudge.templates.template import load_templates

    quiet()
    chat = load_tokenizer(model, chat_template)
    # Where there is another server, it is asked at once.
    retries = 0 if len(urls) > 1 else DEFAULT_RETRIES
    engines = [OpenAIEngine(url, chat, model=served_model, max_retries=retries) for url in urls]
    encoder = JudgmentEncoder(load_templates(template or model_templates(model)), chat)
    return UpstreamBackend(engines, encoder), engines[0].model


def _serve_runs(runs: Path | None, settings: ServeSettings, host: str, port: int, others: Sequence[object]) -> None:
    """Serves the page of runs alone; ``others`` are the options that say something about a model."""
    from selfjudge.serving.runs import RunDirectory
    from selfjudge.serving.runs_app import create_runs_app

    if runs is None or any(others):
        raise typer.BadParameter("is missing: name a model, or --runs alone", param_hint="--model")
    _listen(create_runs_app(RunDirectory(runs), settings), f"the runs under {runs}", host, port)


def _run(
    backend: Backend,
    name: str,
    settings: ServeSettings,
    host: str,
    port: int,
    arena: Arena | None = None,
    runs: Path | None = None,
) -> None:
    """Serves a model until stopped.

    Raises:
        RunError: if the port is taken.
    """
    from selfjudge.serving.app import create_app
    from selfjudge.serving.runs import RunDirectory

    _listen(create_app(backend, name, settings, arena, RunDirectory(runs) if runs else None), name, host, port)


def _listen(app: FastAPI, what: str, host: str, port: int) -> None:
    """Serves an app until stopped.

    Raises:
        RunError: if the port is taken.
    """
    import logging
    import socket

    from selfjudge.errors import RunError
    from selfjudge.serving.listen import allow_connections, server

    logging.basicConfig(format="%(asctime)s %(message)s")
    for ours in ("selfjudge", "uvicorn"):
        logging.getLogger(ours).setLevel(logging.INFO)
    allow_connections()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, asyncio sends at once what is written to its connections (TCP_NODELAY).
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as e:
            raise RunError(f"{host}:{port} cannot be listened on ({e.strerror}): choose another --port.") from e
        # Requests wait in the socket until the server accepts them.
        print(f"Serving {what} at http://{host}:{listener.getsockname()[1]}/v1 (page: /, API: /docs)", flush=True)
        server(app).run(sockets=[listener])
