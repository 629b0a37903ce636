"""What the pages of the documentation take as there: trained models and data, all of the small world."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from doc_shell import selfjudge
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from selfjudge.world.model import build_tokenizer
from selfjudge.world.people import preference_records

RUNS = ("NAME", "mine", "smollm2-mixed")
"""Names under which pages speak of a trained model: ``runs/NAME/jsft`` and ``runs/NAME/train``."""

FEW_STEPS = (
    "--set", "data.sources.0.limit=600",
    "--set", "jsft.training.max_steps=60",  # enough for it to end its answers
    "--set", "jsft.training.per_device_train_batch_size=16",
    "--set", "jsft.training.lr_scheduler_type=constant",
    "--set", "jsft.training.learning_rate=0.01",
    "--set", "self_training.training.max_steps=2",
    "--set", "self_training.training.per_device_train_batch_size=4",
    "--set", "self_training.rollout.max_new_tokens=8",
)  # fmt: skip


def train(folder: Path) -> Path:
    """Trains both stages for a few steps in ``folder``, and puts a reward model of random weights beside them."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=4096, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, num_labels=1,
    )  # fmt: skip
    for kind, name in ((LlamaForCausalLM, "base"), (LlamaForSequenceClassification, "reward-model")):
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    base, start = f"model.path={folder / 'base'}", f"self_training.start={folder / 'jsft'}"
    for stage, changes in (("jsft", (base,)), ("train", (base, start, "self_training.lora.r=4"))):
        sets = [word for change in changes for word in ("--set", change)]
        selfjudge([stage, "--recipe", "demo", "--output-dir", str(folder / stage), *FEW_STEPS, *sets])
    return folder


def furnish(folder: Path, trained: Path) -> Path:
    """Puts the trained models and small files of data into a page's folder, under the names that pages use."""
    for name in RUNS:
        (folder / "runs" / name).mkdir(parents=True)
        for stage in ("jsft", "train", "reward-model"):
            (folder / "runs" / name / stage).symlink_to(trained / stage)
    records = preference_records(8, seed=7)
    prompts = [record.prompt[0].content for record in records]
    pairs = [{"prompt": p, "response_a": r.chosen, "response_b": r.rejected, "label": "A"}
             for p, r in zip(prompts, records, strict=True)]  # fmt: skip
    write(folder / "pairs.jsonl", pairs)
    write(folder / "labelled.jsonl", pairs)
    write(folder / "votes.jsonl", (r.model_dump() for r in records))
    write(folder / "prompts.jsonl", ({"prompt": p} for p in prompts[:3]))
    return folder


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
