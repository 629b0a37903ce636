"""Judgments are packed and share their beginnings only where that gives a model's own probabilities."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from families import bare_chat, tiny_model
from transformers import PreTrainedTokenizerFast

from selfjudge.engines import judging_way as module
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.judging_way import JudgingWay, judging_way
from selfjudge.engines.load import load_model
from selfjudge.templates.encode import JudgmentPrompt


def test_a_plain_model_takes_the_quickest_way() -> None:
    assert judging_way(tiny_model("llama")) == JudgingWay(packed=True, shares=True)


@pytest.mark.parametrize("family", ["diffllama", "nemotron"])
def test_a_model_with_attention_of_its_own_does_not(family: str, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(family)
    assert not judging_way(model).packed
    assert judging_way(model) is judging_way(model)
    assert caplog.text.count("is judged without the quick ways") == 1
    beginning = tuple(range(3, 33))
    prompts = [JudgmentPrompt((*beginning, *end), (5, 6)) for end in ((7,), (8, 9), (10, 11, 12))]
    for prompt, p in zip(prompts, TransformersEngine(model, bare_chat(2)).label_probabilities(prompts), strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt.token_ids]), use_cache=False).logits[0, -1]
        assert logits.softmax(-1)[[5, 6]].tolist() == pytest.approx(list(p), rel=1e-4)


def test_it_is_tried_when_a_model_is_loaded(
    tmp_path: Path, world_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model("diffllama", len(world_tokenizer)).save_pretrained(tmp_path)
    world_tokenizer.save_pretrained(tmp_path)
    load_model(tmp_path)
    assert "DiffLlamaForCausalLM is judged without the quick ways" in caplog.text


def test_nothing_is_tried_where_the_layers_rule_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_right", lambda *_: pytest.fail("tried"))
    assert judging_way(tiny_model("lfm2")) == JudgingWay(packed=False, shares=False)


def test_a_way_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> None:
        raise TypeError("no such argument")

    monkeypatch.setattr(module.PackedForward, "run", fails)
    with caplog.at_level(logging.DEBUG, logger=module.__name__):
        assert judging_way(tiny_model("llama")) == JudgingWay(packed=False, shares=True)
    assert "no such argument" in caplog.text


def test_memory_that_runs_out_is_no_verdict_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module.PackedForward, "run", fails)
    with pytest.raises(torch.OutOfMemoryError):
        judging_way(tiny_model("llama"))


def test_the_random_state_stays() -> None:
    model = tiny_model("llama")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    judging_way(model)
    assert torch.equal(torch.get_rng_state(), before)
