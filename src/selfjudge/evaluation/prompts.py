"""The prompts that systems are compared on: of a file, or fresh ones of the small world."""

from __future__ import annotations

from selfjudge.data.eval_prompts import EvalPrompt, load_eval_prompts
from selfjudge.data.identity import prompt_key
from selfjudge.judge import as_messages
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.world.grammar import Split, parse, task_of
from selfjudge.world.people import prompts

WORLD_PROMPTS = 200


def fresh_or_read(source: str, limit: int | None, seed: int, split: Split = "results") -> tuple[EvalPrompt, ...]:
    """Returns the prompts of a file, or of the small world those of a split, drawn by ``seed``, 200 unless told.

    Raises:
        DataError: as :func:`load_eval_prompts`.
    """
    if source != BUILTIN_WORLD:
        return load_eval_prompts(source, limit)
    texts = prompts(limit or WORLD_PROMPTS, seed, split)
    return tuple(EvalPrompt(str(i), as_messages(text)) for i, text in enumerate(texts))


def task_of_prompt(source: str, prompt: EvalPrompt) -> str:
    """Returns what a prompt shares with others: its task in the small world; a prompt of a file its text alone."""
    if source == BUILTIN_WORLD:
        return task_of(parse(prompt.prompt[-1].content))
    return prompt_key(prompt.prompt).hex()
