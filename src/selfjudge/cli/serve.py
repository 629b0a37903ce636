"""`selfjudge serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    ThinkingOption,
    TokenBudgetOption,
    quiet,
)
from selfjudge.cli.engines import EngineOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

    from selfjudge.serving.backend import Backend, NamedBackend
    from selfjudge.serving.runs import RunDirectory
    from selfjudge.serving.settings import ServeSettings
    from selfjudge.serving.votes import VoteStore


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
        str | None,
        typer.Option(
            help="A second model to compare with, under the judge of the first: as --model takes it, with --backend by "
            "its name on the servers."
        ),
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
    thinking: ThinkingOption = "off",
) -> None:
    """Answer by tournaments over HTTP, as OpenAI's API: chat completions, completions, and verdicts on pairs.

    With --model alone the model runs in this process; with --backend requests go to servers of it, such as vLLM. With
    --adapter the adapted model is sampled and the model without it judges; without --rival, it is the second model too.
    With --runs alone no model is loaded, and only the page of runs is served. Stops on Ctrl-C or SIGTERM, after the
    requests it has accepted.
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
    _check_second(arena, rival, model, adapter, engine, served=bool(backend))
    options = EngineOptions(
        adapter, template, chat_template, dtype, device, token_budget, batch_size, engine, thinking=thinking
    )
    if backend:
        if adapter is not None:
            raise typer.BadParameter("not with --backend: the servers hold the weights", param_hint="--adapter")
        app, name = _upstream_app(model, backend, options, served_model, rival, settings, arena, runs)
    else:
        if served_model is not None:
            raise typer.BadParameter("only with --backend", param_hint="--served-model")
        app, name = _in_process_app(model, options, rival, settings, arena, runs), model
    _listen(app, name, host, port)


def _check_second(
    arena: str | None, rival: str | None, model: str, adapter: Path | None, engine: str, *, served: bool
) -> None:
    """Raises BadParameter unless an arena has two models, and a rival is another model that can be run."""
    if arena is not None and (rival or (None if served else adapter)) is None:
        needed = "--rival" if served else "--rival, or --adapter (it then meets the model without it)"
        raise typer.BadParameter(f"needs two models: add {needed}", param_hint="--arena")
    if rival == model and not served:
        raise typer.BadParameter("this is --model: name another", param_hint="--rival")
    if rival is not None and not served and engine != "transformers":
        raise typer.BadParameter(
            f"not with --engine {engine}: serve both models, and name the servers by --backend", param_hint="--rival"
        )


def _in_process_app(
    model: str,
    options: EngineOptions,
    rival: str | None,
    settings: ServeSettings,
    arena: str | None,
    runs: Path | None,
) -> FastAPI:
    """Returns the app of models in this process; the second is the rival, else the model without its adapter."""
    from selfjudge.serving.app import create_app
    from selfjudge.serving.backend import NamedBackend
    from selfjudge.serving.in_process import InProcessBackend
    from selfjudge.serving.rival import EngineBeside, JudgedBy

    opened = options.open(model)
    here = InProcessBackend(opened.engine, opened.judge(opened.base), opened.chat)
    judge = model if options.adapter is None else f"{model} without the adapter"
    second: NamedBackend | None = None
    if rival is not None:
        other = replace(options, adapter=None).open(rival)
        second = NamedBackend(rival, JudgedBy(EngineBeside(here, other.engine, other.chat), here))
    elif options.adapter is not None:
        second = NamedBackend(judge, JudgedBy(EngineBeside(here, opened.base, opened.chat), here))
    return create_app(here, model, settings, judge=judge, rival=second, votes=_votes(arena), runs=_directory(runs))


def _upstream_app(
    model: str,
    urls: Sequence[str],
    options: EngineOptions,
    served_model: str | None,
    rival: str | None,
    settings: ServeSettings,
    arena: str | None,
    runs: Path | None,
) -> tuple[FastAPI, str]:
    """Returns the app in front of running servers, and the name of the model there."""
    from selfjudge.serving.app import create_app
    from selfjudge.serving.backend import NamedBackend
    from selfjudge.serving.rival import JudgedBy

    upstream, name = _upstream(model, urls, options, served_model)
    second: NamedBackend | None = None
    if rival is not None:
        if rival == name:
            raise typer.BadParameter(f"{rival} is the first model already: name another", param_hint="--rival")
        other, _ = _upstream(model, urls, options, rival)
        second = NamedBackend(rival, JudgedBy(other, upstream))
    return create_app(upstream, name, settings, rival=second, votes=_votes(arena), runs=_directory(runs)), name


def _votes(arena: str | None) -> VoteStore | None:
    from selfjudge.serving.votes import VoteStore

    return None if arena is None else VoteStore(arena)


def _directory(runs: Path | None) -> RunDirectory | None:
    from selfjudge.serving.runs import RunDirectory

    return None if runs is None else RunDirectory(runs)


def _upstream(model: str, urls: Sequence[str], options: EngineOptions, served_model: str | None) -> tuple[Backend, str]:
    """Returns the backend of running servers, and the name of the model there."""
    from selfjudge.engines.load import load_tokenizer, model_templates
    from selfjudge.engines.openai_server import DEFAULT_RETRIES, OpenAIEngine
    from selfjudge.serving.upstream import UpstreamBackend
    from selfjudge.templates.encode import JudgmentEncoder
    from selfjudge.templates.template import load_templates

    quiet()
    chat = load_tokenizer(model, options.chat_template, thinking=options.thinking)
    # Where there is another server, it is asked at once.
    retries = 0 if len(urls) > 1 else DEFAULT_RETRIES
    engines = [OpenAIEngine(url, chat, model=served_model, max_retries=retries) for url in urls]
    encoder = JudgmentEncoder(load_templates(options.template or model_templates(model)), chat)
    return UpstreamBackend(engines, encoder), engines[0].model


def _serve_runs(runs: Path | None, settings: ServeSettings, host: str, port: int, others: Sequence[object]) -> None:
    """Serves the page of runs alone; ``others`` are the options that say something about a model."""
    from selfjudge.serving.runs import RunDirectory
    from selfjudge.serving.runs_app import create_runs_app

    if runs is None or any(others):
        raise typer.BadParameter("is missing: name a model, or --runs alone", param_hint="--model")
    _listen(create_runs_app(RunDirectory(runs), settings), f"the runs under {runs}", host, port)


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
