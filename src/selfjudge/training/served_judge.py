"""A judge of rollouts that is not the model in training: one behind OpenAI-compatible servers."""

from __future__ import annotations

from selfjudge.engines.load import load_tokenizer, model_templates
from selfjudge.judge import Judge
from selfjudge.recipes.schema import RolloutJudgeSection
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.processes import process_index

PATIENCE = 1800.0
"""Seconds that a training waits for its judge's server to come back."""


def served_judge(section: RolloutJudgeSection) -> Judge | None:
    """Returns the judge on the section's servers, with its own tokenizer and templates; None for any other kind.

    Raises:
        EngineError: if a server cannot be reached or does not have the model.
        MissingExtraError: if the client of such servers is not installed.
        ModelError, TemplateError: if the judge's tokenizer or templates cannot be loaded, or do not go together.
    """
    if section.kind != "external":
        return None
    from selfjudge.engines.openai_server import OpenAIEngine
    from selfjudge.engines.openai_servers import JudgeServers

    assert section.url is not None  # as the section's validator has seen to
    assert section.model is not None
    chat = load_tokenizer(section.model)
    urls = [section.url] if isinstance(section.url, str) else section.url
    # Of several servers another takes over at once.
    patience = PATIENCE if len(urls) == 1 else 0.0
    engines = [OpenAIEngine(url, chat, model=section.served_model, patience=patience) for url in urls]
    engine = engines[0] if len(engines) == 1 else JudgeServers(engines, first=process_index())
    return Judge(engine, JudgmentEncoder(load_templates(model_templates(section.model)), chat))
