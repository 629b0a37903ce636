"""The small world's base model: a short pretraining on unlabelled text, as every model has had before JSFT."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from transformers import TrainingArguments, set_seed

from selfjudge.data.collate import JsftCollator
from selfjudge.data.rows import Row, judgment_rows, policy_rows
from selfjudge.engines.load import load_model
from selfjudge.engines.save import save_model
from selfjudge.judge import as_messages
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.records import PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.progress import use_progress_bar
from selfjudge.world.people import Unlabelled, unlabelled

STEPS = 600
BATCH = 48
LEARNING_RATE = 2e-3


def pretrain_world_model(folder: Path, seed: int) -> Path:
    """Trains the small world's model on plain next-token prediction, saves it into ``folder`` and returns that.

    The text is the world's train prompts with people's responses, one or two to a prompt. What people prefer is not in
    it: the responses are as people wrote them, good or bad, and nobody has compared them.
    """
    loaded = load_model(BUILTIN_WORLD, seed=seed, device="cpu")
    encoder = JudgmentEncoder(load_templates("world"), loaded.chat)
    rows = unlabelled_rows(unlabelled(STEPS * BATCH // 3, seed), loaded.chat, encoder)
    set_seed(seed)
    args = TrainingArguments(
        output_dir=str(folder.with_name(folder.name + ".trainer")),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=0.1,
        adam_beta2=0.99,
        seed=seed,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = JsftTrainer(
        loaded.model,
        args,
        train_dataset=[{"rows": (row,), "input_ids": row.ids} for row in rows],
        data_collator=JsftCollator(int(loaded.chat.tokenizer.pad_token_id)),
    )
    use_progress_bar(trainer)
    trainer.train()
    save_model(loaded.model, loaded.chat.tokenizer, folder)
    return folder


def unlabelled_rows(texts: Iterable[Unlabelled], chat: ChatEncoder, encoder: JudgmentEncoder) -> list[Row]:
    """Returns text as rows in which every token is a target: an answer, and a pair in both orders without a label."""
    rows: list[Row] = []
    for i, text in enumerate(texts):
        # A record's sides have names; the rows made of it here do not say which is which.
        first, second = text.pair
        pair = PreferenceRecord(id=f"text-{i}", prompt=as_messages(text.prompt), chosen=first, rejected=second)
        for row in (*policy_rows(pair.model_copy(update={"chosen": text.answer}), chat), *judgment_rows(pair, encoder)):
            ids = row.ids[:-1] if row.kind == "judgment" else row.ids
            rows.append(replace(row, kind="policy", ids=ids, is_target=(True,) * len(ids), pair=None))
    return rows
