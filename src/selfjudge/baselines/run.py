"""One baseline, from a recipe to a finished run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import huggingface_hub.constants
from transformers import TrainerCallback

from selfjudge.errors import MissingExtraError, RunError
from selfjudge.recipes.comparison import Baseline
from selfjudge.recipes.schema import Recipe
from selfjudge.training.run_folder import RunFolder

METHODS: tuple[Baseline, ...] = get_args(Baseline)
WATCHED: tuple[Baseline, ...] = ("offline", "off-policy", "dpo", "rlhf")


def run_baseline(
    method: Baseline,
    recipe: Recipe,
    output_dir: str | Path,
    *,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> RunFolder:
    """Trains one baseline; the result is in ``final/`` of its run folder.

    ``callbacks`` go to the Trainer of the methods in ``WATCHED``, which train one policy from beginning to end.

    Raises:
        MissingExtraError: if the method needs TRL and it is not installed.
        SelfJudgeError: for an unknown method, bad settings, data, models or folders; nothing is written in that case.
    """
    if method not in METHODS:
        raise RunError(f"There is no baseline {method!r}: use one of {', '.join(METHODS)}.")
    if method in ("offline", "off-policy"):
        # The judge's own: trained by our trainer, without TRL.
        from selfjudge.baselines.replay import Offline, OffPolicy
        from selfjudge.training.self_training import run_self_training

        source = Offline() if method == "offline" else OffPolicy()
        return run_self_training(recipe, output_dir, resume=resume, callbacks=callbacks, source=source)
    if find_spec("trl") is None:
        raise MissingExtraError(f"The baseline {method}", "baselines")
    _no_telemetry()
    from selfjudge.baselines import dpo, reward_model, rlhf, rounds, rso, sft

    runs: dict[Baseline, Callable[..., RunFolder]] = {
        "sft": sft.run_sft,
        "dpo": dpo.run_dpo,
        "reward-model": reward_model.run_reward_model,
        "rlhf": rlhf.run_rlhf,
        "rso": rso.run_rso,
        "raft": rounds.run_raft,
        "rest": rounds.run_rest,
    }
    watched = {"callbacks": callbacks} if method in WATCHED else {}
    return runs[method](recipe, output_dir, resume=resume, **watched)


def _no_telemetry() -> None:
    """TRL reports each trainer to the Hub; huggingface_hub has read its environment long before we get here."""
    if "HF_HUB_DISABLE_TELEMETRY" not in os.environ:
        huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
