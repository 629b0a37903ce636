"""A judge of rollouts that is not the model in training: one behind OpenAI-compatible servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfjudge.engines.load import load_tokenizer, model_templates
from selfjudge.judge import Judge
from selfjudge.recipes.schema import RolloutJudgeSection
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.processes import process_index

if TYPE_CHECKING:
    from selfjudge.engines.openai_server import OpenAIEngine

PATIENCE = 1800.0
"""Seconds that a training waits for its only server to come back."""


def served_judge(section: RolloutJudgeSection) -> Judge | None:
    """Returns the judge on the section's servers, with its own tokenizer and templates; None for any other kind.

    Raises:
        EngineError: if a server cannot be reached or does not have the model.
        MissingExtraError: if the client of such servers is not installed.
        ModelError, TemplateError: if the judge's tokenizer or templates cannot be loaded, or do not go together.
    """
    if section.kind != "external":
        return None
    from selfjudge.engines.openai_servers import OpenAIServers

    assert section.url is not None  # as the section's validator has seen to
    assert section.model is not None
    chat = load_tokenizer(section.model)
    engine = OpenAIServers(server_engines(section.url, chat, section.served_model), first=process_index())
    return Judge(engine, JudgmentEncoder(load_templates(model_templates(section.model)), chat))


def server_engines(url: str | list[str], chat: ChatEncoder, model: str | None) -> list[OpenAIEngine]:
    """Returns the engines of a model on one server, which is waited for where it is gone, or on several.

    Raises:
        EngineError: if a server cannot be reached or does not have the model.
        MissingExtraError: if the client of such servers is not installed.
    """
    from selfjudge.engines.openai_server import OpenAIEngine

    urls = [url] if isinstance(url, str) else url
    patience = PATIENCE if len(urls) == 1 else 0.0  # of several another takes over at once
    return [OpenAIEngine(one, chat, model=model, patience=patience) for one in urls]
