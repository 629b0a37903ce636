"""A judge of rollouts that is not the model in training: one behind an OpenAI-compatible server."""

from __future__ import annotations

from selfjudge.engines.load import model_templates
from selfjudge.judge import Judge
from selfjudge.recipes.schema import RolloutJudgeSection
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates

PATIENCE = 1800.0
"""Seconds that a training waits for its judge's server to come back."""


def served_judge(section: RolloutJudgeSection) -> Judge | None:
    """Returns the judge on the section's server, with its own tokenizer and templates; None for any other kind.

    Raises:
        EngineError: if the server cannot be reached or does not have the model.
        MissingExtraError: if the client of such servers is not installed.
        ModelError, TemplateError: if the judge's tokenizer or templates cannot be loaded, or do not go together.
    """
    if section.kind != "external":
        return None
    from selfjudge.engines.openai_server import open_served

    assert section.url is not None  # as the section's validator has seen to
    assert section.model is not None
    engine = open_served(section.url, section.model, served_model=section.served_model, patience=PATIENCE)
    return Judge(engine, JudgmentEncoder(load_templates(model_templates(section.model)), engine.chat))
