"""The model card: what a finished run says of its model, in the Hub's format, as ``final/README.md``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from selfjudge.core.statistics import Estimate, Rate
from selfjudge.data.io import atomic_writer, read_jsonl
from selfjudge.data.load import source_key
from selfjudge.recipes.schema import Recipe
from selfjudge.training.public import is_hub_id, markdown_text, public_path, public_settings

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_JUDGED = ("train", "offline", "off-policy")
_WHAT = {
    "jsft": "Policy and judge in one model, by judge-augmented supervised fine-tuning (JSFT).",
    "train": "A policy trained on its own samples, labelled by its own frozen verdicts (SELF-JUDGE self-training).",
    "sft": "A policy by supervised fine-tuning on the chosen responses: a baseline.",
    "reward-model": "A Bradley-Terry reward model: a baseline.",
    "offline": "A policy trained on given pairs with the judge's labels: a baseline.",
    "off-policy": "A policy trained on the start model's samples with the judge's labels: a baseline.",
}
_PAPER = "arXiv:2402.11253"
_HELD_OUT = {
    "accuracy": "accuracy",
    "longer_wins": "… of “the longer wins” on the same pairs",
    "shorter_right": "accuracy where the shorter is right",
    "kappa": "Cohen's κ with the labels",
    "agreement": "both orders agree",
    "first_shown_rate": "prefers the response shown first",
    "longer_share": "prefers the longer",
}


def write_model_card(run: Path, info: dict[str, Any]) -> None:
    """Writes ``final/README.md`` of a run, in place of one that is there; nothing where the run has no model.

    Args:
        run: the run folder.
        info: its run.json; ``held_out`` and ``audit`` are shown where they are there.
    """
    if not (run / "final").is_dir():
        return
    recipe = Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))
    stage = str(info["stage"])
    settings = yaml.safe_dump(
        public_settings(recipe.model_dump(mode="json", exclude={"study"})), sort_keys=False, allow_unicode=True
    )
    name = f"{recipe.name}-{stage}"
    card = ModelCard.from_template(
        _metadata(name, stage, recipe, info),
        template_path=str(_TEMPLATE),
        name=markdown_text(name),
        what=f"{_WHAT.get(stage, f'A policy trained by {stage.upper()}: a baseline.')} Method: {_PAPER}.",
        version=info["versions"]["selfjudge"],
        stage=stage,
        judge=_judges(stage, recipe),
        self_judged=stage in _JUDGED,
        facts=[(key, markdown_text(value)) for key, value in _facts(recipe, info)],
        sources=list(_sources(recipe, info)),
        rows=_rows(info),
        dropped=_dropped(run),
        held_out=[(key, str(value)) for key, value in _held_out(info)],
        audit=_audit(info),
        recipe=settings.rstrip("\n"),
        # Longer than any row of backticks inside, so that nothing in the recipe can end the block.
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", settings)), default=0)),
    )
    with atomic_writer(run / "final" / "README.md", overwrite=True) as handle:
        handle.write(str(card).rstrip("\n") + "\n")


def _judges(stage: str, recipe: Recipe) -> bool:
    """Whether the model was trained to judge, or started from one that was."""
    return stage in ("jsft", *_JUDGED) and recipe.jsft.rows != "policy"


def _metadata(name: str, stage: str, recipe: Recipe, info: dict[str, Any]) -> ModelCardData:
    task = "text-classification" if stage == "reward-model" else "text-generation"
    found = info.get("held_out")
    result = found and EvalResult(
        task_type=task,
        dataset_type="preference",
        dataset_name="held-out pairs of the training sources",
        metric_type="accuracy",
        metric_name="pairwise accuracy",
        metric_value=round(found["accuracy"]["rate"], 4),
    )
    hub_data = [source.path for source in recipe.data.sources if is_hub_id(source.path)]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["selfjudge", stage, "preference-optimization", "arxiv:2402.11253"],
        base_model=recipe.model.path if is_hub_id(recipe.model.path) else None,
        datasets=hub_data or None,
        model_name=name,
        eval_results=[result] if result else None,
    )


def _facts(recipe: Recipe, info: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "base model", public_path(recipe.model.path)
    if "start" in info:
        yield "started from", public_path(info["start"])
    if "reward" in info:
        yield "reward model", public_path(info["reward"])
    yield "judgment templates", public_path(recipe.templates.set)
    if recipe.jsft.counterfactual:
        yield "counterfactual copies", "yes: names and genders exchanged, the same label"
    yield "seed", info["seed"]
    yield "optimisation steps", info.get("steps", "–")
    if info.get("stopped"):
        yield "stopped early", info["stopped"]
    yield "versions", ", ".join(f"{name} {version}" for name, version in info["versions"].items())


def _sources(recipe: Recipe, info: dict[str, Any]) -> Iterator[dict[str, object]]:
    for source in recipe.data.sources:
        key = source_key(source)
        yield {
            "name": markdown_text(" / ".join(filter(None, (public_path(source.path), source.subset)))),
            "records": info.get("records", {}).get(key, "–"),
            "use": ", ".join(source.use),
            "fingerprint": info.get("data", {}).get(key, "–"),
        }


def _rows(info: dict[str, Any]) -> str:
    counted = ", ".join(f"{number} {kind} rows" for kind, number in info.get("rows", {}).items())
    prompts = f"{info['prompts']} prompts" if "prompts" in info else ""
    trained = " and ".join(filter(None, (counted, prompts)))
    return f"Trained on {trained or 'what the sources gave'}. Left out: {info.get('dropped', 0)} rows."


def _dropped(run: Path) -> list[tuple[str, int]]:
    """Returns reason → number; several rounds leave out the same rows, and the first has the list."""
    files = [file for file in (run / "dropped.jsonl", run / "round-1" / "dropped.jsonl") if file.is_file()]
    reasons = Counter(row["reason"] for _, row in read_jsonl(files[0])) if files else Counter[str]()
    return [(markdown_text(reason), number) for reason, number in reasons.most_common()]


def _held_out(info: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Returns what was measured: by JSFT or a reward model at the end, or after the last round of self-training."""
    found = info.get("held_out")
    if found:
        yield "pairs", found["pairs"]
        for key, title in _HELD_OUT.items():
            if found.get(key) and found[key]["n"]:
                yield title, _figure(found[key])
    for number, outcome in enumerate(info.get("rounds", []), 1):
        if outcome["judge"]:
            yield f"accuracy after round {number}", _figure(outcome["judge"]["accuracy"])
            yield f"… as the judge before it (round {number})", _figure(outcome["judge"]["former_agreement"])


def _figure(value: dict[str, Any]) -> Rate | Estimate:
    return Rate.model_validate(value) if "rate" in value else Estimate.model_validate(value)


def _audit(info: dict[str, Any]) -> dict[str, Any] | None:
    found = info.get("audit")
    if found is None:
        return None
    turned = [(markdown_text(name), Rate.model_validate(rate)) for name, rate in found["turned"].items()]
    return {"pairs": found["pairs"], "input": markdown_text(public_path(found["input"])), "turned": turned}
