"""The command line is a contract: names, fields and exit codes that other tools rely on."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import TINY, read
from selfjudge.templates.template import SETS
from selfjudge.world.people import preference_records, prompts

COMMANDS = (
    (),
    ("demo",),
    ("data",),
    ("data", "inspect"),
    ("data", "prepare"),
    ("data", "anonymize"),
    ("jsft",),
    ("train",),
    ("baseline",),
    ("judge",),
    ("sample",),
    ("serve",),
    ("report",),
    ("eval",),
    ("eval", "judge"),
    ("eval", "winrate"),
    ("eval", "ranking"),
    ("eval", "scaling"),
    ("eval", "audit"),
    ("plan",),
    ("card",),
)


@pytest.fixture(scope="module")
def pairs():
    records = preference_records(12, seed=5)
    rows = []
    for i, r in enumerate(records):
        a, b = (r.chosen, r.rejected) if i % 2 else (r.rejected, r.chosen)
        rows.append(
            {"prompt": r.prompt[0].content, "response_a": a, "response_b": b, "label": "B" if i % 2 == 0 else "A"}
        )
    rows[0]["label"] = "tie"
    rows[1]["id"] = "my-id"
    rows[2]["prompt"] = [{"role": "user", "content": rows[2]["prompt"]}]
    rows[3]["response_b"] = rows[3]["response_a"]
    del rows[4]["label"]
    return rows


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_explains_and_exits_with_0(run, command):
    result = run(*command, "--help")
    assert result.code == 0
    assert "Usage" in result.out


def test_help_answers_in_under_half_a_second():
    # Processor time, not the clock, and the best of three: other work on the machine must not fail the test.
    command = [Path(sys.executable).with_name("selfjudge"), "judge", "--help"]
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5


def test_jsft_writes_a_whole_run_folder(runs):
    info = json.loads((runs / "jsft" / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["steps"] == 4
    assert info["versions"]["torch"]
    assert info["data"]["builtin:world"]
    assert info["held_out"]["accuracy"]["n"] > 0
    recipe = yaml.safe_load((runs / "jsft" / "recipe.yaml").read_text())
    assert recipe["jsft"]["training"]["max_steps"] == 4
    assert read(runs / "jsft" / "metrics.jsonl")[0]["loss"] > 0
    assert (runs / "jsft" / "final" / "model.safetensors").is_file()
    assert not list((runs / "jsft").glob("*.partial"))


def test_train_logs_what_a_user_needs(runs):
    logged = read(runs / "train" / "metrics.jsonl")[0]
    expected = {"loss", "kl", "rewards/margins", "rewards/accuracies", "length/chosen", "length/rejected"}
    expected |= {"rollout/samples_per_second"}
    expected |= {f"rollout/{name}" for name in ("tie_rate", "disagreement_rate", "first_shown_rate", "label_mass")}
    assert expected <= set(logged)
    assert logged["kl"] == 0  # the first step is taken from the reference itself
    assert read(runs / "train" / "rollouts.jsonl")[0]["prompt"]


def test_train_with_lora_leaves_an_adapter_and_a_merged_model_that_agree(runs):
    from selfjudge import load_model

    merged = load_model(runs / "train").model
    adapted = load_model(runs / "jsft", adapter=runs / "train").model
    base = load_model(runs / "jsft").model
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        a, b, c = (m(input_ids=ids).logits for m in (merged, adapted, base))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert (a - c).abs().max() > 1e-4  # the adapter took effect


def test_train_in_rounds(run, runs, pairs, write, tmp_path):
    folder = tmp_path / "rounds"
    settings = ("self_training.rounds=2", "self_training.training.max_steps=2", "self_training.replay=0.1")
    settings = (*settings, f"self_training.start={runs / 'jsft'}")
    options = [option for setting in settings for option in ("--set", setting)]
    result = run("train", "--recipe", "demo", "--output-dir", folder, *TINY, *options)
    assert result.code == 0, result.err
    for word in ("Round 1", "Round 2", "judge right on", "as the former judge on"):
        assert word in result.out
    info = json.loads((folder / "run.json").read_text())
    assert (info["status"], info["steps"], len(info["rounds"])) == ("finished", 4, 2)
    judge = json.loads((folder / "round-2" / "run.json").read_text())["judge"]
    assert {"rate", "low", "high", "n"} == set(judge["accuracy"]) == set(judge["former_agreement"])
    source = write("pairs.jsonl", pairs)
    assert run("judge", "--model", folder, "--input", source, "--output", tmp_path / "v.jsonl").code == 0
    for part in (folder, folder / "round-2"):
        assert run("report", part).code == 0


def test_judge_writes_its_contract(run, runs, pairs, write, tmp_path):
    out, dump = tmp_path / "verdicts.jsonl", tmp_path / "prompts.jsonl"
    result = run("judge", "--model", runs / "jsft", "--input", write("pairs.jsonl", pairs), "--output", out,
                 "--dump-prompts", dump)  # fmt: skip
    assert result.code == 0, result.err
    verdicts = read(out)
    assert [v["id"] for v in verdicts] == ["0", "my-id", *(str(i) for i in range(2, 12))]
    for v in verdicts:
        assert set(v) == {"id", "preferred", "strength", "agree", "label_mass", "p"}
        assert v["preferred"] in ("A", "B", "tie")
        p = v["p"]
        s_a = (p["AB"]["A"] + p["BA"]["B"]) / 2
        s_b = (p["AB"]["B"] + p["BA"]["A"]) / 2
        assert v["strength"] == pytest.approx(s_a / (s_a + s_b))
        assert v["label_mass"] == pytest.approx(s_a + s_b)
        assert v["preferred"] == ("A" if s_a > s_b else "B" if s_b > s_a else "tie")
        assert v["agree"] == ((p["AB"]["A"] > p["AB"]["B"]) == (p["BA"]["B"] > p["BA"]["A"])) or v["preferred"] == "tie"
    assert verdicts[3]["preferred"] == "tie"  # its responses are the same
    assert verdicts[3]["strength"] == 0.5
    for word in ("Accuracy", "the longer wins", "Both orders agree", "Prefers the longer", "Pairs/s"):
        assert word in result.out
    assert "Prefers the response shown first" in result.out
    assert "Prefers response_a, after both orders" in result.out
    prompts = read(dump)
    assert len(prompts) == 2 * len(pairs)
    assert {(p["id"], p["order"], p["principle"]) for p in prompts[:2]} == {
        ("0", "AB", "overall"),
        ("0", "BA", "overall"),
    }


def test_judge_gives_rationales_where_the_templates_have_them(run, runs, pairs, write, tmp_path):
    template = tmp_path / "why"
    template.mkdir()
    text = (SETS / "world" / "overall.txt").read_text()
    (template / "overall.txt").write_text(f"{text.rstrip()}\n\n[rationale]\nA: {{rationale_a}}\nB: {{rationale_b}}\n")
    out = tmp_path / "verdicts.jsonl"
    options = ("--input", write("pairs.jsonl", pairs[:4]), "--output", out, "--rationale-tokens")
    result = run("judge", "--model", runs / "jsft", "--template", template, *options, 4)
    assert result.code == 0, result.err
    for verdict in read(out):
        assert set(verdict["rationales"]) == (set() if verdict["preferred"] == "tie" else {"overall"})
    out.unlink()
    for more, word in (((4,), "[rationale]"), ((999, "--template", template), "lower --rationale-tokens")):
        result = run("judge", "--model", runs / "jsft", *options, *more)
        assert (result.code, word in result.err, out.exists()) == (2, True, False), result.err


def test_judge_agrees_with_a_plain_computation_from_the_dumped_tokens(run, runs, pairs, write, tmp_path):
    """The dumped token ids are all that is needed to repeat a judgment with transformers alone."""
    out, dump = tmp_path / "verdicts.jsonl", tmp_path / "prompts.jsonl"
    run(
        "judge",
        "--model",
        runs / "jsft",
        "--input",
        write("pairs.jsonl", pairs),
        "--output",
        out,
        "--dump-prompts",
        dump,
    )
    model = AutoModelForCausalLM.from_pretrained(runs / "jsft" / "final")
    verdicts = {v["id"]: v for v in read(out)}
    for row in read(dump):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["token_ids"]])).logits[0, -1]
        a, b = logits.softmax(-1)[row["label_ids"]].tolist()
        expected = verdicts[row["id"]]["p"][row["order"]]
        assert (expected["A"], expected["B"]) == pytest.approx((a, b), abs=1e-4)


def test_dumped_prompts_read_as_the_template_says(run, runs, pairs, write, tmp_path):
    dump = tmp_path / "prompts.jsonl"
    run("judge", "--model", runs / "jsft", "--input", write("pairs.jsonl", pairs), "--output", tmp_path / "v.jsonl",
        "--dump-prompts", dump)  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(runs / "jsft" / "final")
    ab, ba = (tokenizer.decode(row["token_ids"]) for row in read(dump)[2:4])
    row = pairs[1]
    body = f"{row['prompt']}\nA: {row['response_a']}\nB: {row['response_b']}\nBetter: A or B?"
    assert ab == f"<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"
    assert f"A: {row['response_b']}\nB: {row['response_a']}\n" in ba
    assert [tokenizer.decode([i]) for i in read(dump)[0]["label_ids"]] == ["A", "B"]


def test_the_adapter_changes_the_verdicts(run, runs, pairs, write, tmp_path):
    source = write("pairs.jsonl", pairs)
    run("judge", "--model", runs / "jsft", "--input", source, "--output", tmp_path / "base.jsonl")
    run(
        "judge",
        "--model",
        runs / "jsft",
        "--adapter",
        runs / "train",
        "--input",
        source,
        "--output",
        tmp_path / "a.jsonl",
    )
    base, adapted = ([v["strength"] for v in read(tmp_path / f"{name}.jsonl")] for name in ("base", "a"))
    assert max(abs(x - y) for x, y in zip(base, adapted, strict=True)) > 1e-5


def test_sample_writes_its_contract_and_repeats_under_a_seed(run, runs, write, tmp_path):
    rows = [{"prompt": p} for p in prompts(3, 1, "results")]
    rows.append({"prompt": rows[0]["prompt"], "candidates": ["bear", "fox", "owl"], "id": "given"})
    source = write("prompts.jsonl", rows)
    command = ("sample", "--model", runs / "jsft", "--input", source, "--n", "5", "--max-new-tokens", "8")
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        result = run(*command, "--output", tmp_path / f"{name}.jsonl", "--seed", str(seed))
        assert result.code == 0, result.err
    one, again, other = (read(tmp_path / f"{name}.jsonl") for name in ("one", "again", "other"))
    assert one == again
    assert one[0]["candidates"] != other[0]["candidates"]
    for answer in one:
        n = len(answer["candidates"])
        assert answer["winner"] == answer["candidates"][answer["winner_index"]]
        assert len(answer["matches"]) == n - 1
        lost = [m["a"] if m["winner"] == m["b"] else m["b"] for m in answer["matches"]]
        assert sorted([*lost, answer["winner_index"]]) == list(range(n))  # everybody but the winner lost exactly once
    assert one[3]["id"] == "given"
    assert one[3]["candidates"] == ["bear", "fox", "owl"]


def test_sample_with_an_adapter_samples_with_it_and_judges_without(run, runs, write, tmp_path):
    prompt = prompts(1, 1, "results")[0]
    source = write("prompts.jsonl", [{"prompt": prompt, "candidates": ["bear and fox", "owl"]}])
    for name, extra in (("base", ()), ("adapter", ("--adapter", runs / "train"))):
        run("sample", "--model", runs / "jsft", *extra, "--input", source, "--output", tmp_path / f"{name}.jsonl")
    base, adapter = (read(tmp_path / f"{name}.jsonl")[0]["matches"][0]["verdict"] for name in ("base", "adapter"))
    assert base["strength"] == pytest.approx(adapter["strength"], abs=1e-7)


def test_data_prepare_writes_records_that_inspect_and_jsft_take(run, write, tmp_path):
    rows = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "I do not know that."} for i in range(5)]
    rows.append({"prompt": "x", "chosen": "same", "rejected": "same"})
    out = tmp_path / "records.jsonl"
    assert run("data", "prepare", write("raw.jsonl", rows), "--output", out).code == 0
    records = read(out)
    assert len(records) == 5
    assert records[0]["prompt"] == [{"role": "user", "content": "What is 0?"}]
    result = run("data", "inspect", out, "--max-length", "64")
    assert result.code == 0
    assert "records" in result.out
    assert "»It is" in result.out
    assert "Response» A«" in result.out


def test_report_is_one_page_without_outside_resources(run, runs):
    result = run("report", runs / "train")
    assert result.code == 0
    page = (runs / "train" / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert "src=" not in page
    assert 'href="http' not in page
    assert "stylesheet" not in page


def test_a_judges_position_bias_is_in_its_run_card_and_report(run, runs, tmp_path):
    found = json.loads((runs / "jsft" / "run.json").read_text())["held_out"]["first_shown_rate"]
    assert 0 <= found["low"] <= found["rate"] <= found["high"] <= 1
    shown = f"{100 * found['rate']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
    card = (runs / "jsft" / "final" / "README.md").read_text()
    assert re.search(rf"prefers the response shown first \| {re.escape(shown)}", card)
    assert run("report", runs / "jsft", "--output", tmp_path / "r.html").code == 0
    assert re.search(rf"first shown rate<.*{re.escape(shown)}", (tmp_path / "r.html").read_text())


def test_a_stopped_run_resumes_to_the_same_weights(run, tmp_path, monkeypatch):
    """Stopped after step 2 of 4 and resumed: the same model as without a stop."""
    from transformers import Trainer

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    command = ("jsft", "--recipe", "demo", *TINY)
    assert run(*command, "--output-dir", whole).code == 0
    step = Trainer.training_step

    def stop_at_step_3(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", stop_at_step_3)
        assert run(*command, "--output-dir", stopped).code == 130
    assert not (stopped / "final").exists()
    assert run(*command, "--output-dir", stopped, "--resume").code == 0
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (whole, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)
