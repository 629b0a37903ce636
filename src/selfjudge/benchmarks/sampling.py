"""Sampling, against `generate` in batches of eight prompts."""

from __future__ import annotations

import copy

import torch
from transformers import GenerationConfig, PreTrainedModel

from selfjudge.benchmarks.inputs import prompt_ids
from selfjudge.benchmarks.published import BATCH
from selfjudge.benchmarks.task import Settings, Task
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel
from selfjudge.engines.stepwise import left_pad
from selfjudge.errors import DataError
from selfjudge.templates.chat import ChatEncoder


def endless(loaded: LoadedModel) -> ChatEncoder:
    """Returns the model's encoder with a stop token that is never drawn: every sample has its full length."""
    chat = copy.copy(loaded.chat)
    chat.stop_ids = (loaded.model.config.get_text_config().vocab_size,)
    return chat


def check_fits(loaded: LoadedModel, tokens: int) -> None:
    """Raises DataError where the longest text, of ``tokens`` tokens, is more than the model takes."""
    if tokens > loaded.context:
        raise DataError(
            f"This benchmark's longest text has {tokens} tokens, the model takes {loaded.context}: "
            "use a model with a longer context, or fewer --new-tokens."
        )


def sample_task(loaded: LoadedModel, settings: Settings) -> Task:
    """Returns the sampling of two responses of full length for each prompt."""
    engine = TransformersEngine(loaded.model, endless(loaded))
    prompts = prompt_ids(engine.chat, settings.size)
    check_fits(loaded, max(map(len, prompts)) + settings.new_tokens)
    params = SamplingParams(n=2, max_new_tokens=settings.new_tokens, top_p=0.9)
    tokens = sum(map(len, prompts))
    return Task(
        loaded.model,
        "tokens",
        2 * settings.size * settings.new_tokens,
        lambda: engine.sample(prompts, params),
        lambda: _published(engine.model, engine.chat.tokenizer.pad_token_id, prompts, settings.new_tokens),
        tokens,
        tokens // settings.size,
        settings.new_tokens,
    )


@torch.no_grad()
def _published(model: PreTrainedModel, pad_id: int, prompts: list[tuple[int, ...]], new_tokens: int) -> None:
    config = GenerationConfig(
        do_sample=True,
        top_p=0.9,
        top_k=0,
        num_return_sequences=2,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        pad_token_id=pad_id,
    )
    for i in range(0, len(prompts), BATCH):
        ids, mask = (t.to(model.device) for t in left_pad(prompts[i : i + BATCH], pad_id))
        model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
