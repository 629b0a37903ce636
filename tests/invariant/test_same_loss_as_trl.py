"""A row costs what TRL's DPOTrainer says, with models of several makes, for a changed policy and for an adapter."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from selfjudge.core.losses import Objective
from selfjudge.engines.hf import TransformersEngine
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.arguments import training_arguments
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.pairs import Pair, collate_pairs
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer

BETA = 0.1
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
CONFIGS: dict[str, Callable[..., Any]] = {
    "qwen3": lambda **ids: Qwen3Config(**SIZES, head_dim=8, **ids),
    # Rows are longer than the window.
    "gemma3_text": lambda **ids: Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=8, sliding_window_pattern=2, **ids
    ),
    "lfm2": lambda **ids: Lfm2Config(**SIZES, layer_types=["conv", "full_attention"] * 2, **ids),
}
ROWS = [  # prompt, chosen, rejected: of several lengths, so that there is padding
    (list(range(5, 25)), [30, 31, 32, 33, 2], [40, 41, 2]),
    ([7, 8, 9], [50, 2], list(range(60, 76))),
]


@pytest.fixture(params=CONFIGS)
def reference(request: pytest.FixtureRequest, chatml_tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    ids = {"vocab_size": len(chatml_tokenizer), "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    config = CONFIGS[request.param](**ids)
    assert config.model_type == request.param
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(params=["changed", "adapter"])
def policy(request: pytest.FixtureRequest, reference: PreTrainedModel) -> Any:
    """All weights a little off, or an adapter on the reference's."""
    torch.manual_seed(1)
    changed = copy.deepcopy(reference)
    if request.param == "adapter":
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        return get_peft_model(changed, config)
    with torch.no_grad():
        for weight in changed.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return changed


def trl_loss(
    policy: PreTrainedModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> float:
    """DPOTrainer tokenises its data, so it gets a text to do so, and the ids by way of its own collator."""
    trainer = DPOTrainer(
        policy,
        ref_model=reference,  # else it loads one from the path in the model's config
        args=DPOConfig(
            output_dir=str(folder),
            beta=BETA,
            bf16=False,
            use_cpu=True,
            report_to="none",
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer,
    )
    rows = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), row, strict=True)) for row in ROWS]
    batch = DataCollatorForPreference(pad_token_id=0)(rows)
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def our_loss(policy: Any, base: TransformersEngine, folder: Path) -> tuple[float, list[float]]:
    """Returns the loss of the batch and the margins of its pairs."""
    trainer = SelfJudgeTrainer(
        policy,
        training_arguments("self_training", {"use_cpu": True, "disable_tqdm": True}, folder, seed=0),
        prompts=[RolloutPrompt("0", (), ())],
        collector=None,  # type: ignore[arg-type]  # nothing is sampled
        pad_id=0,
        objective=Objective("sigmoid", BETA),
    )
    known = base.response_logprobs([(prompt, ids) for prompt, *both in ROWS for ids in both])
    pairs = [
        Pair(tuple(prompt), tuple(chosen), tuple(rejected), 1.0, *known[2 * i : 2 * i + 2])
        for i, (prompt, chosen, rejected) in enumerate(ROWS)
    ]
    with torch.no_grad():
        loss, outputs = trainer.compute_loss(trainer.model, collate_pairs(pairs, 0), return_outputs=True)
    return float(loss), outputs["margin"].tolist()


def test_the_same_ids_cost_the_same(
    tmp_path: Path, reference: PreTrainedModel, policy: Any, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    theirs = copy.deepcopy(policy).merge_and_unload() if hasattr(policy, "peft_config") else copy.deepcopy(policy)
    expected = trl_loss(theirs, copy.deepcopy(reference), chatml_tokenizer, tmp_path / "theirs")
    chat = ChatEncoder(chatml_tokenizer)
    adapted = hasattr(policy, "peft_config")
    base = TransformersEngine(policy, chat, adapter=False) if adapted else TransformersEngine(reference, chat)
    found, margins = our_loss(policy, base, tmp_path / "ours")
    assert found == pytest.approx(expected, abs=1e-5)
    # There is something to compare: the loss is the margins', and none of them is near 0.
    assert found == pytest.approx(sum(math.log1p(math.exp(-BETA * h)) for h in margins) / len(margins), abs=1e-5)
    assert min(abs(h) for h in margins) > 0.05
