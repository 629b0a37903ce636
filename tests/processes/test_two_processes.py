"""Two real processes train as one does: the same losses, measures and weights, whatever falls to which of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from launch import job, launch, metrics, outcomes
from safetensors.torch import load_file
from served_model import served_models
from transformers import PreTrainedModel

from selfjudge.baselines.run import METHODS, run_baseline
from selfjudge.engines.load import load_model
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.jsft import run_jsft
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training

Make = Callable[..., Recipe]
Distance = Callable[[PreTrainedModel, PreTrainedModel], float]
# Plain gradient descent: an adaptive optimiser would blow rounding up where a gradient is next to nothing.
SGD = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "save_strategy": "no"}
LORA = {"r": 4, "dropout": 0.0}
# What is of the clock, or counts padding.
OWN = {
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "total_flos",
    "rollout/samples_per_second",
}

DEEPSPEED = "DeepSpeed is not installed; on its first run it compiles a part of itself"
# What every change must pass; the other cases take longer than they are likely to fail alone.
QUICK = ("jsft", "self-training", "LoRA, replay", "one prompt", "stopped")


@dataclass(frozen=True)
class Case:
    """A training; ``rows``: of a step, over all processes and micro-batches."""

    stage: str
    pairs: int
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    rows: int = 8

    def recipe(self, make: Make, processes: int, accumulation: int = 1, **training: Any) -> Recipe:
        batch = self.rows // processes // accumulation
        training = {**SGD, "per_device_train_batch_size": batch, **self.training, **training}
        training["gradient_accumulation_steps"] = accumulation
        section = "jsft" if self.stage in ("jsft", "sft") else "self_training"
        return make(self.pairs, **{section: {**self.settings, "training": training}})


CASES = {
    # 7 policy rows and 7 pairs: a step of 8 examples and one of 6, in which the second process has 2 of 4.
    "jsft": Case("jsft", 7, {"judgment_weight": 3}, {"num_train_epochs": 2}),
    "jsft, 9 examples": Case("jsft", 9, {"rows": "policy"}, {"num_train_epochs": 2}),  # the last one is alone
    "jsft, LoRA": Case("jsft", 7, {"lora": LORA}, {"learning_rate": 0.5}),
    # 20 prompts: the third step of an epoch has four, all of them with the first process.
    "self-training": Case("train", 20, {"lora": None}, {"max_steps": 4}),
    "LoRA, replay": Case("train", 22, {"lora": LORA, "replay": 0.5}, {"max_steps": 4, "learning_rate": 0.5}),
    "one prompt": Case("train", 1, {"lora": None, "replay": 0.5}, {"max_steps": 2}),
    "offline": Case("offline", 12, {"lora": None}, {"max_steps": 3}),
    "stopped": Case("train", 20, {"lora": None, "stop": {"max_kl": 1e-4, "window": 1}}, {"max_steps": 6}),
}


def run_alone(case: Case, recipe: Recipe, folder: Path) -> RunFolder:
    if case.stage == "offline":
        return run_baseline("offline", recipe, folder)
    return {"jsft": run_jsft, "train": run_self_training}[case.stage](recipe, folder)


def assert_same_runs(
    jobs: dict[str, dict[str, Any]], alone: dict[str, RunFolder], distance: Distance, distributed: str
) -> None:
    for name, two in jobs.items():
        assert outcomes(two, 2) == ["done", "done"], name
        info = json.loads((Path(two["folder"]) / "run.json").read_text(encoding="utf-8"))
        assert (info["processes"], info["distributed"]) == (2, distributed)
        assert_same_run(Path(two["folder"]), alone[name], distance)


def assert_same_run(folder: Path, alone: RunFolder, distance: Distance) -> None:
    """Same measures at each step, same outcome and same weights as the run of one process."""
    expected, found = metrics(alone.path), metrics(folder)
    assert len(expected) >= 3
    for one, two in zip(expected, found, strict=True):
        assert one.keys() == two.keys()
        if one["step"] == 1:  # policy and reference are one: a margin is above zero by rounding alone
            two["rewards/accuracies"] = one["rewards/accuracies"] = 0.0
        assert {k: v for k, v in two.items() if k not in OWN} == pytest.approx(
            {k: v for k, v in one.items() if k not in OWN}, abs=2e-5
        )
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for key in ("steps", "status", "stopped", "prompts", "rows", "dropped"):
        assert info.get(key) == alone.info.get(key)
    assert distance(load_model(folder).model, load_model(alone.path).model) < 2e-6


def both_ways(
    names: list[str], make: Make, folder: Path, **training: Any
) -> tuple[dict[str, RunFolder], dict[str, dict[str, Any]]]:
    """Runs cases in this process; returns the runs, and the jobs that are to do the same in two."""
    alone = {name: run_alone(CASES[name], CASES[name].recipe(make, 1), folder / f"{name}-1") for name in names}
    recipes = {name: CASES[name].recipe(make, 2, **training) for name in names}
    return alone, {name: job(CASES[name].stage, recipes[name], folder / f"{name}-2") for name in names}


@pytest.mark.slow
def test_ddp_does_what_one_process_does(tmp_path: Path, tiny_recipe: Make, distance: Distance) -> None:
    alone, jobs = both_ways([*QUICK], tiny_recipe, tmp_path)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    refused = job("jsft", CASES["jsft"].recipe(tiny_recipe, 2), taken)
    launch([refused, *jobs.values()], 2, timeout=300)
    assert_same_runs(jobs, alone, distance, "MULTI_CPU")
    assert alone["stopped"].info["stopped"] is not None
    # Only the main process looks, and says what is wrong; the other one stops with it.
    first, second = outcomes(refused, 2)
    assert first.startswith("RunError: ")
    assert "is not empty" in first
    assert second.startswith("ElsewhereError: Process 0 stopped (RunError: ")
    assert [p.name for p in taken.iterdir()] == ["thesis.txt"]


@pytest.mark.long
def test_ddp_in_other_cases(tmp_path: Path, tiny_recipe: Make, distance: Distance) -> None:
    alone, jobs = both_ways([name for name in CASES if name not in QUICK], tiny_recipe, tmp_path)
    launch([*jobs.values()], 2, timeout=300)
    assert_same_runs(jobs, alone, distance, "MULTI_CPU")


@pytest.mark.long
def test_the_baselines_do_what_one_process_does(
    tmp_path: Path, tiny_recipe: Make, tiny_model_folder: Path, reward_folder: Path, distance: Distance
) -> None:
    def recipe(processes: int) -> Recipe:
        # 24 pairs are three steps without a row left over: TRL's trainers would fill up with rows from the beginning.
        training = {**SGD, "max_steps": 3, "per_device_train_batch_size": 8 // processes}
        made = tiny_recipe(24, self_training={"lora": None, "training": training}, jsft={"training": training})
        small = {"rso": {"candidates": 4, "accepted": 4}, "raft": {"rounds": 2, "candidates": 2}}
        small |= {"rest": {"rounds": 1, "candidates": 2}}
        sections = {**small, "start": str(tiny_model_folder), "reward": str(reward_folder)}
        return Recipe.model_validate({**made.model_dump(), "baselines": sections})

    alone = {method: run_baseline(method, recipe(1), tmp_path / f"{method}-1") for method in METHODS}
    jobs = {method: job(method, recipe(2), tmp_path / f"{method}-2") for method in METHODS}
    launch([*jobs.values()], 2, timeout=400)
    for method, two in jobs.items():
        assert outcomes(two, 2) == ["done", "done"], method
        folder = Path(two["folder"])
        if method == "reward-model":
            weights = [load_file(run / "final" / "model.safetensors") for run in (folder, alone[method].path)]
            assert max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[1]) < 2e-6
            continue
        trained = load_model(folder).model
        if method not in ("rlhf", "rest"):  # whose samples differ, or whose rows do not come out even
            assert distance(trained, load_model(alone[method].path).model) < 2e-6, method
        assert distance(trained, load_model(tiny_model_folder).model) > 1e-4, method


@pytest.mark.long
def test_fsdp2_does_what_one_process_does(tmp_path: Path, tiny_recipe: Make, distance: Distance) -> None:
    names = ["jsft, LoRA", "self-training", "LoRA, replay", "one prompt"]
    alone, jobs = both_ways(names, tiny_recipe, tmp_path, use_cpu=False)
    launch([*jobs.values()], 2, "fsdp2", timeout=300)
    assert_same_runs(jobs, alone, distance, "FSDP")


@pytest.mark.long
@pytest.mark.parametrize("layout", ["fsdp2", "zero2", "zero3"])
def test_a_run_that_is_cut_off_ends_as_one_that_is_not(layout: str, tmp_path: Path, tiny_recipe: Make) -> None:
    if layout != "fsdp2":
        pytest.importorskip("deepspeed", reason=DEEPSPEED)
    settings = {"self-training": {}, "LoRA, replay": {"learning_rate": 1e-2}}
    jobs = []
    for name, more in settings.items():
        training = {"max_steps": 4, "optim": "adamw_torch", "lr_scheduler_type": "linear", "use_cpu": False, **more}
        recipe = CASES[name].recipe(tiny_recipe, 2, **training)
        whole, cut = (job(CASES[name].stage, recipe, tmp_path / f"{name} {how}") for how in ("whole", "cut"))
        jobs += [whole, {**cut, "cut_after": 2}, {**cut, "resume": True}]
    launch(jobs, 2, layout, timeout=300)
    for whole, _, resumed in zip(*[iter(jobs)] * 3, strict=True):
        assert outcomes(resumed, 2) == ["done", "done"]
        folders = [Path(each["folder"]) for each in (whole, resumed)]
        expected, found = ([{k: v for k, v in row.items() if k not in OWN} for row in metrics(f)[:-1]] for f in folders)
        assert found == expected
        weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in folders]
        assert weights[0] == weights[1]


@pytest.mark.long
@pytest.mark.parametrize("layout", ["zero2", "zero3"])
def test_deepspeed_does_what_one_process_does(
    layout: str, tmp_path: Path, tiny_recipe: Make, distance: Distance
) -> None:
    pytest.importorskip("deepspeed", reason=DEEPSPEED)
    names = ["jsft, LoRA", "self-training", "LoRA, replay", "one prompt"]
    alone, jobs = both_ways(names, tiny_recipe, tmp_path, use_cpu=False)
    launch([*jobs.values()], 2, layout, timeout=300)
    assert_same_runs(jobs, alone, distance, "DEEPSPEED")


@pytest.mark.parametrize(
    "layout", [pytest.param("ddp", marks=pytest.mark.slow), pytest.param("fsdp2", marks=pytest.mark.long)]
)
def test_two_processes_share_the_servers_that_sample(
    layout: str, tmp_path: Path, tiny_recipe: Make, tiny_model_folder: Path, world_chat: ChatEncoder, distance: Distance
) -> None:
    start = load_model(tiny_model_folder, dtype="float32").model
    with served_models(start, world_chat) as serve, pytest.MonkeyPatch.context() as patch:
        servers = [serve(takes_adapters=True) for _ in range(2)]
        section = {"engine": "openai", "servers": {"url": [s.url for s in servers]}, "lora": LORA}
        for behind in (0, 1):
            rollout = {"top_p": 1.0, "max_new_tokens": 8, "async": behind}
            patch.setitem(
                CASES, f"served {behind}",
                Case("train", 20, {**section, "rollout": rollout}, {"max_steps": 4, "learning_rate": 0.5}),
            )  # fmt: skip
        more = {"use_cpu": False} if layout == "fsdp2" else {}
        alone, jobs = both_ways(["served 0", "served 1"], tiny_recipe, tmp_path, **more)
        one = [len(server.loaded) for server in servers]
        launch([*jobs.values()], 2, layout, timeout=300)
    assert_same_runs(jobs, alone, distance, "FSDP" if layout == "fsdp2" else "MULTI_CPU")
    for server, before in zip(servers, one, strict=True):
        assert len(server.loaded) == 2 * before == 16  # each adapter once, for both processes
        assert len(set(server.loaded)) == 16
        assert server.adapters == {}
