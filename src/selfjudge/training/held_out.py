"""A model as a judge of the pairs that a recipe holds out of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfjudge.data.judge_sets import as_comparison, draw
from selfjudge.data.load import prepare_data
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import OVERALL, Comparison, PreferenceRecord, Verdict
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.processes import spread

MAX_PAIRS = 1000


@dataclass(frozen=True)
class Judged:
    """Labelled pairs, at least one, and the verdict on each."""

    comparisons: list[Comparison]
    verdicts: list[Verdict]


def judge_held_out(recipe: Recipe, model: str) -> Judged | None:
    """Judges at most 1000 held-out pairs with a model; None where a recipe has none, or trains no judge. Of several
    processes each judges a share, and has all verdicts.

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
    records = [r for r in prepare_data(recipe.data, recipe.seed).held_out if r.principle == OVERALL]
    pairs = as_comparisons(records)
    lengths = judge.longest_prompts(pairs)
    comparisons = [c for c, length in zip(pairs, lengths, strict=True) if length <= longest][:MAX_PAIRS]
    return Judged(comparisons, spread(comparisons, lambda share, _: judge.judge(share))) if comparisons else None


def as_comparisons(records: Sequence[PreferenceRecord]) -> list[Comparison]:
    """Returns labelled pairs, chosen first or second by a hash of the prompt and both texts, in an order so drawn."""
    return [as_comparison(record) for record in sorted(records, key=draw)]
