"""What a model is, and whether it can be trained and sampled: checks in words, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from transformers import AutoConfig

from selfjudge.engines.cache_kind import cache_kind
from selfjudge.engines.context import context_of
from selfjudge.engines.load import load_model, load_tokenizer, model_templates, pretrained, resolve_model
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.errors import ModelError, RowError, SelfJudgeError
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.dialogue import Turn
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.self_check import DIALOGUE, findings
from selfjudge.templates.template import load_templates
from selfjudge.templates.thinking import Thinking

_NO_WEIGHTS = "not tried: there are no weights here"


class Check(BaseModel):
    """One check: its name, whether it passed (None: not tried), and what was found."""

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool | None
    found: str


class ModelReport(BaseModel):
    """The facts of a model. What cannot be known, because an earlier check failed, is None or empty.

    ``problems``: why it cannot be trained or sampled, as sentences. ``policy_target``: what is trained of an answer.
    ``two_turn_targets``: the same of each assistant turn of a dialogue. ``stop_tokens``: the tokens that end a sample,
    and where each comes from. ``label_tokens``: each label's token in a judgment. ``thinking_switch``: the chat
    template's own variables. ``template_date``: what the template writes as today, if anything.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    ok: bool
    problems: list[str]
    checks: list[Check]
    policy_target: str | None = None
    two_turn_targets: list[str] = []
    generation_prompt: str | None = None
    stop_tokens: dict[str, str] = {}
    label_tokens: dict[str, str] = {}
    thinking: Thinking
    can_think: bool | None = None
    thinking_switch: dict[str, Any] = {}
    template_date: str | None = None
    cache: str | None = None
    sampling: str | None = None
    context_length: int | None = None
    context_source: str | None = None


def check_model(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    chat_template: str | None = None,
    thinking: Thinking = "off",
    templates: str | None = None,
) -> tuple[ModelReport, ChatEncoder | None]:
    """Checks a model; where its folder has no weights, its tokenizer and config alone.

    Args:
        path: as for :func:`selfjudge.engines.load.load_model`.
        adapter: a PEFT adapter folder (or run folder) to put on top.
        chat_template: replaces the tokenizer's: a Jinja file, or ``plain``.
        thinking: whether the policy thinks before it answers.
        templates: the judge's, a name or folder; by default those the model was trained with, else ``general``.

    Returns:
        The report, and the chat encoder where there is one.
    """
    checks: list[Check] = []
    facts: dict[str, Any] = {}
    encoder: JudgmentEncoder | None = None
    chat = _tried(checks, "Tokenizer and chat template", lambda: load_tokenizer(path, chat_template, thinking=thinking))
    if chat is not None:
        facts |= _chat_facts(chat)
        checks += [Check(name=f.name, passed=f.problem is None, found=f.problem or f.found) for f in findings(chat)]
        encoder = _tried(checks, "Labels", lambda: _encoder(chat, path, templates))
        facts["label_tokens"] = _labels(encoder, chat) if encoder else {}
    facts |= _tried(checks, "Config", lambda: _config_facts(path)) or {}
    if encoder is not None and facts.get("context_length"):
        checks.append(_context(encoder, facts["context_length"]))
    if chat is not None and has_weights(path):
        loaded = _tried(
            checks, "Weights", lambda: load_model(path, adapter=adapter, chat_template=chat_template, thinking=thinking)
        )
        if loaded is not None:
            facts["sampling"] = _tried(checks, "Sampling", lambda: sampling_way(loaded.model).description)
    else:
        checks += [Check(name=name, passed=None, found=_NO_WEIGHTS) for name in ("Weights", "Sampling")]
    problems = list(dict.fromkeys(check.found for check in checks if check.passed is False))
    report = ModelReport(model=str(path), ok=not problems, problems=problems, checks=checks, thinking=thinking, **facts)
    return report, chat


def has_weights(path: str | Path) -> bool:
    """Returns whether a model's weights can be loaded: of a folder, whether it has any; else it has to be tried."""
    try:
        found = Path(resolve_model(path))
    except ModelError:
        return False
    return not found.is_dir() or any(found.glob("*.safetensors"))


def _tried(checks: list[Check], name: str, work: Callable[[], Any]) -> Any:
    """Returns what the work gives, or None where it raises one of our errors; notes either."""
    try:
        result = work()
    except SelfJudgeError as e:
        checks.append(Check(name=name, passed=False, found=str(e)))
        return None
    checks.append(Check(name=name, passed=True, found=result if isinstance(result, str) else "fine"))
    return result


def _chat_facts(chat: ChatEncoder) -> dict[str, Any]:
    text = chat.tokenizer.decode
    answers = [text(turn.answer, skip_special_tokens=False) for turn in _turns(chat)]
    return {
        "policy_target": answers[0] if answers else None,
        "two_turn_targets": answers,
        "generation_prompt": text(chat.prompt_ids(DIALOGUE[:1]), skip_special_tokens=False),
        "stop_tokens": {text([i], skip_special_tokens=False): source for i, source in chat.stops.items()},
        "can_think": chat.thought_marks is not None,
        "thinking_switch": chat.switch,
        "template_date": chat.template.date.isoformat() if chat.template.moves else None,
    }


def _turns(chat: ChatEncoder) -> Iterator[Turn]:
    """Yields the turns of the check's dialogue that the chat template takes."""
    for length in (4, 2):
        try:
            yield from chat.turns(DIALOGUE[:length])
            return
        except RowError:
            continue


def _encoder(chat: ChatEncoder, path: str | Path, templates: str | None) -> JudgmentEncoder:
    try:
        known = templates or model_templates(path)
    except ModelError:  # a tokenizer without a model
        known = "general"
    return JudgmentEncoder(load_templates(known), chat)


def _context(encoder: JudgmentEncoder, context: int) -> Check:
    """Looks whether a judgment of two empty answers fits."""
    needed = max(len(prompt.token_ids) for prompt in encoder.prompts([(DIALOGUE[:1], "", "")]))
    fits = needed < context
    found = f"{context} tokens, of which a judgment takes {needed} besides prompt and answers"
    return Check(
        name="Context",
        passed=fits,
        found=found if fits else f"The context has {found}: use a model with a longer context, or shorter templates.",
    )


def _labels(encoder: JudgmentEncoder, chat: ChatEncoder) -> dict[str, str]:
    principle = next(iter(encoder.principles.values()))
    return {label: str(chat.tokenizer.decode([i])) for label, i in zip("AB", principle.label_ids, strict=True)}


def _config_facts(path: str | Path) -> dict[str, Any]:
    if str(path) == BUILTIN_WORLD:
        return {}
    config = pretrained(AutoConfig, resolve_model(path))
    context = context_of(config)
    return {"cache": cache_kind(config), "context_length": context.length, "context_source": context.source}
