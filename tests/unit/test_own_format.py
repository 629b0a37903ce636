"""A format that is the user's function: what it may give, what is checked, and what is said where it fails."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import selfjudge
from selfjudge.data.columns import Unused
from selfjudge.data.formats import Dropped, Reject
from selfjudge.data.sources import load_preferences
from selfjudge.data.store import Cache
from selfjudge.errors import DataError
from selfjudge.records import Message, PreferenceRecord

ROW = {"ask": "Sky?", "good": "Blue.", "bad": "Green.", "team": "north"}


def simple(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["ask"], "chosen": row["good"], "rejected": row["bad"]}


def file(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refusal(tmp_path: Path, function: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_preferences(file(tmp_path, ROW), format=function, **options)
    return str(caught.value)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the module ``my_votes`` into the current folder, in place of an earlier one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> None:
        Path("my_votes.py").write_text(source)
        sys.modules.pop("my_votes", None)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("my_votes", None)


VOTES = """
from selfjudge import Reject

def parse(row):
    if row["good"] == row["bad"]:
        raise Reject("no winner")
    return {"prompt": row["ask"], "chosen": row["good"], "rejected": row["bad"]}

a_number = 3
"""


def test_a_function_is_named_by_its_module_in_the_current_folder(tmp_path: Path, module: Callable[[str], None]) -> None:
    module(VOTES)
    loaded = load_preferences(file(tmp_path, ROW, {**ROW, "good": "Green."}), format="my_votes:parse")
    (record,) = loaded.records
    assert (record.id, record.source, record.prompt) == ("own-0", "own", (Message(role="user", content="Sky?"),))
    assert (record.chosen, record.rejected, record.principle, record.strength) == ("Blue.", "Green.", "overall", None)
    assert (loaded.format, loaded.rows, loaded.reasons()) == ("my_votes:parse", 2, {"no winner": 1})
    assert loaded.unused == (Unused("team", 1, "north"),)
    assert selfjudge.Reject is Reject


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (VOTES, "my_votes:parses", "my_votes has no 'parses'; name one of its functions (parse)."),
        (VOTES, "my_votes:a_number", "my_votes has 'a_number', which is not a function; name one of its functions"),
        (VOTES, "no_such_module_here:parse", "there is no module no_such_module_here in this folder"),
        (VOTES, "no_such_package.votes:parse", "or run the command where no_such_package.py is."),
        (
            "import no_such_library",
            "my_votes:parse",
            "cannot be imported (ModuleNotFoundError: No module named 'no_such",
        ),
        ("def parse(row:\n", "my_votes:parse", "cannot be imported (SyntaxError: "),
        (VOTES, "subprocess:run", "subprocess is an installed package, and only functions of your own modules can be"),
        (VOTES, "pydantic.main:BaseModel", "pydantic is an installed package, and only functions of your own"),
        (VOTES, "selfjudge.data.io:write_json", "selfjudge is an installed package, and only functions of your own"),
        ("raise SystemExit(3)", "my_votes:parse", "cannot be imported (SystemExit: 3); correct the module."),
    ],
)
def test_a_function_that_is_not_there(
    tmp_path: Path, module: Callable[[str], None], source: str, name: str, message: str
) -> None:
    module(source)
    told = refusal(tmp_path, name)
    assert told.startswith(f"format {name}: ")
    assert message in told
    assert "\n" not in told


def test_several_pairs_as_mappings_and_as_records(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, Message(role="user", content="Sky?")]

    def many(row: dict[str, Any]) -> Iterator[Any]:
        texts = {"chosen": row["good"], "rejected": row["bad"]}
        yield {"prompt": prompt, **texts, "principle": "honesty", "strength": 0.75, "chosen_rationale": "It is."}
        yield {"prompt": prompt, "chosen": " ", "rejected": "x"}
        yield {"prompt": "Sky?", **texts, "id": 12, "source": "polls"}
        yield PreferenceRecord(id="r", prompt=(Message(role="user", content="Sea?"),), **texts, source="mine")
        yield {"prompt": "Sky?", **texts}

    loaded = load_preferences(file(tmp_path, ROW), format=many)
    first, second, third, fourth = loaded.records
    assert [record.id for record in loaded.records] == ["own-0", "12", "r", "own-0:5"]
    assert [record.source for record in loaded.records] == ["own", "polls", "mine", "own"]
    assert [message.content for message in first.prompt] == ["Be brief.", "Sky?"]
    assert (first.principle, first.strength, first.chosen_rationale) == ("honesty", 0.75, "It is.")
    assert (second.principle, second.strength, third.prompt[0].content) == ("overall", None, "Sea?")
    assert (fourth.chosen, fourth.rejected) == ("Blue.", "Green.")
    assert list(loaded.dropped) == [Dropped("own-0", 1, "empty chosen response")]


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ({"chosen": "Green."}, "identical responses"),
        ({"chosen": None}, "no chosen"),
        ({"rejected": 3}, "rejected is not text"),
        ({"prompt": " "}, "empty prompt"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": [{"role": "user", "content": "a"}] * 2}, "turns do not alternate between user and assistant"),
        ({"strength": 3}, "not a valid record (strength: Input should be less than or equal to 1)"),
        ({"principle": "\ud800"}, "principle is not valid Unicode"),
    ],
)
def test_the_checks_of_every_format_hold(tmp_path: Path, pair: dict[str, Any], reason: str) -> None:
    path = file(tmp_path, ROW, {**ROW, "odd": True})
    loaded = load_preferences(path, format=lambda row: {**simple(row), **(pair if row.get("odd") else {})})
    assert (len(loaded.records), loaded.reasons()) == (1, {reason: 1})


@pytest.mark.parametrize("nothing", [None, [], iter(())])
def test_a_row_of_which_nothing_is_given_is_dropped_under_a_reason(tmp_path: Path, nothing: Any) -> None:
    path = file(tmp_path, ROW, {**ROW, "odd": True})
    loaded = load_preferences(path, format=lambda row: nothing if row.get("odd") else simple(row))
    assert list(loaded.dropped) == [Dropped("own-1", 2, "the function gave no pair")]


def test_a_field_of_a_message_that_is_left_out_is_listed(tmp_path: Path) -> None:
    def tagged(row: dict[str, Any]) -> dict[str, Any]:
        return {**simple(row), "prompt": [{"role": "user", "content": row["ask"], "tag": row["team"]}]}

    assert load_preferences(file(tmp_path, ROW), format=tagged).unused == (Unused("prompt[].tag", 1, "north"),)


@pytest.mark.parametrize(
    ("read", "unused"),
    [
        (lambda row: row["team"], ()),
        (lambda row: row.get("team"), ()),
        (lambda row: row.pop("team"), ()),
        (lambda row: dict(row), ()),
        (lambda row: {**row}, ()),
        (lambda row: row.copy(), ()),
        (lambda row: json.dumps(row), ()),
        (lambda row: list(row.values()), ()),
        (lambda row: [row[name] for name in row], ()),
        (lambda row: "team" in row, ("team",)),
        (lambda row: row.keys(), ("team",)),
    ],
)
def test_columns_that_the_function_does_not_read_are_listed(
    tmp_path: Path, read: Callable[[dict[str, Any]], Any], unused: tuple[str, ...]
) -> None:
    def parse(row: dict[str, Any]) -> dict[str, Any]:
        read(row)
        return {"prompt": row.get("ask", "Sky?"), "chosen": row["good"], "rejected": row["bad"]}

    loaded = load_preferences(file(tmp_path, ROW), format=parse)
    assert tuple(column.name for column in loaded.unused) == unused


def test_an_error_of_the_function_names_file_row_and_place(tmp_path: Path) -> None:
    def fails(row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": row["question"]}

    told = refusal(tmp_path, fails)
    line = fails.__code__.co_firstlineno + 1
    assert told.startswith(f"{tmp_path}/own.jsonl, line 1: ")
    assert f"fails raised KeyError: 'question' at line {line} of test_own_format.py; correct the function" in told

    def within(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield simple(row)
        json.loads("[")

    told = refusal(tmp_path, within)
    line = within.__code__.co_firstlineno + 2
    assert f"raised JSONDecodeError: Expecting value: line 1 column 2 (char 1) at line {line} of" in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "gave a string; return mappings with prompt, chosen, rejected."),
        (3, "gave a number; return mappings"),
        ([3], "gave a number; return mappings"),
        ({"prompt": "a", "chosen": "b"}, "gave a pair with no 'rejected'; the keys are id, prompt,"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "weight": 1}, "gave a pair with the unknown key 'weight';"),
    ],
)
def test_what_is_no_pair_is_an_error(tmp_path: Path, given: Any, message: str) -> None:
    told = refusal(tmp_path, lambda row: given)
    assert told.startswith(f"{tmp_path}/own.jsonl, line 1: ")
    assert message in told


def test_a_function_does_not_go_with_columns_and_must_be_one(tmp_path: Path) -> None:
    assert "leave out `columns`" in refusal(tmp_path, simple, columns={"prompt": "ask"})
    assert "a format is a name or a function, not a number" in refusal(tmp_path, 3)
    assert "a function of your own is named module:function" in refusal(tmp_path, "my_votes.parse")


def test_records_are_found_again_until_the_module_changes(tmp_path: Path, module: Callable[[str], None]) -> None:
    path, cache = file(tmp_path, ROW), Cache(tmp_path / "cache")

    def load() -> tuple[str, int]:
        (record,) = load_preferences(path, format="my_votes:parse", cache=cache).records
        return record.chosen, len(list((tmp_path / "cache").iterdir()))

    module(VOTES)
    assert load() == load() == ("Blue.", 1)
    module(VOTES.replace('"chosen": row["good"]', '"chosen": row["good"].upper()'))
    assert load() == load() == ("BLUE.", 2)


def test_a_function_of_unknown_code_is_called_each_time(tmp_path: Path) -> None:
    path, cache = file(tmp_path, ROW), Cache(tmp_path / "cache")
    for text in ("One.", "Two."):
        loaded = load_preferences(path, format=lambda row, text=text: {**simple(row), "chosen": text}, cache=cache)
        assert loaded.records[0].chosen == text
    assert not (tmp_path / "cache").exists()
    for _ in range(2):
        load_preferences(path, format=simple, cache=cache)  # a function of a file's own level is known
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_command_line_takes_a_function(tmp_path: Path, module: Callable[[str], None]) -> None:
    module(VOTES)
    file(tmp_path, ROW)
    command = [sys.executable, "-c", "from selfjudge.cli.main import main; main()", "data", "prepare", "own.jsonl"]
    done = subprocess.run(
        [*command, "--output", "out.jsonl", "--format", "my_votes:parse"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("out.jsonl").read_text())["chosen"] == "Blue."
    done = subprocess.run([*command, "--output", "b.jsonl", "--format", "my_votes:no"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not Path("b.jsonl").exists()
