"""Waiting for a server that is gone for a while."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from served_model import ServedModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from selfjudge.engines import openai_connection
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError
from selfjudge.templates.chat import ChatEncoder

ONE = SamplingParams(n=1, max_new_tokens=2)


@pytest.fixture
def served(
    world_chat: ChatEncoder,
    world_tokenizer: PreTrainedTokenizerBase,
    tiny_llama: Callable[..., LlamaForCausalLM],
    monkeypatch: pytest.MonkeyPatch,
) -> ServedModel:
    monkeypatch.setattr(openai_connection, "_FIRST_PAUSE", 0.01)
    return ServedModel(tiny_llama(world_tokenizer), world_chat)


def ask(served: ServedModel, status: int, failures: int, patience: float) -> int:
    """Asks a server that fails so often; returns the requests it got."""
    with served.running():
        engine = OpenAIEngine(served.url, served.chat, max_retries=0, patience=patience)
        served.failures.extend([(status, {"error": {"message": "no"}})] * failures)
        engine.sample([[5, 6]], ONE)
        return len(served.requests)


@pytest.mark.parametrize("status", [500, 503])
def test_a_passing_error_is_waited_for(served: ServedModel, status: int) -> None:
    assert ask(served, status, 5, patience=60) == 6


@pytest.mark.parametrize(("status", "patience"), [(503, 0.0), (400, 60), (404, 60)])
def test_others_are_not(served: ServedModel, status: int, patience: float) -> None:
    with pytest.raises(EngineError, match=f"refused prompt 0 .* with {status}"):
        ask(served, status, 1, patience)
    assert len(served.requests) == 1


def test_patience_ends(served: ServedModel) -> None:
    with pytest.raises(EngineError, match="with 503"):
        ask(served, 503, 1000, patience=0.5)
    # Pauses of 0.01, 0.02, ... 0.16 s are 0.31 s; the next, of 0.32 s, would be too much.
    assert 2 <= len(served.requests) <= 6
