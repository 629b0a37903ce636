"""The small Llama that a real vLLM runs in the tests, and how its outputs are compared with those of transformers.

It has a head size that vLLM's CPU attention takes, and its output head shares the embedding's weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from selfjudge.engines.hf import TransformersEngine
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Comparison, Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.rollout import Rollout, RolloutCollector
from selfjudge.world.model import build_tokenizer

TRAINING = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "per_device_train_batch_size": 16}


def small_llama(seed: int) -> LlamaForCausalLM:
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def recipe(folder: Path, steps: int, **self_training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "model": {"path": str(folder)},
            "data": {"sources": [{"path": "builtin:world", "limit": 800}], "max_length": 128},
            "templates": {"set": "world"},
            "jsft": {"judgment_weight": 6, "training": {**TRAINING, "max_steps": steps, "learning_rate": 1e-3}},
            "self_training": {
                "start": str(folder),
                "labels": "soft",
                "rollout": {"top_p": 1.0, "max_new_tokens": 12},
                "engine": "vllm",
                "vllm": {"gpu_memory_utilization": 0.1, "enforce_eager": True},
                "training": {**TRAINING, "max_steps": steps, "learning_rate": 3e-3},
                **self_training,
            },
        }
    )


def add_adapter(model: PreTrainedModel, seed: int, target: Path) -> PeftModel:
    """Puts an adapter that changes something on the model, and saves it to a folder."""
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear"))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.1)
    adapted.save_pretrained(str(target))
    return adapted.eval()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def logprobs(engine: TransformersEngine, prompts: list[list[int]], sampled: list[list[Completion]]) -> np.ndarray:
    """Transformers' log-probability of each sampled response."""
    return np.array(engine.response_logprobs(rows(prompts, sampled)))


def rows(prompts: list[list[int]], sampled: list[list[Completion]]) -> list[tuple[list[int], tuple[int, ...]]]:
    return [(p, c.ids) for p, completions in zip(prompts, sampled, strict=True) for c in completions]


def own_logprobs(sampled: list[list[Completion]]) -> np.ndarray:
    return np.array([sum(c.logprobs or ()) for completions in sampled for c in completions])


def assert_same_greedy(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    """All but a twentieth are the same ids; those have the same text, end and log-probabilities."""
    ours, theirs = ([c for (c,) in sampled] for sampled in (found, expected))
    assert len(theirs) >= 40
    equal = [(f, e) for f, e in zip(ours, theirs, strict=True) if f.ids == e.ids]
    assert len(equal) >= 0.95 * len(theirs)
    for f, e in equal:
        assert (f.text, f.finish_reason) == (e.text, e.finish_reason)
        assert f.logprobs is not None
        assert np.allclose(f.logprobs, e.logprobs, atol=1e-2)
    assert len({c.ids for c in ours}) > 5


def rollout_distances(collector: RolloutCollector, rollout: Rollout, chat: ChatEncoder) -> tuple[float, float, float]:
    """How far the samples' own log-probabilities are from those that the policy as it is and the start give them, and
    the judge's strengths from those of the start.
    """
    asked = [list(j.prompt.ids) for j in rollout.judged]
    sampled = [list(j.samples) for j in rollout.judged]
    own = own_logprobs(sampled)
    current = TransformersEngine(collector.policy.model, chat)  # type: ignore[attr-defined]
    strengths = [v.p.AB.A for j in rollout.judged for v in j.verdicts.values()]
    pairs = [
        Comparison(id="x", prompt=j.prompt.prompt, response_a=j.samples[0].text, response_b=j.samples[1].text)
        for j in rollout.judged
        if j.verdicts
    ]
    judge = Judge(collector.reference, collector.judge.encoder)  # type: ignore[arg-type]
    return (
        distance(own, logprobs(current, asked, sampled)),
        distance(own, np.array(collector.reference.response_logprobs(rows(asked, sampled)))),
        distance(np.array(strengths), np.array([v.p.AB.A for v in judge.judge(pairs)])),
    )
