"""The judge of a finished JSFT run on the pairs that were held out of its training."""

from __future__ import annotations

from selfjudge.evaluation.judging import JudgeSummary, summarise
from selfjudge.recipes.schema import Recipe
from selfjudge.training.held_out import judge_held_out
from selfjudge.training.model_card import write_model_card
from selfjudge.training.run_folder import RunFolder


def measure_held_out(recipe: Recipe, run: RunFolder) -> JudgeSummary | None:
    """Judges held-out pairs (:func:`selfjudge.training.held_out.judge_held_out`), writes the summary into run.json and
    the model card, and returns it; None without any.
    """
    judged = judge_held_out(recipe, str(run.model))
    if judged is None:
        return None
    summary = summarise(judged.comparisons, judged.verdicts)
    run.update(held_out=summary.model_dump())
    write_model_card(run.path, run.info)
    return summary
