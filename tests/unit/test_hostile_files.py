"""Files that would exhaust memory, run something, or lead out of their folder."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from score_server import ScoreEngine, app_on
from transformers import PreTrainedTokenizerFast

from selfjudge.data import io
from selfjudge.data.candidates import load_candidates
from selfjudge.data.raw import read_rows
from selfjudge.data.sources import load_preferences
from selfjudge.engines.load import resolve_model
from selfjudge.errors import DataError, ModelError, RecipeError, TemplateError
from selfjudge.recipes.load import changed, dump_recipe, load_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.chat_files import chat_template_text
from selfjudge.templates.template import load_templates, parse_template

ROW = {"prompt": "Name a fox.", "chosen": "fox", "rejected": "owl"}


@pytest.mark.parametrize(
    ("name", "first", "row", "last"),
    [
        ("d.jsonl.gz", b"", b"{}\n", b""),
        ("d.ndjson.gz", b"", b"{}\n", b""),
        ("d.json.gz", b"[{}", b",{}", b"]"),
        ("d.csv.gz", b"a\n", b"b\n", b""),
        ("d.tsv.gz", b"a\n", b"b\n", b""),
    ],
)
def test_a_gzip_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: bytes, row: bytes, last: bytes
) -> None:
    monkeypatch.setattr(io, "MAX_LINE", 10_000)
    path = tmp_path / name
    path.write_bytes(gzip.compress(first + row * 500_000 + last))  # packed to about a thousandth
    with pytest.raises(DataError, match=r"/d\.\w+\.gz(, after line \d+)?: unpacks to more than 200 times its size"):
        list(read_rows(path))
    # Little data may be packed as much as it will.
    path.write_bytes(gzip.compress(first + row * 3_000 + last))
    assert len(list(read_rows(path))) in (3_000, 3_001)


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "MAX_LINE", 1_000)
    row = json.dumps(ROW | {"chosen": "x" * 900})
    for name, pack in (("d.jsonl", bytes), ("d.jsonl.gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(pack(f"{row}\n{row}".encode()))
        assert len(list(read_rows(path))) == 2
        path.write_bytes(pack(f"{row}\n{row[:-2]}{'x' * 100}\n".encode()))
        with pytest.raises(DataError, match=r", line 2: more than 1,000 characters"):
            list(read_rows(path))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ROW | {"score_chosen": 10**400, "score_rejected": 1.5}, None),
        (ROW | {"score_chosen": -(10**400), "score_rejected": True}, None),
        ({"instruction": "q", "completions": [{"response": r, "annotations": {"honesty": {"Rating": 10**400}}}
          for r in "ab"]}, "fewer than two rated"),
    ],
    ids=["a long score", "a long and a boolean score", "a long rating"],
)  # fmt: skip
def test_numbers_that_no_float_holds(tmp_path: Path, row: dict[str, object], reason: str | None) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    if reason is None:
        assert load_preferences(tmp_path / "d.jsonl").records[0].chosen == "fox"
    else:
        with pytest.raises(DataError, match=reason):
            load_preferences(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    "row",
    [{"prompt": "q", "candidates": ["a"], "scores": [10**400]},
     {"prompt": "q", "candidates": ["a"], "scores": [float("nan")]},
     {"prompt": "q", "best": "a", "losers": []}, {"prompt": "q", "best": {"response": "a"}, "losers": [3]}],
    ids=["a long score", "no number", "best is a text", "a loser is a number"],
)  # fmt: skip
def test_candidates_that_are_none(tmp_path: Path, row: dict[str, object]) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"d\.jsonl, line 1: "):
        load_candidates(tmp_path / "d.jsonl")


def dataset(folder: Path, card: str, **files: str) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text(f"---\n{card}\n---\n")
    for name, content in files.items():
        (folder / f"{name}.jsonl").write_text(content)
    return folder


@pytest.mark.parametrize("reach", ["../secret.jsonl", "{tmp}/secret.jsonl", "x/../../secret.jsonl"])
def test_a_dataset_card_that_names_files_elsewhere(tmp_path: Path, reach: str) -> None:
    (tmp_path / "secret.jsonl").write_text(json.dumps(ROW) + "\n")
    named = reach.format(tmp=tmp_path)
    folder = dataset(tmp_path / "data", f"configs:\n- config_name: default\n  data_files: {named!r}", a="{}\n")
    (folder / "x").mkdir()
    with pytest.raises(DataError, match=r"it names the file .*secret\.jsonl, which is none of its own"):
        list(read_rows(folder))


def test_a_dataset_folder_with_a_name_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset(tmp_path / "json", "license: mit", train=json.dumps(ROW) + "\n")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    assert [row for _, row in read_rows("json")] == [ROW]


def test_an_archive_in_a_dataset_cannot_write_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("zip", "tar"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "zip":
            with zipfile.ZipFile(folder / "train.zip", "w") as archive:
                archive.writestr("../../../escaped.jsonl", json.dumps(ROW) + "\n")
                archive.writestr("train.jsonl", json.dumps(ROW) + "\n")
        else:
            with tarfile.open(folder / "train.tar", "w") as archive:
                for member in ("../../../escaped.jsonl", "train.jsonl"):
                    info = tarfile.TarInfo(member)
                    content = (json.dumps(ROW) + "\n").encode()
                    info.size = len(content)
                    archive.addfile(info, BytesIO(content))
        with suppress(DataError):
            list(read_rows(folder))
        assert not list(tmp_path.rglob("escaped.jsonl"))
        assert not list(tmp_path.parent.glob("escaped.jsonl"))


HEAD = "model: {path: builtin:world}\ndata: {sources: [{path: builtin:world}]}\n"
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
MERGES = "a0: &a0 {k0: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: !!python/object/apply:os.mkdir [{mark}]", "could not determine a constructor"),
        ("name: !!python/name:os.system", "could not determine a constructor"),
        (LAUGHS, "more than 10000 values"),
        (MERGES, "more than 10000 merged keys"),
        ("a: &a [*a]", "more than 10000 values"),
        ("seed: " + "9" * 5000, "limit"),
        ("seed: " + "[" * 2000, "recursion"),
        ("seed: 2024-13-45", "month"),
        ("seed: 2024-11-05", "no text, number or truth value"),
        ("jsft: {training: {x: !!binary aGk=}}", "no text, number or truth value"),
        ("jsft: {training: {x: !!set {a, b}}}", "no text, number or truth value"),
        ("jsft: {training: {1: 2}}", "jsft.training"),
        ("? [1, 2]\n: 3", "unhashable"),
    ],
)
def test_a_recipe_that_is_a_trap(tmp_path: Path, text: str, said: str) -> None:
    mark, file = tmp_path / "it-ran", tmp_path / "r.yaml"
    file.write_text(HEAD + text.replace("{mark}", str(mark)))
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(file)
    assert len(str(caught.value)) < 1000
    assert not mark.exists()


@pytest.mark.parametrize(
    "change",
    ["seed=" + "9" * 5000, "seed=" + "[" * 2000, "data.sources.²=1", "data.sources." + "9" * 5000 + "=1",
     "seed=!!binary aGk=",
     "jsft.training=!!python/object/apply:os.getcwd []", "seed=&a [*a]", "name=\x00"],
)  # fmt: skip
def test_a_change_that_is_a_trap(change: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe("demo", [change])


def test_aliases_are_fine(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        f"{HEAD}jsft: {{training: &t {{max_steps: 3}}}}\nself_training: {{training: *t}}\n"
    )
    assert load_recipe(tmp_path / "r.yaml").self_training.training == {"max_steps": 3}


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "a/b", "/etc", "a\\b", ".hidden", " x", "a\nb", "a\x00"])
def test_names_that_would_lead_out_of_a_folder(name: str) -> None:
    recipe = load_recipe("demo")
    with pytest.raises(RecipeError, match="cannot be the name of a folder"):
        changed(recipe, [f"name={json.dumps(name)}"])
    study = load_recipe("world-study").model_dump(mode="json")
    study["study"]["cells"] = {"sft": {"method": "sft"}, name: {"method": "sft"}}
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        Recipe.model_validate(study)
    assert changed(recipe, ["name=a.b-c d_é"]).name == "a.b-c d_é"


@pytest.mark.parametrize("name", ["../chat", "..", "../../recipes/shipped/demo", "general/../general", "/", "a\x00b"])
def test_names_of_what_is_shipped_lead_nowhere_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TemplateError):
        load_templates(name)
    with pytest.raises(RecipeError):
        load_recipe(name)
    with pytest.raises(ModelError):
        chat_template_text(name)


@pytest.mark.parametrize("name", ["../model", "../../etc", "a/../../model", "~/model", "/model", "./model"])
def test_model_ids_that_are_paths_are_never_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="There is no model folder at"):
        resolve_model(name)


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "overall.txt").write_bytes(b"[user]\n\xff")
    with pytest.raises(TemplateError, match=r"overall\.txt cannot be read as UTF-8"):
        parse_template(tmp_path / "overall.txt")


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ cycler.__init__.__globals__.os.mkdir(MARK) }}",
    "{{ self.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{% set _ = messages.append(1) %}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
    "{{ 'x'.format.__self__.__class__.__subclasses__() }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{% include '/etc/hostname' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_chat_templates_run_in_a_sandbox(
    chatml_tokenizer: PreTrainedTokenizerFast, template: str, tmp_path: Path
) -> None:
    mark = tmp_path / "it-ran"
    chatml_tokenizer.chat_template += template.replace("MARK", repr(str(mark)))
    # What is forbidden ends in an error, or in nothing at all.
    shown = "user\nq\nassistant\n"
    with suppress(ModelError):
        chat = ChatEncoder(chatml_tokenizer)
        shown = chat.decode(chat.prompt_ids([Message(role="user", content="q")]))
    assert shown == "user\nq\nassistant\n"
    assert not mark.exists()


def test_a_chat_template_that_fails_is_named(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    chatml_tokenizer.chat_template += ESCAPES[0]
    with pytest.raises(ModelError, match=r"'tiny-chatml' cannot render .*unsafe.*: set model\.chat_template"):
        ChatEncoder(chatml_tokenizer)


def test_text_is_no_template(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatEncoder(chatml_tokenizer)
    text = "{{ 7 * 7 }}{% for i in range(3) %}x{% endfor %}{# c #}"
    shown = chat.decode(chat.prompt_ids([Message(role="user", content=text)]))
    assert text in shown


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_the_server_gives_no_files_but_its_own(world_chat: ChatEncoder, path: str) -> None:
    client = TestClient(app_on(ScoreEngine(world_chat)))
    assert client.get(path).status_code == 404
    assert client.get("/static/app.js").status_code == 200


def test_what_is_written_of_a_recipe_is_no_code() -> None:
    recipe = changed(load_recipe("demo"), ["jsft.training.run_name='!!python/object:os.system'"])
    assert "!!python" not in dump_recipe(recipe).replace("'!!python", "")
