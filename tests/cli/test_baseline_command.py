"""`selfjudge baseline`: the road of the command line, and what is refused."""

from __future__ import annotations

import json

import pytest

from conftest import TINY, read
from selfjudge.baselines.run import METHODS
from selfjudge.engines.load import load_model

FEW = (
    *TINY,
    "--set", "baselines.rso.candidates=4",
    "--set", "baselines.rso.accepted=2",
    "--set", "jsft.training.disable_tqdm=true",
    "--set", "self_training.training.disable_tqdm=true",
)  # fmt: skip


def baseline(run, method, *extra):
    return run("baseline", method, "--recipe", "demo", *FEW, *extra)


def refused(result, *words: str) -> None:
    assert result.code == 2, result.out
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err


def test_each_step_finds_the_one_before(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for method in ("sft", "reward-model", "rso"):
        result = baseline(run, method)
        assert result.code == 0, result.err
        info = json.loads((tmp_path / "runs" / "demo" / method / "run.json").read_text())
        assert (info["stage"], info["status"], info["steps"]) == (method, "finished", 4)
        assert info["trl"]
        assert run("report", f"runs/demo/{method}").code == 0
    assert (info["start"], info["reward"]) == ("runs/demo/sft", "runs/demo/reward-model")
    held_out = json.loads((tmp_path / "runs/demo/reward-model/run.json").read_text())["held_out"]
    assert set(held_out) == {"pairs", "prompts", "accuracy", "longer_wins"}
    assert held_out["pairs"] == held_out["accuracy"]["n"] >= held_out["prompts"] > 0
    assert load_model("runs/demo/rso").model
    assert read(tmp_path / "runs/demo/rso/metrics.jsonl")
    refused(baseline(run, "sft"), "runs/demo/sft", "--output-dir")
    refused(baseline(run, "sft", "--resume"), "finished")


@pytest.mark.parametrize("method", [m for m in METHODS if m != "sft"])
def test_a_missing_step_is_named(run, tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    needed = (
        ("selfjudge jsft", "self_training.start")
        if method.startswith("off")
        else ("selfjudge baseline sft", "baselines.start")
    )
    refused(baseline(run, method), *needed)
    assert not list(tmp_path.iterdir())


def test_a_missing_reward_model_is_named(run, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for method in ("rlhf", "rso", "raft", "rest"):
        refused(
            baseline(run, method, "--set", f"baselines.start={runs / 'jsft'}"),
            "selfjudge baseline reward-model",
            "baselines.reward",
        )
        refused(
            baseline(
                run, method, "--set", f"baselines.start={runs / 'jsft'}", "--set", f"baselines.reward={runs / 'jsft'}"
            ),
            "no reward model",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "setting", "words"),
    [
        ("ppo", "seed=0", ("ppo", "rlhf")),
        ("dpo", "baselines.dop.beta=1", ("baselines.dop", "dpo")),
        ("dpo", "baselines.dpo.loss=kto", ("baselines.dpo.loss", "kto")),
        ("dpo", "baselines.dpo.training.bta=1", ("baselines.dpo.training.bta", "beta")),
        ("dpo", "baselines.dpo.training.beta=1", ("baselines.dpo.training.beta", "run itself")),
        ("rlhf", "baselines.rlhf.training.temperature=1", ("baselines.rlhf.training.temperature", "run itself")),
        ("sft", "baselines.sft.training.max_length=9", ("baselines.sft.training.max_length", "run itself")),
        ("rest", "baselines.rest.thresholds=[0.5, 0.2]", ("baselines.rest.thresholds", "larger")),
        ("dpo", "baselines.start=builtin:world", ("baselines.start", "random weights")),
        ("rso", "baselines.rso.accepted=3", ("baselines.rso.accepted", "3")),
    ],
)
def test_a_bad_setting(run, tmp_path, method, setting, words):
    refused(baseline(run, method, "--output-dir", tmp_path / "run", "--set", setting), *words)
    assert not (tmp_path / "run").exists()


def test_without_trl_the_command_to_install_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("selfjudge.baselines.run.find_spec", lambda name: None)
    refused(baseline(run, "sft", "--output-dir", tmp_path / "run"), "pip install 'selfjudge[baselines]'")
    assert not (tmp_path / "run").exists()
