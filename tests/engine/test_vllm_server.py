"""The engine of a served model against vLLM's own OpenAI server, held to transformers in float32."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from small_model import add_adapter, assert_same_greedy, distance, logprobs, own_logprobs
from vllm_server import free_port, running

if not (importlib.util.find_spec("vllm") and importlib.util.find_spec("openai")):
    pytest.skip("vLLM or openai is not installed: `make test-vllm` does and runs these", allow_module_level=True)

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError
from selfjudge.judge import Judge
from selfjudge.records import Comparison
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates

pytestmark = pytest.mark.timeout(600)
# What a server takes for its defaults; the engine has to switch all of it off.
WARPERS = {"do_sample": True, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "repetition_penalty": 1.8}


@dataclass(frozen=True)
class Served:
    """A running server: its URL, and the adapter it serves as ``policy`` on the base it serves as ``base``."""

    url: str
    adapted: PeftModel


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    work = tmp_path_factory.mktemp("served")
    shutil.copytree(folder, work / "model")
    (work / "model" / "generation_config.json").write_text(json.dumps(WARPERS))
    adapted = add_adapter(load_model(folder, dtype="float32", device="cpu").model, 1, work / "adapter")
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(work / "model"), "--served-model-name", "base", "--dtype", "float32", "--enforce-eager"]
    command += ["--gpu-memory-utilization", "0.1"]
    command += ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"policy={work / 'adapter'}"]
    with running(command, port, work / "log") as (url, _):
        yield Served(url, adapted)


@pytest.fixture(params=["base", "policy"])
def engines(
    request: pytest.FixtureRequest, served: Served, chat: ChatEncoder
) -> tuple[OpenAIEngine, TransformersEngine]:
    """The served engine of each of the two models, and that of transformers."""
    name = request.param
    return (
        OpenAIEngine(served.url, chat, model=name),
        TransformersEngine(served.adapted, chat, adapter=name == "policy"),
    )


def test_the_server_says_its_models_and_their_length(served: Served, chat: ChatEncoder) -> None:
    assert OpenAIEngine(served.url, chat).model == "base"
    assert OpenAIEngine(served.url, chat).max_length == 256
    assert OpenAIEngine(served.url, chat, model="policy").max_length == 256
    with pytest.raises(EngineError, match="name one of 'base', 'policy'"):
        OpenAIEngine(served.url, chat, model="other")


def test_label_probabilities(
    engines: tuple[OpenAIEngine, TransformersEngine], served: Served, chat: ChatEncoder, judgments: list[JudgmentPrompt]
) -> None:
    engine, true = engines
    found, expected = engine.label_probabilities(judgments), true.label_probabilities(judgments)
    assert (expected.sum(1) > 0.1).sum() >= 20  # there is something to compare
    assert expected[:, 0].std() > 0.01
    assert distance(found, expected) < 1e-2
    other = TransformersEngine(served.adapted, chat, adapter=engine.model != "policy")
    assert distance(found, other.label_probabilities(judgments)) > 0.05  # the two models are told apart
    # A label that is not the most probable token is given all the same.
    few = OpenAIEngine(served.url, chat, model=engine.model, top_logprobs=1)
    assert distance(few.label_probabilities(judgments), expected) < 1e-2


def test_verdicts(
    engines: tuple[OpenAIEngine, TransformersEngine], comparisons: list[Comparison], chat: ChatEncoder
) -> None:
    encoder = JudgmentEncoder(load_templates("world"), chat)
    found, expected = (Judge(engine, encoder).judge(comparisons) for engine in engines)
    assert len({v.preferred for v in expected}) > 1
    assert [v.preferred for v in found] == [v.preferred for v in expected]
    assert [v.strength for v in found] == pytest.approx([v.strength for v in expected], abs=1e-2)


def test_greedy_samples(engines: tuple[OpenAIEngine, TransformersEngine], prompts: list[list[int]]) -> None:
    params = SamplingParams(temperature=0, max_new_tokens=20)
    engine, true = engines
    assert_same_greedy(engine.sample(prompts, params), true.sample(prompts, params))
    several = engine.sample(prompts[:2], SamplingParams(n=2, temperature=0, max_new_tokens=3))
    assert [row[0] for row in several] == [row[1] for row in several]


def test_samples(engines: tuple[OpenAIEngine, TransformersEngine], prompts: list[list[int]], chat: ChatEncoder) -> None:
    engine, true = engines
    # Temperature and top_p change what is drawn, never the log-probabilities.
    params = SamplingParams(n=3, temperature=1.3, top_p=0.95, max_new_tokens=10, seed=7)
    sampled = engine.sample(prompts, params)
    completions = [c for row in sampled for c in row]
    assert [len(row) for row in sampled] == [3] * len(prompts)
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for c in completions:
        assert len(c.ids) == len(c.logprobs or ())
        assert (c.ids[-1] in chat.stop_ids) == (c.finish_reason == "stop")
        assert not set(c.ids[:-1]) & set(chat.stop_ids)
        assert c.finish_reason == "stop" or len(c.ids) == 10
        assert c.text == chat.decode(c.ids)
    assert distance(own_logprobs(sampled), logprobs(true, prompts, sampled)) < 1e-2
    assert len({c.ids for c in sampled[0]}) > 1
    assert engine.sample(prompts, SamplingParams(n=3, max_new_tokens=10, seed=8)) != sampled
    # What was drawn is not always how the tokenizer would spell it; the ids are what was drawn.
    stopped = [c for c in completions if c.finish_reason == "stop"]
    assert any((*chat.text_ids(c.text), c.ids[-1]) != c.ids for c in stopped)


def test_the_servers_own_warpers_are_off(served: Served, chat: ChatEncoder, prompts: list[list[int]]) -> None:
    """Tokens beyond the top_k of the model's generation config are drawn as often as they are probable."""
    drawn = OpenAIEngine(served.url, chat).sample(prompts[:10], SamplingParams(n=100, max_new_tokens=1, seed=1))
    found, expected = [], []
    for prompt, row in zip(prompts[:10], drawn, strict=True):
        with torch.no_grad(), served.adapted.disable_adapter():
            p = served.adapted(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        rare = p.argsort(descending=True)[WARPERS["top_k"] :].tolist()
        found.append(np.mean([c.ids[0] in rare for c in row]))
        expected.append(float(p[rare].sum()))
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=0.06)  # the mean of 1000 draws: sd below 0.016
