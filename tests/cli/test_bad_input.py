"""Bad input ends in one sentence that says what to do, exit code 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from conftest import TINY
from selfjudge.world.model import CHAT_TEMPLATE, build_model, build_tokenizer

PAIR = {"prompt": "Name a fox.", "response_a": "fox", "response_b": "owl"}


def refused(result, *words: str) -> None:
    assert result.code == 2, result.out
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


def judge(run, model, source, out: Path, *extra):
    return run("judge", "--model", model, "--input", source, "--output", out, *extra)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("jsft.judgement_weight=2", ("jsft.judgement_weight", "judgment_weight")),
        ("jsft.training.learning_rat=1", ("learning_rat", "learning_rate")),
        ("jsft.training.output_dir=x", ("output_dir",)),
        ("self_training.beta=-1", ("self_training.beta", "-1")),
        ("data.sources.3.limit=1", ("--set", "3")),
        ("nonsense", ("section.key=value",)),
        ("templates.set=nowhere", ("nowhere", "general")),
        ("self_training.judge.kind=external", ("judge.url", "judge.model")),
        ("self_training.judge.url=http://localhost:1/v1", ("judge.url", "external")),
        ("self_training.stop.min_judge_agreement=0.9", ("min_judge_agreement", "rounds")),
        (
            "self_training={judge: {kind: dynamic}, engine: vllm, rollout: {async: 1}}",
            ("judge.kind=dynamic", "rollout.async=0"),
        ),
    ],
)
def test_a_bad_setting(run, tmp_path, setting, words):
    refused(run("jsft", "--recipe", "demo", "--output-dir", tmp_path / "run", *TINY, "--set", setting), *words)
    assert not (tmp_path / "run").exists()


def test_a_rule_for_rounds_without_held_out_pairs(run, tmp_path):
    settings = ("self_training.rounds=2", "self_training.stop.min_judge_agreement=0.9", "data.held_out=0")
    options = [option for setting in settings for option in ("--set", setting)]
    result = run("train", "--recipe", "demo", "--output-dir", tmp_path / "run", *TINY, *options)
    refused(result, "min_judge_agreement", "data.held_out")
    assert not (tmp_path / "run").exists()


def test_an_unknown_recipe(run):
    refused(run("jsft", "--recipe", "no-such"), "no-such", "smollm2-mixed")


def test_a_folder_that_holds_another_run(run, runs):
    before = {p: p.stat().st_mtime_ns for p in (runs / "jsft").rglob("*")}
    refused(run("jsft", "--recipe", "demo", "--output-dir", runs / "jsft", *TINY), "not empty", "--output-dir")
    refused(run("jsft", "--recipe", "demo", "--output-dir", runs / "jsft", "--resume", *TINY), "finished")
    refused(run("train", "--recipe", "demo", "--output-dir", runs / "jsft", "--resume", *TINY), "jsft")
    assert before == {p: p.stat().st_mtime_ns for p in (runs / "jsft").rglob("*")}


def test_train_without_a_jsft_model(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run("train", "--recipe", "demo"), "selfjudge jsft", "self_training.start")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([PAIR, '{"prompt": '], ("line 2",)),
        ([{k: v for k, v in PAIR.items() if k != "response_b"}], ("response_b",)),
        ([PAIR | {"prompt": "  "}], ("prompt",)),
        ([PAIR | {"label": "C"}], ("label",)),
        ([], ("row",)),
    ],
    ids=["malformed line", "missing column", "empty prompt", "unknown label", "empty file"],
)
def test_bad_pairs(run, runs, write, tmp_path, rows, words):
    refused(judge(run, runs / "jsft", write("pairs.jsonl", rows), tmp_path / "out.jsonl"), "pairs.jsonl", *words)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_pair_longer_than_the_context(run, runs, write, tmp_path):
    source = write("pairs.jsonl", [PAIR, PAIR | {"response_a": "fox " * 300, "id": "long-one"}])
    refused(judge(run, runs / "jsft", source, tmp_path / "out.jsonl"), "long-one", "256")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_prompt_longer_than_the_context(run, runs, write, tmp_path):
    source = write("prompts.jsonl", [{"prompt": "fox " * 300}])
    refused(run("sample", "--model", runs / "jsft", "--input", source, "--output", tmp_path / "o.jsonl"), "256")


def test_no_candidates(run, runs, write, tmp_path):
    source = write("prompts.jsonl", [{"prompt": "Name a fox.", "candidates": []}])
    refused(run("sample", "--model", runs / "jsft", "--input", source, "--output", tmp_path / "o.jsonl"), "candidates")


def test_n_0_is_an_error(run, runs, write, tmp_path):
    source = write("prompts.jsonl", [{"prompt": "Name a fox."}])
    result = run("sample", "--model", runs / "jsft", "--input", source, "--output", tmp_path / "o.jsonl", "--n", "0")
    assert result.code == 2
    assert "--n" in result.err


@pytest.mark.parametrize("path", ["./no/such/model", "/no/such/model", "missing.gguf"])
def test_a_model_path_that_is_not_there(run, write, tmp_path, path):
    refused(judge(run, path, write("pairs.jsonl", [PAIR]), tmp_path / "out.jsonl"), path)


def test_a_folder_without_a_model(run, write, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(judge(run, tmp_path / "empty", write("pairs.jsonl", [PAIR]), tmp_path / "out.jsonl"), "config.json")


@pytest.mark.parametrize("tokens", [None, "<think>"], ids=["weights are missing", "a token has no embedding"])
def test_a_model_that_is_not_whole(run, write, tmp_path, tokens):
    tokenizer, folder = build_tokenizer(), tmp_path / "model"
    build_model(tokenizer, 0).save_pretrained(folder)
    if tokens:
        tokenizer.add_tokens([tokens])
    else:
        weights = load_file(folder / "model.safetensors")
        weights.pop("model.norm.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    refused(judge(run, folder, write("pairs.jsonl", [PAIR]), tmp_path / "out.jsonl"), tokens or "model.norm.weight")
    assert not (tmp_path / "out.jsonl").exists()
    settings = ("--set", f"model.path={folder}", "--output-dir", tmp_path / "run")
    refused(run("jsft", "--recipe", "demo", *TINY, *settings), "cannot be used")
    assert not (tmp_path / "run").exists()


def test_an_existing_output_is_left_alone(run, runs, write, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    refused(judge(run, runs / "jsft", write("pairs.jsonl", [PAIR]), out), "out.jsonl", "--overwrite")
    assert out.read_text() == "precious"
    assert judge(run, runs / "jsft", write("pairs.jsonl", [PAIR]), out, "--overwrite").code == 0


@pytest.fixture
def bare_model(tmp_path: Path) -> Path:
    """A model whose tokenizer has no chat template."""
    tokenizer = build_tokenizer()
    build_model(tokenizer, 0).save_pretrained(tmp_path / "bare")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    assert AutoTokenizer.from_pretrained(tmp_path / "bare").chat_template is None
    return tmp_path / "bare"


def test_a_tokenizer_without_chat_template(run, bare_model, write, tmp_path):
    source = write("pairs.jsonl", [PAIR])
    refused(judge(run, bare_model, source, tmp_path / "out.jsonl"), "chat template", "--chat-template")
    assert (
        judge(run, bare_model, source, tmp_path / "out.jsonl", "--chat-template", "plain", "--template", "world").code
        == 0
    )


def test_labels_that_are_not_single_tokens(run, write, tmp_path):
    """A tokenizer with one merge, x + A, meets a template whose text before the label ends with x."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*letters, "xA", "<|im_start|>", "<|im_end|>"])}
    core = Tokenizer(BPE(vocab=vocab, merges=[("x", "A")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    build_model(tokenizer, 0).save_pretrained(tmp_path / "merging")
    tokenizer.save_pretrained(tmp_path / "merging")
    (tmp_path / "joined").mkdir()
    template = "[user]\n{context}\n{response_a}\n{response_b}\n[assistant]\n%s{label}\n"
    source, out = write("pairs.jsonl", [PAIR]), tmp_path / "out.jsonl"
    for prefix in ("x", ""):
        (tmp_path / "joined" / "overall.txt").write_text(template % prefix)
        result = judge(run, tmp_path / "merging", source, out, "--template", tmp_path / "joined")
        if prefix:
            refused(result, "single token", "{label}", "merging")
        else:
            assert result.code == 0, result.err


def test_a_template_without_its_placeholder(run, runs, write, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "overall.txt").write_text("[user]\n{context} {response_a}\n[assistant]\n{label}\n")
    source = write("pairs.jsonl", [PAIR])
    result = judge(run, runs / "jsft", source, tmp_path / "out.jsonl", "--template", tmp_path / "broken")
    refused(result, "overall.txt", "{response_b}")


def test_a_folder_that_holds_no_run(run, tmp_path):
    refused(run("report", tmp_path), "run.json")


def test_a_source_that_is_not_there(run):
    refused(run("data", "inspect", "nothing.jsonl"), "nothing.jsonl")
