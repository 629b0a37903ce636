"""What a broken or hostile model server answers ends in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from served_model import ServedModel
from transformers import LlamaForCausalLM

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt

PROMPT = JudgmentPrompt(token_ids=(5, 6), label_ids=(7, 8))


@pytest.fixture
def asked(
    world_chat: ChatEncoder, tiny_llama: Callable[..., LlamaForCausalLM]
) -> Iterator[Callable[[dict[str, Any]], OpenAIEngine]]:
    """An engine whose server answers with the given choice, once."""

    def make(choice: dict[str, Any]) -> OpenAIEngine:
        answer = {"id": "1", "object": "text_completion", "created": 0, "model": "tiny", "choices": [choice]}
        served = ServedModel(tiny_llama(world_chat.tokenizer), world_chat, failures=[(200, answer)])
        running = served.running()
        started.append(running)
        return OpenAIEngine(running.__enter__().url, world_chat, max_retries=0)

    started: list[Any] = []
    yield make
    for running in started:
        running.__exit__(None, None, None)


def labels(a: object, b: object) -> dict[str, Any]:
    return {"index": 0, "text": "", "finish_reason": "length",
            "logprobs": {"top_logprobs": [{"token_id:7": a, "token_id:8": b}]}}  # fmt: skip


@pytest.mark.parametrize("a", [5.0, 1e308, math.nan, "x", [1], None])
def test_log_probabilities_that_are_none(asked: Callable[[dict[str, Any]], OpenAIEngine], a: object) -> None:
    with pytest.raises(EngineError, match=r"that are none|is no completion"):
        asked(labels(a, -1.0)).label_probabilities([PROMPT])


def test_a_probability_rounded_above_one_is_one(asked: Callable[[dict[str, Any]], OpenAIEngine]) -> None:
    p = asked(labels(1e-4, -20.0)).label_probabilities([PROMPT])
    assert p[0, 0] == 1.0
    assert p[0, 1] == pytest.approx(math.exp(-20.0))


@pytest.mark.parametrize(
    "fields",
    [
        {"token_ids": ["x"]},
        {"token_ids": 5},
        {"token_ids": [-1]},
        {"logprobs": 3},
        {"logprobs": {"tokens": 3}},
        {"text": None},
    ],
)
def test_completions_that_are_none(asked: Callable[[dict[str, Any]], OpenAIEngine], fields: dict[str, Any]) -> None:
    choice = {"index": 0, "text": "a", "finish_reason": "stop", "logprobs": None, **fields}
    with pytest.raises(EngineError, match="is no completion"):
        asked(choice).sample([[5]], SamplingParams(max_new_tokens=1))


def test_a_completion_without_a_text(asked: Callable[[dict[str, Any]], OpenAIEngine]) -> None:
    with pytest.raises(EngineError, match="is no completion"):
        asked({"index": 0, "finish_reason": "stop", "logprobs": None}).sample([[5]], SamplingParams(max_new_tokens=1))
