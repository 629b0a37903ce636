"""The batches that a recipe makes: from its data where they are at hand and cheap to read, else assumed and said so."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from selfjudge.data.collate import pack
from selfjudge.data.load import WORLD_PAIRS, prepare_data
from selfjudge.engines.load import load_tokenizer
from selfjudge.errors import ModelError, RowError
from selfjudge.recipes.schema import Recipe, SourceSection
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft import jsft_rows
from selfjudge.training.plan.memory import Batch

READ_PAIRS = 1000
"""Pairs that are encoded; more would change little."""
READ_BYTES = 2**26
"""Local files up to this size are read."""
ASSUMED_TOKENS = 512
"""Mean tokens of a row where the data are not read."""
ASSUMED_TEMPLATE = 100
"""Tokens of a judgment template without its pair, where there is no tokenizer to count them."""

Example = tuple[tuple[bool, ...], ...]
"""Of each row of a JSFT example, which tokens are targets."""


@dataclass(frozen=True)
class Data:
    """What is known of a recipe's data.

    ``examples``: JSFT examples that were read, none where the data are not at hand. ``scale``: of all examples over
    those. ``records``: preference pairs of all sources by use, None where that is not known. ``prompts``: tokens of the
    self-training prompts that were read. ``template``: tokens of a judgment prompt without its pair. ``principles``: of
    the template set. ``tokens``: of a mean row.
    """

    examples: tuple[Example, ...]
    scale: float
    records: dict[str, int] | None
    prompts: tuple[int, ...]
    template: int
    principles: int
    tokens: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class JsftLoad:
    """A stage's largest micro-batch, and per example the mean rows, padded tokens and targets."""

    worst: Batch
    examples: int | None
    rows: float
    tokens: float
    targets: float


def read_data(recipe: Recipe, context: int, tokens: int | None, records: int | None) -> Data:
    """Returns the data of a recipe: read if all sources and the tokenizer are local and small, else assumed.

    ``tokens``: mean of a row, ``records``: pairs of a source without limit, for sources that are not read.

    Raises:
        SelfJudgeError: if the templates, or data that are at hand, cannot be read.
    """
    chat = _tokenizer_at_hand(recipe)
    if chat is not None:
        return _read(recipe, chat, context)
    longest = min(recipe.data.max_length, context)
    tokens = min(tokens or ASSUMED_TOKENS, longest)
    counts = _counts(recipe.data.sources, records)
    limits = "" if counts is None else f", {counts['policy']} policy and {counts['judgment']} judgment pairs"
    notes = [f"The sources were not read. Assumed: {tokens} tokens a row on average (--tokens){limits}."]
    if counts is None:
        notes.append("How many pairs the sources have is not known: give --records for totals.")
    templates = load_templates(recipe.templates.set)
    return Data((), 1.0, counts, (), ASSUMED_TEMPLATE, len(templates.templates), tokens, tuple(notes))


def _tokenizer_at_hand(recipe: Recipe) -> ChatEncoder | None:
    """The tokenizer, if it and all sources are here and cheap to read; a model's folder may hold a config alone."""
    paths = [source.path for source in recipe.data.sources]
    small = all(p == BUILTIN_WORLD or (Path(p).is_file() and Path(p).stat().st_size <= READ_BYTES) for p in paths)
    if not small or not (recipe.model.path == BUILTIN_WORLD or Path(recipe.model.path).is_dir()):
        return None
    try:
        return load_tokenizer(recipe.model.path, recipe.model.chat_template, thinking=recipe.model.thinking)
    except ModelError:
        return None


def _read(recipe: Recipe, chat: ChatEncoder, context: int) -> Data:
    encoder = JudgmentEncoder(load_templates(recipe.templates.set), chat)
    data = prepare_data(recipe.data, recipe.seed)
    # Reading the pairs is quick, encoding them is not: every so many of them will do.
    every = math.ceil(max(len(data.policy), len(data.judgment), len(data.prompts)) / READ_PAIRS)
    made_from = [data.made_from, every]
    read = replace(data, policy=data.policy[::every], judgment=data.judgment[::every], made_from=made_from)
    rows, _ = jsft_rows(recipe, read, chat, encoder, context)
    found = list(rows.examples)
    full = max(len(data.policy), len(data.judgment))
    return Data(
        examples=tuple(tuple(row.is_target for row in example) for example in found),
        scale=every,
        records={"prompts": len(data.prompts)},
        prompts=tuple(filter(None, (_length(chat, prompt) for prompt in data.prompts[::every]))),
        template=_template_tokens(encoder, chat, data),
        principles=len(encoder.principles),
        tokens=round(fmean(len(row.ids) for example in found for row in example)),
        notes=(f"Rows of {math.ceil(full / every)} of {full} pairs of the sources were counted.",),
    )


def _length(chat: ChatEncoder, prompt: Sequence[Message]) -> int:
    """The tokens of a prompt, or 0 where the chat template refuses it."""
    try:
        return len(chat.prompt_ids(prompt))
    except RowError:
        return 0


def _template_tokens(encoder: JudgmentEncoder, chat: ChatEncoder, data: Any) -> int:
    """Tokens of the longest principle's prompt beside the pair's own."""
    record = data.judgment[0] if data.judgment else data.policy[0]
    own = _length(chat, record.prompt)
    longest = max(
        len(principle.prompt(record.prompt, record.chosen, record.rejected).token_ids)
        for principle in encoder.principles.values()
    )
    answers = len(chat.text_ids(record.chosen)) + len(chat.text_ids(record.rejected))
    return max(0, longest - own - answers)


def _counts(sources: Sequence[SourceSection], records: int | None) -> dict[str, int] | None:
    sizes = [source.limit or (WORLD_PAIRS if source.path == BUILTIN_WORLD else records) for source in sources]
    if any(size is None for size in sizes):
        return None
    return {
        use: sum(size or 0 for source, size in zip(sources, sizes, strict=True) if use in source.use)
        for use in ("policy", "judgment", "prompts")
    }


def jsft_load(recipe: Recipe, data: Data, context: int, batch_size: int) -> JsftLoad:
    """Returns the JSFT batches of ``batch_size`` examples: drawn from the examples where there are any.

    Otherwise the largest is full of pairs (two rows each, unless the recipe trains the policy alone) of
    data.max_length tokens, all but the first of them targets.
    """
    longest = min(recipe.data.max_length, context)
    fitting = [example for example in data.examples if max(map(len, example)) <= longest]
    if fitting:
        return _drawn(fitting, data.scale, recipe.seed, batch_size, packing=recipe.jsft.packing)
    kinds = {"both": ("policy", "judgment"), "policy": ("policy",), "judgment": ("judgment",)}[recipe.jsft.rows]
    rows = batch_size * (2 if "judgment" in kinds else 1)
    labels_only = kinds == ("judgment",) and not recipe.templates.rationale
    worst = Batch(rows, longest, rows if labels_only else rows * (longest - 1), recipe.jsft.packing)
    count, rows_each = None, 1.5
    if data.records is not None:
        count = sum(data.records[kind] for kind in kinds)
        rows_each = 1 + ("judgment" in kinds) * data.records["judgment"] / max(1, count)
    elif len(kinds) == 1:
        rows_each = 2.0 if kinds == ("judgment",) else 1.0
    tokens = rows_each * min(data.tokens, longest)
    return JsftLoad(worst, count, rows_each, tokens, tokens)


def _drawn(fitting: Sequence[Example], scale: float, seed: int, batch_size: int, *, packing: bool) -> JsftLoad:
    shuffled = random.Random(seed).sample(fitting, len(fitting))
    batches = [_batch(shuffled[i : i + batch_size], packing=packing) for i in range(0, len(shuffled), batch_size)]
    n = len(shuffled)
    return JsftLoad(
        worst=max(batches, key=lambda b: b.tokens),
        examples=round(n * scale),
        rows=sum(b.rows for b in batches) / n,
        tokens=sum(b.tokens for b in batches) / n,
        targets=sum(b.targets for b in batches) / n,
    )


def _batch(group: Sequence[Example], *, packing: bool) -> Batch:
    rows = [row for example in group for row in example]
    lengths = [len(row) for row in rows]
    sequences = len(pack(lengths)) if packing else len(rows)
    return Batch(sequences, max(lengths), sum(sum(row[1:]) for row in rows), masked=packing)


def prompt_tokens(recipe: Recipe, data: Data, context: int) -> tuple[int, float]:
    """Returns the tokens of the longest self-training prompt and of the mean one."""
    longest = max(1, min(recipe.data.max_length, context) - recipe.self_training.rollout.max_new_tokens)
    fitting = [n for n in data.prompts if n <= longest]
    if fitting:
        return max(fitting), fmean(fitting)
    return longest, float(min(longest, max(1, data.tokens // 2)))
