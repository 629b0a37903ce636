"""Every family goes the whole road: JSFT, self-training with LoRA, judging. `make test-models` runs this.

With ``SELFJUDGE_MODELS_OUT`` the findings are written there, as docs/results/models.json has them. The vLLM column is
looked up by the Python that ``SELFJUDGE_VLLM_PYTHON`` names.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, tiny_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfjudge.data.io import read_jsonl
from selfjudge.engines.cache_kind import cache_kind
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.judging_way import judging_way
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.engines.static_decode import can_be_static
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt
from selfjudge.training.jsft import run_jsft
from selfjudge.training.self_training import run_self_training

_WAYS = {True: "yes", False: "yes, without a cache"}
_ARCHITECTURES = "from vllm import ModelRegistry; print(*ModelRegistry.get_supported_archs())"


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, dict[str, Any]]]:
    rows: dict[str, dict[str, Any]] = {}
    yield rows
    out = os.environ.get("SELFJUDGE_MODELS_OUT")
    if out and rows.keys() == FAMILIES.keys():
        Path(out).write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n")


@pytest.fixture(scope="module")
def vllm_architectures() -> set[str] | None:
    python = os.environ.get("SELFJUDGE_VLLM_PYTHON")
    if not python or not Path(python).is_file():
        return None
    done = subprocess.run([python, "-c", _ARCHITECTURES], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


def judges_alike(model: PreTrainedModel, chat: ChatEncoder) -> bool:
    """Whether the verdict of a prompt alone is that of the prompt in a batch, and that of a plain forward."""
    engine = TransformersEngine(model, chat)
    prompts = [JudgmentPrompt(tuple(range(3, 3 + n)), (5, 6)) for n in (9, 30, 31, 17)]
    together = engine.label_probabilities(prompts)
    for prompt, p in zip(prompts, together, strict=True):
        (alone,) = engine.label_probabilities([prompt])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt.token_ids]), use_cache=False).logits[0, -1]
        plain = logits.float().softmax(-1)[[5, 6]].tolist()
        if not (alone == pytest.approx(p, abs=1e-4) and plain == pytest.approx(list(p), abs=1e-4)):
            return False
    return True


def trained(folder: Path, recipe: Callable[..., Recipe], out: Path) -> None:
    """Goes through JSFT and self-training with an adapter, a step each."""
    made = recipe(
        8,
        jsft={"training": {"max_steps": 1, "per_device_train_batch_size": 4}},
        self_training={
            "start": str(out / "jsft"),
            "rollout": {"max_new_tokens": 4},
            "training": {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3},
        },
    )
    made.model.path = str(folder)
    run_jsft(made, out / "jsft")
    run = run_self_training(made, out / "train")
    rows = [row for _, row in read_jsonl(run.path / "metrics.jsonl") if "kl" in row]
    assert rows[0]["kl"] == 0  # before the first step policy and reference are one
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert (run.path / "final" / "config.json").is_file()


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_road(
    name: str,
    found: dict[str, dict[str, Any]],
    vllm_architectures: set[str] | None,
    world_tokenizer: PreTrainedTokenizerFast,
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    ids = {key: getattr(world_tokenizer, key) for key in ("pad_token_id", "eos_token_id")}
    if name == "gemma4_text":  # its layers have embeddings of their own
        ids["vocab_size_per_layer_input"] = len(world_tokenizer)
    model = tiny_model(name, len(world_tokenizer), bos_token_id=None, **ids)
    model.save_pretrained(tmp_path / "model")
    world_tokenizer.save_pretrained(tmp_path / "model")
    architecture = type(model).__name__
    trained(tmp_path / "model", tiny_recipe, tmp_path)
    found[name] = {
        "architecture": architecture,
        "cache": cache_kind(model.config),
        "policy": _WAYS[sampling_way(model).cached],
        "judge": judges_alike(model, ChatEncoder(world_tokenizer)),
        "prefix_sharing": judging_way(model).shares,
        "recorded_sampling": can_be_static(model),
        "vllm": None if vllm_architectures is None else architecture in vllm_architectures,
    }
    assert found[name]["judge"]
