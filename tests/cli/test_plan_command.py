"""`selfjudge plan` as a user runs it: nothing but a config is there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from test_bad_input import refused
from transformers import LlamaConfig


@pytest.fixture
def seven(tmp_path: Path) -> tuple[str, ...]:
    """The options of a 7B recipe whose model folder holds a config and no weights."""
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
    )
    config.save_pretrained(tmp_path / "seven")
    return ("--recipe", "llama2-7b-hh-helpful", "--set", f"model.path={tmp_path / 'seven'}")


def words(text: str) -> str:
    """The text on one line: the table folds where the terminal ends."""
    return " ".join(text.split())


def test_the_demo_fits_and_needs_no_advice(run):
    result = run("plan", "--recipe", "demo")
    assert result.code == 0, result.err
    out = words(result.out)
    for expected in ("Estimate for demo", "0.6 M parameters", "JSFT (estimate)", "Self-training (estimate)", "Peak",
                     "optimiser", "logits", "generating", "judging", "reference", "for 140 steps"):  # fmt: skip
        assert expected in out
    assert " yes (with" in out
    assert "after one change" not in out


def test_7b_does_not_fit_24_gib_and_the_plan_says_what_would(run, seven):
    result = run("plan", *seven, "--gpu-memory", "24")
    assert result.code == 0, result.err
    out = words(result.out)
    assert "6,738.4 M parameters" in out
    assert "Fits 24.0 GiB no" in out
    assert "were not read" in out
    jsft, self_training = out.split("Self-training (estimate)")
    for part, stage in ((jsft, "jsft"), (self_training, "self_training")):
        assert f"--set {stage}.training.gradient_checkpointing=true" in part
        assert f"--set {stage}.training.per_device_train_batch_size=" in part
        assert f"--set {stage}.training.gradient_accumulation_steps=" in part
        assert "Together, to fit" in part
    assert "--set jsft.lora.r=16" in jsft


def test_what_it_advises_fits(run, seven):
    """The settings of `Together, to fit`, given to the command again."""
    out = words(run("plan", *seven, "--gpu-memory", "24").out)
    together = [part.split("GiB", 1)[1].split() for part in out.split("Together, to fit")[1:]]
    changes: list[str] = []
    for tokens in together:
        while len(tokens) > 1 and tokens[0] == "--set":
            changes += tokens[:2]
            tokens = tokens[2:]
    again = words(run("plan", *seven, *changes, "--gpu-memory", "24").out)
    assert again.count("Fits 24.0 GiB yes") == 2, again


def test_a_named_device_brings_its_memory(run, seven):
    out = words(run("plan", *seven, "--device", "4090", "--records", "1000", "--tokens", "300").out)
    assert "4090 (as --device says); 24.0 GiB" in out
    assert "300 tokens a row" in out
    assert "for 24 steps" in out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--gpu-memory", "0"), ("--gpu-memory", "above 0")),
        (("--gpu-memory", "-3"), ("--gpu-memory", "above 0")),
        (("--gpu-memory", "nan"), ("--gpu-memory", "above 0")),
        (("--device", "abacus"), ("abacus", "h100")),
        (("--set", "jsft.training.learning_rat=1"), ("learning_rat", "learning_rate")),
        (("--set", "self_training.rollout.max_new_tokens=500"), ("max_new_tokens", "prompt")),
        (("--set", "model.path=/no/such/model"), ("/no/such/model", "path")),
        (("--set", "model.path=no-such/model"), ("no-such/model", "could not be loaded")),
        (("--set", "model.path=no-such.gguf"), ("no-such.gguf",)),
    ],
)
def test_bad_input_ends_in_one_sentence(run, options, expected):
    refused(run("plan", "--recipe", "demo", *options), *expected)


def test_nothing_is_written(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("plan", "--recipe", "demo").code == 0
    assert not os.listdir(tmp_path)


def test_help_is_quick():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "selfjudge.cli.main", "plan", "--help"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "--gpu-memory" in shown.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
