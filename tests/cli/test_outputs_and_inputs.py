"""An output that is one of the inputs is refused, whatever it is called, and stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfjudge.world.people import preference_records

WORLD = ("--model", "builtin:world")
COMMANDS = {
    "judge": ("judge", *WORLD, "--input", "IN", "--output", "OUT"),
    "judge, prompts": ("judge", *WORLD, "--input", "IN", "--output", "else", "--dump-prompts", "OUT"),
    "sample": ("sample", *WORLD, "--input", "IN", "--output", "OUT"),
    "prepare": ("data", "prepare", "IN", "--output", "OUT"),
    "anonymize": ("data", "anonymize", "IN", "--output", "OUT"),
    "anonymize, figures": ("data", "anonymize", "IN", "--output", "else", "--json", "OUT"),
    "eval judge": ("eval", "judge", *WORLD, "--input", "IN", "--json", "OUT"),
    "eval judge, page": ("eval", "judge", *WORLD, "--input", "IN", "--report", "OUT"),
    "eval audit": ("eval", "audit", *WORLD, "--input", "IN", "--json", "OUT"),
    "eval winrate": ("eval", "winrate", "--a", "IN", "--b", "builtin:world", "--prompts", "builtin:world",
                     "--evaluator", "world", "--json", "OUT"),
    "eval winrate, prompts": ("eval", "winrate", "--a", "builtin:world", "--b", "builtin:world", "--prompts", "IN",
                              "--evaluator", "world", "--report", "OUT"),
    "eval ranking": ("eval", "ranking", "--system", "x=IN", "--system", "y=builtin:world", "--prompts",
                     "builtin:world", "--evaluator", "world", "--json", "OUT"),
    "eval scaling": ("eval", "scaling", *WORLD, "--input", "IN", "--json", "OUT"),
    "model check": ("model", "check", "builtin:world", "--chat-template", "IN", "--json", "OUT"),
    "bench": ("bench", "judge", "--shape", "tiny", "--input", "IN", "--json", "OUT"),
}  # fmt: skip


@pytest.fixture
def source(write) -> Path:
    """Pairs that judge, sample and the data commands take."""
    rows = [
        {"prompt": r.prompt[0].content, "response_a": r.chosen, "response_b": r.rejected, "label": "A"}
        for r in preference_records(3, seed=1)
    ]
    return write("in.jsonl", rows)


def command(name: str, source: Path, output: Path) -> list[str]:
    given = {"IN": str(source), "OUT": str(output), "x=IN": f"x={source}", "else": str(source.with_name("else.jsonl"))}
    return [given.get(word, word) for word in COMMANDS[name]]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_is_an_input(run, source: Path, name: str) -> None:
    before = source.read_bytes()
    for more in ((), ("--overwrite",)):
        done = run(*command(name, source, source), *more)
        assert (done.code, done.err) == (
            2,
            f"Error: {source} is one of the inputs: choose another name for the output.\n",
        )
    assert source.read_bytes() == before
    assert [p.name for p in source.parent.iterdir()] == [source.name]


@pytest.mark.parametrize("name", ["judge", "sample", "prepare", "anonymize"])
def test_other_names_of_an_input(run, source: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, folder = source.read_bytes(), source.parent
    (folder / "link.jsonl").symlink_to(source)
    (folder / "folder").symlink_to(folder)
    os.link(source, folder / "hard.jsonl")
    monkeypatch.chdir(folder)
    for other in ("link.jsonl", "hard.jsonl", "folder/in.jsonl", "./in.jsonl", str(folder / "x" / ".." / "in.jsonl")):
        for one, another in ((source, Path(other)), (Path(other), source)):
            if not one.exists():
                continue
            done = run(*command(name, one, another), "--overwrite")
            assert done.code == 2
            assert done.err == f"Error: {another} is one of the inputs: choose another name for the output.\n"
    assert source.read_bytes() == before


def test_an_output_within_a_folder_of_data(run, source: Path) -> None:
    folder = source.parent / "set"
    folder.mkdir()
    source.rename(folder / "train.jsonl")
    done = run("data", "prepare", folder, "--output", folder / "train.jsonl", "--overwrite")
    assert done.err.endswith("train.jsonl is one of the inputs: choose another name for the output.\n")
    assert run("data", "prepare", folder / "train.jsonl", "--output", folder / "records.jsonl").code == 0


def test_outputs_that_are_one_file(run, source: Path) -> None:
    out = source.with_name("out.jsonl")
    for other in (out, source.with_name("out.jsonl.partial")):
        done = run("judge", *WORLD, "--input", source, "--output", out, "--dump-prompts", other, "--overwrite")
        assert done.code == 2
        assert "would be written twice: give each output a name of its own." in done.err
    done = run("eval", "judge", *WORLD, "--input", source, "--json", out, "--report", out)
    assert "would be written twice" in done.err
    assert [p.name for p in source.parent.iterdir()] == [source.name]


def test_an_input_with_the_name_of_a_partial_output(run, source: Path) -> None:
    partial = source.with_name("out.jsonl")
    source = source.rename(source.with_name("out.jsonl.partial"))
    done = run("data", "prepare", source, "--output", source, "--overwrite")
    assert "is one of the inputs" in done.err
    done = run("judge", *WORLD, "--input", source, "--output", partial, "--overwrite")
    assert (done.code, "out.jsonl.partial is one of the inputs" in done.err) == (2, True)


def test_a_report_does_not_replace_what_it_is_drawn_from(run, runs: Path) -> None:
    before = (runs / "jsft" / "run.json").read_bytes()
    done = run("report", runs / "jsft", "--output", runs / "jsft" / "run.json", "--overwrite")
    assert (done.code, "run.json is one of the inputs" in done.err) == (2, True)
    assert (runs / "jsft" / "run.json").read_bytes() == before
    page = runs / "jsft" / "page.html"
    for more in ((), ("--overwrite",)):
        assert run("report", runs / "jsft", "--output", page, *more).code == 0


def test_an_output_that_is_a_folder(run, source: Path) -> None:
    done = run("judge", *WORLD, "--input", source, "--output", source.parent, "--overwrite")
    assert (done.code, done.err) == (2, f"Error: {source.parent} is a folder: name a file to write.\n")
