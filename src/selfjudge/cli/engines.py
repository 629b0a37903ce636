"""From a command's options to an engine."""

from __future__ import annotations

import atexit
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from selfjudge.cli.common import (
    AdapterOption,
    BatchSizeOption,
    ChatTemplateOption,
    DeviceOption,
    DtypeOption,
    EngineOption,
    ServedModelOption,
    ServerOption,
    TemplatesOption,
    ThinkingOption,
    TokenBudgetOption,
    dtype_name,
    files_of,
    load,
    quiet,
)

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from selfjudge.engines.base import Engine
    from selfjudge.judge import Judge
    from selfjudge.templates.chat import ChatEncoder


@dataclass(frozen=True)
class OpenedEngine:
    """``engine``: the model as asked for; ``base``: the same without its adapter, or the same engine where it has none.

    ``chat``: the encoder of its tokenizer. ``templates``: a name or folder for ``load_templates``.
    """

    engine: Engine
    base: Engine
    chat: ChatEncoder
    templates: str

    def judge(self, engine: Engine) -> Judge:
        """Returns the judge on ``engine``, which is one of this object's two, with its templates."""
        from selfjudge.judge import Judge
        from selfjudge.templates.encode import JudgmentEncoder
        from selfjudge.templates.template import load_templates

        return Judge(engine, JudgmentEncoder(load_templates(self.templates), self.chat))


@dataclass(frozen=True)
class EngineOptions:
    """The options of a command that say how its model is run. ``thinking``: of a command that samples from it."""

    adapter: AdapterOption = None
    template: TemplatesOption = None
    chat_template: ChatTemplateOption = None
    dtype: DtypeOption = "auto"
    device: DeviceOption = None
    token_budget: TokenBudgetOption = None
    batch_size: BatchSizeOption = None
    engine: EngineOption = "transformers"
    server: ServerOption = None
    served_model: ServedModelOption = None
    thinking: ThinkingOption = "off"

    def files(self, model: str) -> list[str | Path]:
        """Returns the files among ``model`` and what the options name, which no output may replace."""
        return files_of(model, self.chat_template)

    def open(self, model: str, today: date | None = None) -> OpenedEngine:
        """Opens ``model`` as the options say; ``today``: the date that its chat template writes, if not that of today.

        Raises:
            typer.BadParameter: for options that exclude each other.
            ModelError, EngineError: if the model cannot be loaded or the server does not answer.
        """
        if self.server is not None:
            if self.adapter is not None:
                raise _unusable("--adapter", "not with --server: serve the adapter, and name it by --served-model.")
            return _served(model, self, self.server, today)
        if self.served_model is not None:
            raise _unusable("--served-model", "only with --server.")
        if self.engine == "vllm":
            return _vllm(model, self, today)
        if self.engine != "transformers":
            raise _unusable("--engine", f"{self.engine!r} is not one of transformers, vllm.")
        loaded = load(model, self.adapter, self.dtype, self.chat_template, self.device, self.thinking, today)

        from selfjudge.engines.hf import TransformersEngine

        policy, base = (
            TransformersEngine(
                loaded.model, loaded.chat, adapter=adapted, token_budget=self.token_budget, batch_size=self.batch_size
            )
            for adapted in (True, False)
        )
        return OpenedEngine(policy, base, loaded.chat, self.template or loaded.templates)


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of :class:`EngineOptions`, which reach it as its argument ``options``.

    ``thinking`` is not among them: only a command that samples has it, as an option of its own.
    """
    signature, hints = inspect.signature(command, eval_str=True), get_type_hints(EngineOptions, include_extras=True)
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "options"]
    added = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(EngineOptions)
        if f.name != "thinking"
    ]

    @wraps(command)
    def run(**values: Any) -> None:
        options = EngineOptions(**{p.name: values.pop(p.name) for p in added})
        command(**values, options=options)

    # What typer reads.
    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return run


def _vllm(model: str, options: EngineOptions, today: date | None) -> OpenedEngine:
    from peft import PeftConfig

    from selfjudge.engines.load import adapter_folder, load_tokenizer, model_templates
    from selfjudge.engines.vllm_engine import VllmCore, VllmEngine

    quiet()
    adapter = options.adapter
    chat = load_tokenizer(model, options.chat_template, thinking=options.thinking, today=today)
    rank = PeftConfig.from_pretrained(str(adapter_folder(adapter))).r if adapter else None
    core = VllmCore(model, lora_rank=rank, dtype=dtype_name(options.dtype))
    atexit.register(core.close)
    if adapter is not None:
        core.load_adapter(adapter)
    policy, base = (VllmEngine(core, chat, adapter=adapted) for adapted in (True, False))
    return OpenedEngine(policy, base, chat, options.template or model_templates(model))


def _served(model: str, options: EngineOptions, server: str, today: date | None) -> OpenedEngine:
    from selfjudge.engines.load import model_templates
    from selfjudge.engines.openai_server import open_served

    quiet()
    engine = open_served(
        server,
        model,
        served_model=options.served_model,
        chat_template=options.chat_template,
        thinking=options.thinking,
        today=today,
    )
    return OpenedEngine(engine, engine, engine.chat, options.template or model_templates(model))


def _unusable(option: str, why: str) -> typer.BadParameter:
    return typer.BadParameter(why, param_hint=option)
