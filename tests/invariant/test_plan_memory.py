"""The plan's memory against the bytes that a real run allocates, on a CPU: within 20 %, training steps within 10 %.

The profiler reports every allocation and every release; their running sum, on top of the weights that are there before,
is the memory in use over time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from selfjudge.core import logprobs
from selfjudge.data.collate import JsftCollator
from selfjudge.data.rows import Row
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.recipes.load import load_recipe
from selfjudge.recipes.schema import LoraSection
from selfjudge.templates.encode import JudgmentPrompt
from selfjudge.training.arguments import training_arguments
from selfjudge.training.jsft import run_jsft
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.pairs import Pair
from selfjudge.training.plan.hardware import find_hardware
from selfjudge.training.plan.memory import (
    Batch,
    MemoryPlan,
    Setup,
    judging_phase,
    peak,
    reference_phase,
    sampling_phase,
    training_phases,
)
from selfjudge.training.plan.shape import adapter_shape, model_shape
from selfjudge.training.plan.stages import plan_stage, read_facts
from selfjudge.training.rollout import Rollout, RolloutStats
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer
from selfjudge.training.self_training import run_self_training

pytestmark = pytest.mark.slow
TOLERANCE = 0.2
STEP_TOLERANCE = 0.1
"""Training steps are known tensor by tensor; a forgotten one should show."""


@dataclass(frozen=True)
class Case:
    """A model, and how it is trained."""

    rows: int = 16
    length: int = 128
    vocab: int = 1000
    hidden: int = 128
    layers: int = 3
    kv_heads: int = 8
    tied: bool = False
    attention: str = "sdpa"
    lora: float | None = None
    """Dropout of an adapter on all linear layers, or None for training all weights."""
    checkpointing: bool = False
    accumulation: int = 1
    bf16: bool = False
    """Autocast."""
    weights: torch.dtype = torch.float32
    packing: bool = False
    chunk: int = 2**28
    """Bytes of float32 logits at once."""

    def model(self, device: str = "cpu") -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.hidden * 11 // 4,
            num_hidden_layers=self.layers,
            num_attention_heads=8,
            num_key_value_heads=self.kv_heads,
            tie_word_embeddings=self.tied,
            max_position_embeddings=2048,
            attn_implementation=self.attention,
        )
        with torch.device(device):
            return LlamaForCausalLM(config).to(self.weights)

    def trained(self) -> LlamaForCausalLM | PeftModel:
        if self.lora is None:
            return self.model()
        return get_peft_model(
            self.model(),
            PeftLora(r=8, lora_alpha=16, lora_dropout=self.lora, target_modules="all-linear", task_type="CAUSAL_LM"),
        )

    def setup(self) -> Setup:
        lora = None if self.lora is None else LoraSection(dropout=self.lora)
        return Setup(
            model=model_shape(self.model("meta")),
            adapter=lora and adapter_shape(self.model("meta"), lora),
            weight_bytes=self.weights.itemsize,
            device="cpu",
            autocast=self.bf16,
            attention=self.attention,
            checkpointing=self.checkpointing,
            accumulation=self.accumulation,
        )

    def arguments(self, tmp_path: Any, batch: int) -> Any:
        values = {
            "max_steps": 3,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_checkpointing": self.checkpointing,
            "bf16": self.bf16,
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        return training_arguments("jsft", values, tmp_path, seed=0)


CASES = {
    "full": Case(),
    "full, wide": Case(hidden=256, rows=8),
    "full, long rows": Case(rows=4, length=512),
    "full, large vocabulary": Case(vocab=16000, rows=8),
    "full, chunks of logits": Case(vocab=16000, rows=8, chunk=2**22),
    "full, bf16, chunks of logits": Case(vocab=16000, rows=8, chunk=2**22, bf16=True),
    "LoRA, chunks of logits": Case(lora=0.1, vocab=16000, rows=8, chunk=2**22),
    "full, packing": Case(packing=True),
    "full, packing, long rows": Case(rows=4, length=512, packing=True),
    "LoRA, packing": Case(lora=0.1, packing=True),
    "full, tied embeddings": Case(vocab=16000, rows=8, tied=True),
    "full, few key heads": Case(kv_heads=2),
    "full, eager attention": Case(attention="eager", length=256),
    "full, checkpointing": Case(checkpointing=True, layers=6),
    "full, checkpointing, long rows": Case(checkpointing=True, layers=6, rows=4, length=512),
    "full, accumulation": Case(hidden=256, rows=2, length=64, accumulation=2),
    "full, optimiser": Case(hidden=256, rows=1, length=16),
    "full, bf16": Case(bf16=True),
    "full, bf16, checkpointing": Case(bf16=True, checkpointing=True, layers=6),
    "LoRA": Case(lora=0.1),
    "LoRA without dropout": Case(lora=0.0),
    "LoRA, large vocabulary": Case(lora=0.1, vocab=16000, rows=8),
    "LoRA, checkpointing": Case(lora=0.1, checkpointing=True, layers=6),
    "LoRA, long rows": Case(lora=0.1, rows=4, length=512),
    "LoRA, 16-bit base": Case(lora=0.1, weights=torch.bfloat16),
    "LoRA, 16-bit base, autocast": Case(lora=0.1, weights=torch.bfloat16, bf16=True),
    "LoRA, 16-bit base, autocast, checkpointing": Case(
        lora=0.1, weights=torch.bfloat16, bf16=True, checkpointing=True, layers=6
    ),
    "full, 16 bit": Case(weights=torch.bfloat16),
}
INFERENCE = {
    "few tokens a row": (Case(), 4096),
    "few key heads, wide": (Case(kv_heads=2, hidden=256), 4096),
    "large vocabulary": (Case(vocab=16000), 2048),
    "eager attention": (Case(attention="eager"), 4096),
    "many layers": (Case(layers=8), 4096),
    "large vocabulary, chunks": (Case(vocab=16000, chunk=2**22), 2048),
    "16 bit": (Case(weights=torch.bfloat16), 4096),
    "16 bit, large vocabulary": (Case(weights=torch.bfloat16, vocab=16000), 2048),
}


def measured(model: torch.nn.Module, run: Callable[[], Any]) -> int:
    """The most bytes in use while ``run`` runs, the weights included."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    gc.collect()  # A trainer is a cycle: what an earlier one holds must not be released in the middle of this run.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run()
    events = prof.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    assert changes
    in_use = most = 0
    for _, change in changes:
        in_use += change
        most = max(most, in_use)
    return weights + most


def agrees(name: str, plan: MemoryPlan, real: int, tolerance: float = TOLERANCE) -> None:
    error = plan.total / real - 1
    print(f"| {name} | {real / 1e6:.1f} | {plan.total / 1e6:.1f} | {error:+.1%} | {plan.phase} |")
    assert abs(error) <= tolerance, plan


def ids(n: int, vocab: int = 600) -> tuple[int, ...]:
    return tuple(torch.randint(300, vocab, (n,)).tolist())


def without_optimiser(plan: MemoryPlan) -> MemoryPlan:
    """Inference on its own: there is no optimiser yet."""
    return MemoryPlan(plan.phase, {part: size for part, size in plan.parts.items() if part != "optimiser"})


def test_the_measurement_sees_the_peak_and_not_the_sum():
    def run() -> None:
        a = torch.zeros(1000, 1000)
        b = a + 1
        del a
        b * 2

    assert measured(torch.nn.Linear(10, 10, bias=False), run) == pytest.approx(400 + 8_000_000, abs=64)


@pytest.mark.parametrize("name", CASES)
def test_a_jsft_step(name, tmp_path, monkeypatch):
    case, rows = CASES[name], []
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", case.chunk)
    # Rows of different lengths, so that there is padding; half their tokens are targets. Where they are packed, two
    # short ones fill a sequence. A micro-batch is one example, so that all are alike.
    for i in range(case.rows):
        n = case.length // (1 + i % 4 // 2) if case.packing else case.length - (i % 4) * case.length // 16
        rows.append(Row("policy", str(i), ids(n), tuple(j >= n // 2 for j in range(n))))
    examples = [{"rows": tuple(rows), "input_ids": rows[0].ids}] * 3 * case.accumulation
    model, collate = case.trained(), JsftCollator(0, packing=case.packing)
    trainer = JsftTrainer(model, case.arguments(tmp_path, 1), train_dataset=examples, data_collator=collate)
    batch = collate(examples[:1])
    sequences, length = batch["input_ids"].shape
    plan = peak(training_phases(case.setup(), Batch(sequences, length, len(batch["targets"]), masked=case.packing)))
    agrees(f"JSFT: {name}", plan, measured(model, trainer.train), STEP_TOLERANCE)


class Fixed:
    """Stands in for the rollouts: pairs of given lengths."""

    def __init__(self, prompt: int, response: int) -> None:
        self.prompt, self.response = prompt, response

    def collect(self, prompts: list[RolloutPrompt], seed: int, places: tuple[int, ...]) -> Rollout:
        pairs = [
            Pair(ids(self.prompt - i % 4), ids(self.response), ids(self.response - i % 3), 1.0)
            for i in range(len(prompts))
        ]
        return Rollout(pairs, [], RolloutStats(*[len(pairs)] * 4, *[0.0] * 8, 1.0, 1.0))


@pytest.mark.parametrize("name", ["full", "full, large vocabulary", "full, checkpointing", "LoRA", "LoRA, long rows"])
def test_a_self_training_step(name, tmp_path):
    case = CASES[name]
    prompt, response = case.length // 2, case.length // 2
    model = case.trained()
    trainer = SelfJudgeTrainer(
        model,
        case.arguments(tmp_path, case.rows),
        prompts=[RolloutPrompt(str(i), (), ()) for i in range(3 * case.rows)],
        collector=Fixed(prompt, response),  # type: ignore[arg-type]
        pad_id=0,
    )
    plan = peak(
        training_phases(case.setup(), Batch(2 * case.rows, prompt + response, 2 * case.rows * response, masked=False))
    )
    agrees(f"self-training: {name}", plan, measured(model, trainer.train), STEP_TOLERANCE)


@pytest.mark.parametrize("name", INFERENCE)
def test_judging(name, world_chat):
    case, budget = INFERENCE[name]
    model = case.model().eval()
    # As an accelerator judges, of which the plan speaks; packed, as on a CPU, it takes less.
    engine = TransformersEngine(model, world_chat, token_budget=budget, packed=False)
    prompts = [JudgmentPrompt(ids(case.length - i % 4), (35, 36)) for i in range(2 * budget // case.length)]
    plan = judging_phase(case.setup(), Batch(budget // case.length, case.length, budget // case.length))
    real = measured(model, lambda: engine.label_probabilities(prompts))
    agrees(f"judging: {name}", without_optimiser(plan), real)


@pytest.mark.parametrize("name", INFERENCE)
def test_reference_logprobs(name, world_chat, monkeypatch):
    case, budget = INFERENCE[name]
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", case.chunk)
    model = case.model().eval()
    engine = TransformersEngine(model, world_chat, token_budget=budget)
    rows = [(ids(64 - i % 4), ids(64 - i % 3)) for i in range(2 * budget // 128)]
    plan = reference_phase(case.setup(), Batch(budget // 128, 128, budget // 2, masked=False))
    agrees(f"reference: {name}", without_optimiser(plan), measured(model, lambda: engine.response_logprobs(rows)))


@pytest.mark.parametrize("name", INFERENCE)
def test_sampling(name, world_chat):
    case, budget = INFERENCE[name]
    model = case.model().eval()
    engine = TransformersEngine(model, world_chat, token_budget=budget)
    params = SamplingParams(n=2, temperature=1.0, top_p=0.9, max_new_tokens=32, seed=0)
    prompts = [ids(32 - i % 4) for i in range(budget // 128)]
    plan = sampling_phase(case.setup(), budget // 128, 2, 32, 32)
    agrees(f"sampling: {name}", without_optimiser(plan), measured(model, lambda: engine.sample(prompts, params)))


def test_whole_stages_of_the_demo(tmp_path):
    """From the recipe, nothing told to the plan: loading, rows, rollouts, judging, training."""
    recipe = load_recipe(
        "demo",
        [
            "data.sources.0.limit=1000",
            "jsft.training.max_steps=4",
            "self_training.training.max_steps=3",
            f"self_training.start={tmp_path / 'jsft'}",
            "jsft.training.use_cpu=true",
            "self_training.training.use_cpu=true",
        ],
    )
    facts = read_facts(recipe, find_hardware("cpu", None)[0])
    for stage, run in (("jsft", run_jsft), ("self_training", run_self_training)):
        real = measured(torch.nn.Module(), lambda run=run, stage=stage: run(recipe, tmp_path / stage))
        agrees(f"demo: {stage}", plan_stage(recipe, stage, facts).peak, real)
