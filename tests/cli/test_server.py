"""`judge` and `sample` with a served model."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
from served_model import ServedModel

from conftest import read
from selfjudge.templates.chat import ChatEncoder
from selfjudge.world.model import build_model

PAIRS = [
    {"prompt": "Name two things of the sea for Ada.", "response_a": "coral tide", "response_b": "coral oak oak"},
    {"prompt": "Name a fox.", "response_a": "fox", "response_b": "owl", "label": "A"},
    {"prompt": "Name a fox.", "response_a": "fox", "response_b": "fox"},
]
PROMPTS = [
    {"prompt": "Name two things of the sea for Ada.", "candidates": ["coral", "coral tide", "oak"]},
    {"prompt": "Name a fox."},
]


@pytest.fixture
def served(world_chat: ChatEncoder) -> Iterator[ServedModel]:
    """The very model that ``--model builtin:world`` is in process."""
    with ServedModel(build_model(world_chat.tokenizer, seed=0).eval(), world_chat).running() as running:
        yield running


def test_judge_with_a_server_equals_judge_in_process(run, served, write, tmp_path):
    pairs = write("pairs.jsonl", PAIRS)
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert run("judge", "--model", "builtin:world", "--input", pairs, "--output", here).code == 0
    result = run("judge", "--model", "builtin:world", "--server", served.url, "--served-model", "second",
                 "--input", pairs, "--output", there)  # fmt: skip
    assert result.code == 0, result.err
    for a, b in zip(read(here), read(there), strict=True):
        assert (a["id"], a["preferred"], a["agree"]) == (b["id"], b["preferred"], b["agree"])
        for order in ("AB", "BA"):
            assert a["p"][order] == pytest.approx(b["p"][order], rel=1e-5)
    assert {r["model"] for r in served.requests} == {"second"}


def test_sample_with_a_server_draws_and_judges_there(run, served, write, tmp_path):
    prompts = write("prompts.jsonl", PROMPTS)
    options = ("--model", "builtin:world", "--input", prompts, "--n", 3, "--max-new-tokens", 8, "--seed", 4)
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert run("sample", *options, "--output", here).code == 0
    result = run("sample", *options, "--server", served.url, "--output", there)
    assert result.code == 0, result.err
    given, drawn = read(there)
    # The draws differ between engines, what the judge says of given candidates does not.
    assert (given["winner"], given["candidates"]) == (read(here)[0]["winner"], ["coral", "coral tide", "oak"])
    assert len(drawn["candidates"]) == 3
    assert drawn["winner"] == drawn["candidates"][drawn["winner_index"]]
    assert {r["model"] for r in served.requests} == {"tiny"}  # the first that it lists
    assert {r["max_tokens"] for r in served.requests} == {1, 8}


@pytest.mark.parametrize(("command", "rows"), [("judge", PAIRS), ("sample", PROMPTS)])
def test_a_server_that_is_not_there_ends_in_one_sentence(run, write, tmp_path, command, rows):
    output = tmp_path / "out.jsonl"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        result = run(command, "--model", "builtin:world", "--server", url, "--input", write("rows.jsonl", rows),
                     "--output", output)  # fmt: skip
    assert result.code == 2
    assert result.err.startswith(f"Error: The server at {url} cannot be reached")
    assert result.err.count("\n") == 1
    assert not output.exists()


def test_without_the_optional_package_the_sentence_names_it(run, write, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    for name in ("openai_server", "openai_connection"):
        monkeypatch.delitem(sys.modules, f"selfjudge.engines.{name}", raising=False)
    result = run("judge", "--model", "builtin:world", "--server", "http://localhost:1/v1",
                 "--input", write("p.jsonl", PAIRS), "--output", tmp_path / "out.jsonl")  # fmt: skip
    assert result.code == 2
    assert result.err.startswith("Error: Asking a model server needs an optional package")
    assert "selfjudge[openai]" in result.err


def test_a_failure_half_way_leaves_no_output(run, served, write, tmp_path):
    served.failures = [(400, {"error": {"message": "too long"}})]
    output = tmp_path / "out.jsonl"
    result = run("judge", "--model", "builtin:world", "--server", served.url, "--input", write("p.jsonl", PAIRS),
                 "--output", output)  # fmt: skip
    assert result.code == 2
    assert "with 400 (too long)" in result.err.replace("\n", " ")
    assert "Traceback" not in result.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--server", "URL", "--adapter", "x"), "--adapter"),
        (("--served-model", "x"), "--served-model"),
        (("--server", "URL", "--served-model", "other"), "'tiny', 'second'"),
    ],
)
def test_options_that_do_not_go_together(run, served, write, tmp_path, options, word):
    options = [served.url if option == "URL" else option for option in options]
    output = tmp_path / "out.jsonl"
    result = run("judge", "--model", "builtin:world", "--input", write("p.jsonl", PAIRS), "--output", output, *options)
    assert result.code == 2
    assert word in result.err
    assert not output.exists()
