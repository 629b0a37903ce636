"""What the tests on a device share: where they run, and tiny models with random weights.

They need a GPU. SELFJUDGE_TEST_DEVICE=cpu runs the same code on a CPU, where a sampling step is run and not recorded.
"""

from __future__ import annotations

import os

# Before CUDA starts: a run that is resumed is to take the same roads through cuBLAS as one that was not.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from selfjudge.engines.load import LoadedModel
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.world.model import build_tokenizer

DEVICE = os.environ.get("SELFJUDGE_TEST_DEVICE", "cuda")
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="nothing is recorded on a CPU")


def needs_device() -> None:
    """Skips a module whose device is not there."""
    if DEVICE != "cpu" and not torch.cuda.is_available():
        pytest.skip("no GPU; SELFJUDGE_TEST_DEVICE=cpu runs these tests without one", allow_module_level=True)


def grouped_query_model(dtype: torch.dtype = torch.float32, device: str = DEVICE) -> LoadedModel:
    """Returns a tiny Llama whose heads share keys and values, with the small world's tokenizer.

    Its head is so large that predictions are sharp: what rounds otherwise seldom changes a sample. Samples end at many
    different lengths.
    """
    chat = ChatEncoder(build_tokenizer())
    config = LlamaConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=chat.tokenizer.eos_token_id,
        pad_token_id=chat.tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()  # drawn on the CPU: the same weights on every device
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
        model.lm_head.weight[list(chat.stop_ids)] += 4 * model.lm_head.weight.std()
    return LoadedModel(model.to(device, dtype), chat)


def adapted(model: LlamaForCausalLM) -> PeftModel:
    """Returns the model with an adapter that changes its predictions."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        policy = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert isinstance(policy, PeftModel)
    return policy.eval()


def flat(samples: list[list[Completion]]) -> list[Completion]:
    """Returns the samples of all prompts."""
    return [completion for row in samples for completion in row]


def share_equal(found: list[Completion], expected: list[Completion], tokens: int | None = None) -> float:
    """Returns the share of samples whose ids are equal, or their first ``tokens`` ids."""
    equal = [f.ids[:tokens] == e.ids[:tokens] for f, e in zip(found, expected, strict=True)]
    return sum(equal) / len(equal)


def save_model_folder(folder: Path) -> Path:
    """Writes the tiny model, in float32, where a recipe finds it."""
    loaded = grouped_query_model(device="cpu")
    loaded.model.save_pretrained(folder)
    loaded.chat.tokenizer.save_pretrained(folder)
    return folder


def recipe(model: Path, training: dict[str, Any], *, pairs: int = 24, dtype: str = "auto", **section: Any) -> Recipe:
    """Returns a recipe of a few steps in the small world, with the same settings of training in both stages."""
    training = {
        "use_cpu": DEVICE == "cpu",
        "logging_steps": 1,
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        **training,
    }
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"path": str(model), "dtype": dtype},
            "data": {"sources": [{"path": "builtin:world", "limit": pairs}], "max_length": 128},
            "templates": {"set": "world"},
            "jsft": {"training": training},
            "self_training": {
                "start": str(model),
                "labels": "soft",
                "rollout": {"max_new_tokens": 12},
                "lora": {"r": 4, "dropout": 0.0},
                **section,
                "training": training,
            },
        }
    )
