"""What the tests on a real vLLM share: the small model, taught for a moment to answer and to judge, and its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_model import recipe, rollout_distances, small_llama
from transformers import PreTrainedModel

from selfjudge.data.load import prepare_data
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model, load_tokenizer
from selfjudge.engines.save import save_model
from selfjudge.judge import Judge
from selfjudge.records import Comparison
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft import run_jsft
from selfjudge.training.rollout import Rollout, RolloutCollector
from selfjudge.world.model import build_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model after a few steps of JSFT, so that neither judgments nor next tokens are all alike."""
    start = tmp_path_factory.mktemp("start") / "model"
    save_model(small_llama(0), build_tokenizer(), start)
    return run_jsft(recipe(start, 40), tmp_path_factory.mktemp("jsft") / "run").model


@pytest.fixture(scope="session")
def model(folder: Path) -> PreTrainedModel:
    return load_model(folder, dtype="float32", device="cpu").model


@pytest.fixture(scope="session")
def chat(folder: Path) -> ChatEncoder:
    return load_tokenizer(folder)


@pytest.fixture
def true(model: PreTrainedModel, chat: ChatEncoder) -> TransformersEngine:
    return TransformersEngine(model, chat)


@pytest.fixture
def distances(chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float]]:
    """Gets the :func:`rollout_distances` of each rollout of a training."""
    collect = RolloutCollector.collect
    seen: list[tuple[float, float, float]] = []

    def watched(self: RolloutCollector, *args: Any) -> Rollout:
        rollout = collect(self, *args)
        seen.append(rollout_distances(self, rollout, chat))
        return rollout

    monkeypatch.setattr(RolloutCollector, "collect", watched)
    return seen


@pytest.fixture(scope="session")
def comparisons() -> list[Comparison]:
    data = prepare_data(recipe(Path("unused"), 1).data, seed=1)
    return [
        Comparison(id=r.id, prompt=r.prompt, response_a=r.chosen, response_b=r.rejected) for r in data.judgment[:48]
    ]


@pytest.fixture(scope="session")
def judgments(comparisons: list[Comparison], chat: ChatEncoder) -> list[JudgmentPrompt]:
    """Judgment prompts as the judge puts them, both orders of each pair; two are longer than a block of the cache."""
    judge = Judge(None, JudgmentEncoder(load_templates("world"), chat))  # type: ignore[arg-type]
    prompts = [q.prompt for asked in judge._questions(comparisons[:20]) for q in asked]
    long = [JudgmentPrompt(tuple([*p.token_ids] * 6)[-200:], p.label_ids) for p in prompts[:2]]
    return [*prompts, *long]


@pytest.fixture(scope="session")
def prompts(comparisons: list[Comparison], chat: ChatEncoder) -> list[list[int]]:
    return [chat.prompt_ids(c.prompt) for c in comparisons]
