"""A model as a judge of the pairs that a recipe holds out of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from selfjudge.data.judge_sets import as_comparison, draw
from selfjudge.data.load import PreparedData, prepare_data
from selfjudge.data.store import Stored
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import OVERALL, Comparison, PreferenceRecord, Verdict
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.processes import on_main, spread

MAX_PAIRS = 1000


@dataclass(frozen=True)
class Judged:
    """Labelled pairs, at least one, and the verdict on each."""

    comparisons: list[Comparison]
    verdicts: list[Verdict]


def judge_held_out(recipe: Recipe, model: str, prepare: Callable[[], PreparedData] | None = None) -> Judged | None:
    """Judges at most 1000 held-out pairs with a model; None where a recipe has none, or trains no judge. Of several
    processes each judges a share, and has all verdicts. ``prepare`` gives the data; by default they
    are read as the recipe says.

    Taken are pairs compared as a whole, judged under all principles; those that do not fit data.max_length are left
    out, as in training. They are the same for all models of one tokenizer and context.
    """
    if recipe.data.held_out == 0 or recipe.jsft.rows == "policy":
        return None
    loaded = load_model(model, chat_template=recipe.model.chat_template, seed=recipe.seed)
    engine = TransformersEngine(
        loaded.model, loaded.chat, token_budget=recipe.judge.token_budget, batch_size=recipe.judge.batch_size
    )
    judge = Judge(engine, JudgmentEncoder(load_templates(recipe.templates.set), loaded.chat))
    longest = min(recipe.data.max_length, engine.max_length - 1)
    prepare = prepare or partial(prepare_data, recipe.data, recipe.seed)
    comparisons = on_main(lambda: _fitting(prepare().held_out, judge, longest))
    return Judged(comparisons, spread(comparisons, lambda share, _: judge.judge(share))) if comparisons else None


def _fitting(records: Stored[PreferenceRecord], judge: Judge, longest: int) -> list[Comparison]:
    """Returns the first 1000 pairs, in the order of :func:`as_comparisons`, that have at most ``longest`` tokens."""
    whole = records.select(np.flatnonzero(records.equal("principle", OVERALL)))
    keys = [draw(record) for record in whole]
    order = sorted(range(len(whole)), key=keys.__getitem__)
    found: list[Comparison] = []
    for start in range(0, len(order), MAX_PAIRS):
        pairs = [as_comparison(whole[i]) for i in order[start : start + MAX_PAIRS]]
        found += [c for c, length in zip(pairs, judge.longest_prompts(pairs), strict=True) if length <= longest]
        if len(found) >= MAX_PAIRS:
            break
    return found[:MAX_PAIRS]


def as_comparisons(records: Sequence[PreferenceRecord]) -> list[Comparison]:
    """Returns labelled pairs, chosen first or second by a hash of the prompt and both texts, in an order so drawn."""
    return [as_comparison(record) for record in sorted(records, key=draw)]
