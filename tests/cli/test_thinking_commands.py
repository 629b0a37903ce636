"""``--thinking``: the commands that sample a policy, on a tiny model that thinks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx2 as httpx
import pytest
from serve_process import serving
from served_model import ServedModel
from test_bad_input import refused
from thinking_model import CLOSE, save_thinking_model, thinking_model, thinking_tokenizer

from conftest import read
from selfjudge.templates.chat import ChatEncoder
from selfjudge.world.truth import utility

ON = ("--thinking", "on")
PROMPT = "Name two things of the sea for Ada."


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_thinking_model(tmp_path_factory.mktemp("thinking") / "model")


SETTINGS = ("--template", "world", "--n", "8", "--max-new-tokens", "12", "--seed", "2")


def sample(run, model, source, output, *extra):
    result = run("sample", "--model", model, "--input", source, "--output", output, *SETTINGS, *extra)
    assert result.code == 0, result.err
    return read(output)


def test_sample_judges_the_answers_and_keeps_the_thoughts(run, thinker, write, tmp_path):
    source = write("prompts.jsonl", [{"prompt": PROMPT}, {"prompt": PROMPT, "candidates": ["oak", "tide"]}])
    drawn, given = sample(run, thinker, source, tmp_path / "on.jsonl", *ON)
    unanswered = drawn["candidates"].count("")
    said = run("sample", "--model", thinker, "--input", source, "--output", tmp_path / "again.jsonl", *SETTINGS, *ON)
    assert f"before an answer {unanswered}: raise --max-new-tokens" in " ".join(said.out.split())
    thoughts = drawn["candidates_reasoning_content"]
    assert len(thoughts) == len(drawn["candidates"]) == 8
    assert any(thoughts)
    assert all(CLOSE not in (thought or "") for thought in thoughts)
    assert drawn["reasoning_content"] == thoughts[drawn["winner_index"]]
    assert drawn["winner"] == drawn["candidates"][drawn["winner_index"]] != ""
    played = {side for match in drawn["matches"] for side in (match["a"], match["b"])}
    assert 1 < len(played) < 8
    assert len(drawn["matches"]) == len(played) - 1
    assert {text for i, text in enumerate(drawn["candidates"]) if i not in played} == {""}  # thoughts that never ended
    assert [key for key in given if "reasoning" in key] == []
    assert list(given) == ["id", "prompt", "winner", "winner_index", "candidates", "matches"]


def test_sample_says_nothing_of_thoughts_where_nobody_thinks(run, thinker, write, tmp_path):
    source = write("prompts.jsonl", [{"prompt": PROMPT}])
    (answer,) = sample(run, thinker, source, tmp_path / "off.jsonl")
    assert list(answer) == ["id", "prompt", "winner", "winner_index", "candidates", "matches"]
    assert len(answer["matches"]) == 7
    assert sample(run, thinker, source, tmp_path / "again.jsonl", "--thinking", "off") == [answer]


def test_sample_with_a_server_thinks_there(run, thinker, write, tmp_path):
    chat = ChatEncoder(thinking_tokenizer(), thinking="on")
    source = write("prompts.jsonl", [{"prompt": PROMPT}])
    with ServedModel(thinking_model(chat.tokenizer), chat).running() as served:
        (answer,) = sample(run, thinker, source, tmp_path / "on.jsonl", *ON, "--server", served.url)
    assert any(answer["candidates_reasoning_content"])
    prompts = [r["prompt"] for r in served.requests if r["max_tokens"] > 1]
    assert {chat.decode(prompt[-2:]) for prompt in prompts} == {"<think>\n"}
    judged = [chat.decode(r["prompt"]) for r in served.requests if r["max_tokens"] == 1]
    assert judged
    assert all(prompt.rstrip().endswith(CLOSE) for prompt in judged)  # the judge does not think


def test_evaluations_get_the_text_after_the_thought(run, thinker, tmp_path):
    out, found = tmp_path / "out", tmp_path / "f.json"
    asked = ("--prompts", "builtin:world", "--limit", "8", "--max-new-tokens", "12", *ON, "--json", found)
    result = run("eval", "winrate", "--a", thinker, "--b", thinker, "--evaluator", "world", *asked, "--output", out)
    assert result.code == 0, result.err
    rows = [json.loads((out / f"{side}.json").read_text()) for side in "ab"]
    texts = [row["output"] for side in rows for row in side]
    assert "" in texts  # a thought that never ended
    assert any(texts)
    f = json.loads(found.read_text())
    assert f["sampling"]["thinking"] == "on"
    utilities = [[utility(row["instruction"], row["output"]) for row in side] for side in rows]
    assert (f["value_a"]["value"], f["value_b"]["value"]) == pytest.approx(tuple(sum(u) / 8 for u in utilities))


def test_a_judge_that_evaluates_need_not_think(run, thinker, runs, tmp_path):
    found = tmp_path / "f.json"
    systems = ("--system", f"one={thinker}", "--system", f"two={thinker}")
    asked = ("--prompts", "builtin:world", "--limit", "3", "--max-new-tokens", "8", "--json", found)
    result = run("eval", "ranking", *systems, "--evaluator", f"judge:{runs / 'jsft'}", *asked, *ON)
    assert result.code == 0, result.err
    assert json.loads(found.read_text())["sampling"]["thinking"] == "on"


def test_scaling_samples_with_thoughts(run, thinker, tmp_path):
    found = {}
    for thinking in ("off", "on"):
        output = tmp_path / f"{thinking}.json"
        asked = ("--input", "builtin:world", "--limit", "5", "--n", "1,4", "--max-new-tokens", "12", "--json", output)
        result = run("eval", "scaling", "--model", thinker, "--template", "world", *asked, "--thinking", thinking)
        assert result.code == 0, result.err
        found[thinking] = json.loads(output.read_text())
    assert found["on"]["thinking"] == "on"
    assert found["on"]["quality"] != found["off"]["quality"]


@pytest.mark.parametrize("command", ["sample", "winrate"])
def test_a_model_that_cannot_think_is_refused_with_what_to_do(run, runs, write, tmp_path, command):
    if command == "sample":
        given = ("sample", "--model", runs / "jsft", "--input", write("p.jsonl", [{"prompt": PROMPT}]), "--output", "x")
    else:
        given = ("eval", "winrate", "--a", runs / "jsft", "--b", runs / "jsft", "--evaluator", "world",
                 "--prompts", "builtin:world")  # fmt: skip
    refused(run(*given, *ON), "knows no thoughts", "--thinking off")


def test_commands_that_only_judge_have_no_such_option(run):
    for command in (("judge",), ("eval", "judge"), ("eval", "audit")):
        result = run(*command, "--model", "m", "--input", "i", *ON)
        assert result.code == 2
        assert "--thinking" in result.err


def test_serve_thinks_in_process_and_so_does_the_rival(thinker, tmp_path):
    rival = shutil.copytree(thinker, tmp_path / "rival")
    options = ("--template", "world", "--n", "8", "--max-new-tokens", "12", *ON)
    with serving("--model", thinker, "--rival", rival, *options) as (url, _):
        check_answers(url, str(thinker), str(rival))


def test_serve_thinks_in_front_of_servers_and_so_does_the_rival(thinker):
    chat = ChatEncoder(thinking_tokenizer(), thinking="on")
    options = ("--template", "world", "--n", "8", "--max-new-tokens", "12", *ON)
    with (
        ServedModel(thinking_model(chat.tokenizer), chat).running() as served,
        serving("--model", thinker, "--backend", served.url, "--rival", "second", *options) as (url, _),
    ):
        check_answers(url, "tiny", "second")


def check_answers(url, *names):
    for name in names:
        body = {"model": name, "messages": [{"role": "user", "content": PROMPT}], "seed": 5}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        message = answer.json()["choices"][0]["message"]
        assert message["content"]
        assert CLOSE not in message.get("reasoning_content", "")
