"""`judge` and `sample` that are cut off go on where they stopped, and end in the bytes of an uninterrupted command."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from interrupted import Moment, finish

from selfjudge.cli import resuming
from selfjudge.engines.hf import TransformersEngine
from selfjudge.errors import EngineError
from selfjudge.world.people import preference_records, prompts

ROWS = 4
"""Rows of a batch in these tests."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "BATCH_ROWS", ROWS)


@pytest.fixture
def pairs(write) -> Path:
    """18 pairs. Several have the same id, and one is there twice."""
    rows = [
        {"id": f"p{i % 7}", "prompt": r.prompt[0].content, "response_a": r.chosen, "response_b": r.rejected}
        for i, r in enumerate(preference_records(17, seed=3))
    ]
    return write("pairs.jsonl", [*rows, rows[2]])


@pytest.fixture
def asked(write) -> Path:
    """10 prompts; some bring candidates, and one is there twice."""
    rows: list[dict[str, object]] = [{"id": str(i % 3), "prompt": p} for i, p in enumerate(prompts(9, 1, "results"))]
    rows[1]["candidates"] = rows[6]["candidates"] = ["bear", "fox", "owl"]
    return write("prompts.jsonl", [*rows, rows[0]])


def judging(pairs: Path, output: Path, *extra: object) -> list[str]:
    dump = ("--dump-prompts", output.with_suffix(".dump"))
    command = ("judge", "--model", "builtin:world", "--input", pairs, "--output", output, *dump, *extra)
    return list(map(str, command))


def sampling(asked: Path, output: Path, *extra: object) -> list[str]:
    drawn = ("--n", 3, "--max-new-tokens", 6, "--seed", 5)
    command = ("sample", "--model", "builtin:world", "--input", asked, "--output", output, *drawn, *extra)
    return list(map(str, command))


def left(folder: Path) -> set[str]:
    """The names in a folder but for inputs."""
    return {p.name for p in folder.iterdir()} - {"pairs.jsonl", "prompts.jsonl"}


def stop_after(patch: pytest.MonkeyPatch, calls: int, how: Callable[[], object]) -> None:
    """Has the engine's call number ``calls + 1`` for label probabilities do something else."""
    judged, done = TransformersEngine.label_probabilities, []

    def stopping(self: TransformersEngine, *args: object) -> object:
        done.append(1)
        if len(done) > calls:
            how()
        return judged(self, *args)  # type: ignore[arg-type]

    patch.setattr(TransformersEngine, "label_probabilities", stopping)


def raising(error: BaseException) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("command", "source"), [(judging, "pairs"), (sampling, "asked")])
def test_a_killed_command_goes_on_to_the_same_bytes(
    request: pytest.FixtureRequest, tmp_path: Path, command, source: str, number: signal.Signals, name: str
) -> None:
    rows, counts = request.getfixturevalue(source), tmp_path / "counts.json"
    whole, stopped = tmp_path / "whole" / name, tmp_path / "stopped" / name
    assert finish(command(rows, whole), counts=counts, batch_rows=ROWS) == 0
    operations = json.loads(counts.read_text())["judging"]
    code = finish(command(rows, stopped), Moment("judging", int(0.6 * operations), number), batch_rows=ROWS)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    partial = stopped.with_name(f"{name}.partial")
    assert partial.read_bytes().count(b"\n") % ROWS == 0
    assert partial.stat().st_size
    assert not stopped.exists()
    assert finish(command(rows, stopped, "--resume"), batch_rows=ROWS) == 0
    assert {p.name: p.read_bytes() for p in stopped.parent.iterdir()} == {
        p.name: p.read_bytes() for p in whole.parent.iterdir()
    }
    assert finish(command(rows, stopped, "--resume"), batch_rows=ROWS) == 2  # it is finished


def test_what_is_said_of_an_interruption(run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, there = judging(pairs, tmp_path / "v.jsonl"), tmp_path / "v.jsonl.partial"
    kept = f"8 of 18 rows are in {there}, and --resume goes on from there."
    for how, code, said in (
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, f"Stopped: SIGINT ended the command; {kept}"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, f"Stopped: SIGTERM ended the command; {kept}"),
        (raising(EngineError("The server is gone: start it.")), 2, f"Error: The server is gone: start it; {kept}"),
        (raising(MemoryError()), 2, f"Error: Memory ran out: free some, or take a device with more; {kept}"),
        (raising(OSError(28, "full", "v")), 2, f"Error: v cannot be written (full): make room for it; {kept}"),
    ):
        with monkeypatch.context() as patch:
            stop_after(patch, 2, how)
            done = run(*command, "--overwrite")
        assert (done.code, done.err.splitlines()[-1]) == (code, said)
        assert there.read_text().count("\n") == 8
        assert not (tmp_path / "v.jsonl").exists()


def test_an_interruption_before_the_first_batch_leaves_nothing(
    run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, code, said in (
        (KeyboardInterrupt(), 130, ""),
        (EngineError("It is gone: start it."), 2, "Error: It is gone: start it."),
        (MemoryError(), 2, "Error: Memory ran out: free some, or take a device with more."),
    ):
        with monkeypatch.context() as patch:
            stop_after(patch, 0, raising(error))
            done = run(*judging(pairs, tmp_path / "v.jsonl"))
        assert (done.code, said in done.err) == (code, True)
        assert "--resume" not in done.err
        assert left(tmp_path) == set()


@pytest.fixture
def stopped(run, pairs: Path, tmp_path: Path) -> Path:
    """The output of `judge`, of which there are two batches."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2, raising(KeyboardInterrupt()))
        assert run(*judging(pairs, tmp_path / "v.jsonl")).code == 130
    return tmp_path / "v.jsonl"


def test_a_partial_output_is_neither_replaced_nor_gone_on_with_unasked(run, pairs: Path, stopped: Path) -> None:
    before = {p.name: p.read_bytes() for p in stopped.parent.iterdir()}
    done = run(*judging(pairs, stopped))
    assert done.code == 2
    assert done.err == (
        f"Error: {stopped}.partial is there, from a command that was interrupted: go on with it by --resume, or begin "
        "anew with --overwrite.\n"
    )
    assert run(*judging(pairs, stopped, "--resume", "--overwrite")).code == 2
    assert before == {p.name: p.read_bytes() for p in stopped.parent.iterdir()}
    assert run(*judging(pairs, stopped, "--overwrite")).code == 0
    assert left(stopped.parent) == {"v.jsonl", "v.dump"}


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """Templates that differ from the small world's in a few words."""
    folder = tmp_path / "fork"
    folder.mkdir()
    text = "[user]\n{context}\nA: {response_a}\nB: {response_b}\nBetter?\n\n[assistant]\n{label}\n"
    (folder / "overall.txt").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--template", "fork"), "with another --template, --chat-template or tokenizer"),
        (("--chat-template", "plain"), "with another --template, --chat-template or tokenizer"),
        (("--model", "run"), "with another --model, --adapter or --dtype"),
        (("--input", "fewer"), "with another --input"),
        (("--dump-prompts", "other.dump"), "with --dump-prompts"),
    ],
)
def test_other_settings_are_refused(
    run, runs: Path, write, pairs: Path, fork: Path, stopped: Path, change: tuple[str, str], said: str
) -> None:
    option, value = change
    fewer = write("fewer.jsonl", pairs.read_text().splitlines()[:-1])
    value = {"run": runs / "jsft", "fewer": fewer, "fork": fork}.get(value, value)
    before = {p: p.read_bytes() for p in stopped.parent.glob("v.*")}
    done = run(*judging(pairs, stopped, option, value, "--resume"))
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1
    assert f"{stopped}.partial was begun {said}" in done.err
    assert before == {p: p.read_bytes() for p in stopped.parent.glob("v.*")}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--n", 4, "with --n 3, not 4"),
        ("--seed", 6, "with --seed 5, not 6"),
        ("--temperature", 0.5, "with --temperature 1.0, not 0.5"),
        ("--top-p", 0.5, "with --top-p 0.9, not 0.5"),
        ("--max-new-tokens", 7, "with --max-new-tokens 6, not 7"),
        ("--template", "fork", "with another --template"),
    ],
)
def test_other_settings_of_samples_are_refused(
    run, asked: Path, fork: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: object, said: str
) -> None:
    out = tmp_path / "a.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 4, raising(KeyboardInterrupt()))
        assert run(*sampling(asked, out)).code == 130
    done = run(*sampling(asked, out, option, fork if value == "fork" else value, "--resume"))
    assert done.code == 2
    assert f"was begun {said}: resume with the same, or begin anew with --overwrite." in done.err


def test_batch_size_and_token_budget_may_change(run, pairs: Path, stopped: Path) -> None:
    assert run(*judging(pairs, stopped, "--resume", "--batch-size", 1, "--token-budget", 99)).code == 0
    assert len(stopped.read_text().splitlines()) == 18


def test_a_torn_line_is_cut_off(run, pairs: Path, stopped: Path, tmp_path: Path) -> None:
    assert run(*judging(pairs, tmp_path / "whole.jsonl")).code == 0
    partial = stopped.with_name("v.jsonl.partial")
    for damage in (lambda rows: rows + b'{"id": "p', lambda rows: rows[:-7]):
        partial.write_bytes(damage(partial.read_bytes()))
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 1, raising(KeyboardInterrupt()))
            assert run(*judging(pairs, stopped, "--resume")).code == 130
    done = run(*judging(pairs, stopped, "--resume"))
    assert done.code == 0
    for name in ("jsonl", "dump"):
        assert (tmp_path / f"v.{name}").read_bytes() == (tmp_path / f"whole.{name}").read_bytes()


def test_the_summary_of_a_resumed_command_is_that_of_the_whole(run, pairs: Path, stopped: Path, tmp_path: Path) -> None:
    whole = run(*judging(pairs, tmp_path / "whole.jsonl")).out.splitlines()
    resumed = run(*judging(pairs, stopped, "--resume")).out.splitlines()
    assert resumed[:-1] == whole[:-1]
    assert resumed[-1].startswith("Pairs/s")


def test_resume_with_nothing_there_begins(run, pairs: Path, tmp_path: Path) -> None:
    assert run(*judging(pairs, tmp_path / "v.jsonl", "--resume")).code == 0
    done = run(*judging(pairs, tmp_path / "v.jsonl", "--resume"))
    assert (done.code, done.err) == (2, f"Error: {tmp_path / 'v.jsonl'} is finished: there is nothing to resume.\n")


def test_an_output_to_replace_stays_until_the_new_one_is_whole(
    run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v.jsonl"
    out.write_text("mine\n")
    with monkeypatch.context() as patch:
        stop_after(patch, 2, raising(KeyboardInterrupt()))
        assert run(*judging(pairs, out, "--overwrite")).code == 130
    assert out.read_text() == "mine\n"
    assert run(*judging(pairs, out, "--resume")).code == 0
    assert len(out.read_text().splitlines()) == 18


def test_rationales_are_resumed(run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "why"
    template.mkdir()
    text = "[user]\n{context}\nA: {response_a}\nB: {response_b}\nBetter: A or B?\n\n[assistant]\n{label}\n\n"
    (template / "overall.txt").write_text(f"{text}[rationale]\nA: {{rationale_a}}\nB: {{rationale_b}}\n")
    more = ("--template", template, "--rationale-tokens", 4)
    assert run(*judging(pairs, tmp_path / "whole.jsonl", *more)).code == 0
    out = tmp_path / "v.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 2, raising(KeyboardInterrupt()))
        assert run(*judging(pairs, out, *more)).code == 130
    done = run(*judging(pairs, out, "--template", template, "--resume"))
    assert f"{out}.partial was begun with --rationale-tokens 4, which is left out now" in done.err
    assert run(*judging(pairs, out, *more, "--resume")).code == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_the_date_of_the_beginning_stays(run, pairs: Path, stopped: Path) -> None:
    journal = stopped.with_name("v.jsonl.partial.journal")
    head, *rest = journal.read_text().splitlines(keepends=True)
    journal.write_text(json.dumps(json.loads(head) | {"date": "2024-02-29"}) + "\n" + "".join(rest))
    dates = []
    with pytest.MonkeyPatch.context() as patch:
        from selfjudge.cli.engines import EngineOptions

        opened = EngineOptions.open
        patch.setattr(
            EngineOptions, "open", lambda self, model, today: dates.append(today) or opened(self, model, today)
        )
        assert run(*judging(pairs, stopped, "--resume")).code == 0
    assert [day.isoformat() for day in dates] == ["2024-02-29"]
