"""What `selfjudge bench` times: a task is the same work done by us and by the published algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

from selfjudge.benchmarks.inputs import generated_candidates, generated_comparisons, generated_prompts, prompt_ids
from selfjudge.benchmarks.published import BATCH, PublishedJudge, published_tournament
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.decode import left_pad
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel
from selfjudge.errors import DataError
from selfjudge.judge import Judge
from selfjudge.records import Comparison
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.tournament import play

CANDIDATES = 16
NEW_TOKENS = 64
TASKS = ("judge", "tournament", "sample")


@dataclass(frozen=True)
class Task:
    """Work of ``amount`` ``unit``s. ``tokens``: what a plain computation of it reads; ``length``: of a mean sequence.

    ``new_tokens``: sampled tokens, for tasks that are bound by reading the weights.
    """

    unit: str
    amount: int
    ours: Callable[[], object]
    published: Callable[[], object]
    tokens: int
    length: int
    new_tokens: int = 0


def make_task(
    name: str, loaded: LoadedModel, size: int, templates: str, comparisons: list[Comparison] | None = None
) -> Task:
    """Returns the task ``name`` of ``size`` pairs or prompts.

    Args:
        name: one of :data:`TASKS`.
        loaded: the model to time.
        size: pairs, or prompts.
        templates: the template set; it must have one principle.
        comparisons: pairs to judge in place of generated ones.

    Raises:
        DataError: for an unknown name.
    """
    engine = TransformersEngine(loaded.model, loaded.chat)
    encoder = JudgmentEncoder(load_templates(templates), loaded.chat)
    judge = Judge(engine, encoder)
    published = PublishedJudge(engine.model, encoder, loaded.chat)
    if name == "judge":
        pairs = (comparisons or generated_comparisons(size))[:size]
        lengths = [len(q.prompt.token_ids) for q in judge.questions(pairs)]
        return Task(
            "pairs",
            len(pairs),
            lambda: judge.judge(pairs),
            lambda: published.probabilities(pairs),
            sum(lengths),
            sum(lengths) // len(lengths),
        )
    if name == "tournament":
        return _tournament(judge, published, size)
    if name == "sample":
        return _sample(engine, size)
    raise DataError(f"There is no benchmark {name!r}: use one of {', '.join(TASKS)}.")


def _tournament(judge: Judge, published: PublishedJudge, size: int, n: int = CANDIDATES) -> Task:
    prompts, candidates = generated_prompts(size), generated_candidates(size, n)
    first = [
        Comparison(id=str(i), prompt=prompt, response_a=texts[0], response_b=texts[1])
        for i, (prompt, texts) in enumerate(zip(prompts, candidates, strict=True))
    ]
    lengths = [len(q.prompt.token_ids) for q in judge.questions(first)]
    length = sum(lengths) // len(lengths)
    return Task(
        "prompts",
        size,
        lambda: play(judge, prompts, candidates),
        lambda: published_tournament(published, prompts, candidates, 0),
        2 * (n - 1) * size * length,
        length,
    )


def _sample(engine: TransformersEngine, size: int) -> Task:
    prompts = prompt_ids(engine.chat, size)
    params = SamplingParams(n=2, max_new_tokens=NEW_TOKENS, top_p=0.9)
    tokens = sum(map(len, prompts))
    return Task(
        "tokens",
        2 * size * NEW_TOKENS,
        lambda: engine.sample(prompts, params),
        lambda: _published_sample(engine.model, prompts),
        tokens,
        tokens // size,
        new_tokens=NEW_TOKENS,
    )


@torch.no_grad()
def _published_sample(model: PreTrainedModel, prompts: list[tuple[int, ...]]) -> None:
    """Samples with `generate` in batches of eight prompts; the random weights hardly ever draw an end."""
    pad = model.config.pad_token_id
    config = GenerationConfig(
        do_sample=True, top_p=0.9, top_k=0, num_return_sequences=2, max_new_tokens=NEW_TOKENS, pad_token_id=pad
    )
    for i in range(0, len(prompts), BATCH):
        ids, mask = (t.to(model.device) for t in left_pad(prompts[i : i + BATCH], pad))
        model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
