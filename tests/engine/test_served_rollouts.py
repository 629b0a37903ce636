"""Self-training with rollouts from vLLM's own servers, which are handed the adapter of each step."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_model import TRAINING, add_adapter, distance, logprobs, own_logprobs, recipe, small_llama
from vllm_server import free_port, running

if not (importlib.util.find_spec("vllm") and importlib.util.find_spec("openai")):
    pytest.skip("vLLM or openai is not installed: `make test-vllm` does and runs these", allow_module_level=True)

from selfjudge.data.io import read_jsonl
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.engines.save import save_model
from selfjudge.errors import EngineError, ModelError
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.self_training import run_self_training
from selfjudge.world.model import build_tokenizer

pytestmark = pytest.mark.timeout(900)
LORA = {"r": 4, "dropout": 0.1}


def command(folder: Path, port: int) -> list[str]:
    """Starts a vLLM server that takes adapters."""
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)),
        *("--model", str(folder), "--served-model-name", "start", "--dtype", "float32", "--enforce-eager"),
        *("--gpu-memory-utilization", "0.1", "--enable-lora", "--max-lora-rank", "8"),
    ]


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
        port = free_port()
        with running(command(folder, port), port, tmp_path_factory.mktemp("server") / "log") as (url, _):
            yield url


def served(url: Any, folder: Path, steps: int, **more: Any) -> Any:
    return recipe(folder, steps, **{"engine": "openai", "servers": {"url": url}, "lora": LORA, **more})


def test_rollouts_come_from_the_policy_as_it_is(
    url: str, folder: Path, chat: ChatEncoder, tmp_path: Path, distances: list[tuple[float, float, float]]
) -> None:
    run = run_self_training(served([url, url], folder, 3), tmp_path / "run")
    assert run.info["steps"] == 3
    assert run.info["servers"] == [url, url]
    assert not list(run.checkpoints.glob("rollout*"))
    to_current, to_start, to_judge = zip(*distances, strict=True)
    assert len(distances) == 3
    assert max(to_current) < 1e-2  # what the server drew has the log-probabilities that the policy in training gives it
    assert to_start[0] < 1e-2  # the policy begins as the reference
    assert min(to_start[1:]) > 0.5  # and is another from the first step on
    assert max(to_judge) < 1e-2
    assert OpenAIEngine(url, chat).model == "start"
    with pytest.raises(EngineError, match="name one of 'start'"):  # the adapters are gone again
        OpenAIEngine(url, chat, model="selfjudge")


def test_rollouts_beside_training(url: str, folder: Path, tmp_path: Path) -> None:
    training = {**TRAINING, "max_steps": 4, "learning_rate": 3e-3, "logging_steps": 1}
    rollout = {"top_p": 1.0, "max_new_tokens": 12, "async": 1}
    run = run_self_training(served(url, folder, 4, rollout=rollout, training=training), tmp_path / "run")
    logged = [row for _, row in read_jsonl(run.path / "metrics.jsonl") if "loss" in row]
    assert [row["rollout/staleness"] for row in logged] == [0, 1, 1, 1]
    assert all(math.isfinite(row["loss"]) for row in logged)


def test_two_processes_share_the_servers(url: str, folder: Path, tmp_path: Path) -> None:
    training = {**TRAINING, "max_steps": 3, "logging_steps": 1, "learning_rate": 3e-3}
    training |= {"lr_scheduler_type": "constant", "max_grad_norm": 0}
    both = served([url, url], folder, 3, lora={"r": 4, "dropout": 0}, training=training)
    halves = {**training, "per_device_train_batch_size": TRAINING["per_device_train_batch_size"] // 2}
    recipes = {
        1: both,
        2: both.model_copy(update={"self_training": both.self_training.model_copy(update={"training": halves})}),
    }
    found = {}
    for processes, one in recipes.items():
        file = tmp_path / f"{processes}.yaml"
        file.write_text(yaml.safe_dump(one.model_dump(mode="json", by_alias=True)))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        run = tmp_path / f"run-{processes}"
        done = subprocess.run(
            [*torchrun, "-m", "selfjudge.cli.main", "train", "--recipe", str(file), "--output-dir", str(run)],
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert not list(run.glob("checkpoints/rollout*"))
        found[processes] = [row for _, row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    alone, together = found[1], found[2]
    assert len(alone) == len(together) == 3
    print(alone, together)
    # Seeds belong to a prompt's place in the step, so both draw the same; which requests vLLM batches rounds otherwise.
    for name in ("loss", "rollout/length", "rollout/tie_rate", "rollout/strength", "kl"):
        assert together[0][name] == pytest.approx(alone[0][name], abs=1e-3), name
    assert together[-1]["kl"] > 0.1


def test_a_server_that_was_started_anew_gets_the_adapter_again(
    folder: Path, chat: ChatEncoder, prompts: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
    adapted = add_adapter(load_model(folder, dtype="float32", device="cpu").model, 1, tmp_path / "adapter")
    port, params = free_port(), SamplingParams(max_new_tokens=12)
    with running(command(folder, port), port, tmp_path / "log") as (url, _):
        engine = OpenAIEngine(url, chat, patience=120)
        engine.use_adapter("one", tmp_path / "adapter")
        engine.load_adapter()
        engine.load_adapter()  # another process was first
        before = engine.sample(prompts, params)
    with running(command(folder, port), port, tmp_path / "log"):
        after = engine.sample(prompts, params)
        engine.drop_adapter("one")
        engine.drop_adapter("one")
    for sampled in (before, after):
        assert distance(own_logprobs(sampled), logprobs(TransformersEngine(adapted, chat), prompts, sampled)) < 1e-2
    engine.drop_adapter("one")  # nobody is there


def test_a_server_of_other_weights_is_refused(url: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_model(small_llama(0), build_tokenizer(), other)
    with pytest.raises(ModelError, match="serves other weights under 'start'"):
        run_self_training(served(url, other, 1, start=str(other)), tmp_path / "run")
