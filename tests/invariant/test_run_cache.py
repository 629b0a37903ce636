"""A run's data is prepared once: a second start finds it. A refused run leaves nothing, a finished one no cache."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from selfjudge.data import encoded, sources
from selfjudge.data.store import Cache
from selfjudge.data.workers import processors
from selfjudge.errors import DataError, RecipeError, RunError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.jsft import run_jsft
from selfjudge.training.run_cache import run_cache
from selfjudge.training.self_training import run_self_training

STAGES = {"jsft": run_jsft, "train": run_self_training}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what reads or tokenizes data, as it is called."""
    found: list[str] = []

    def noted(module: Any, name: str) -> None:
        honest = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found.append(name)
            return honest(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    noted(sources, "write_items")
    noted(encoded, "_mapped_part")
    return found


@contextmanager
def interrupted(at: str) -> Iterator[None]:
    """Ctrl-C comes when a function, named by its place, is called."""

    def ctrl_c(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            yield


def small(tiny_recipe: Callable[..., Recipe]) -> Recipe:
    steps = {"training": {"max_steps": 2, "save_strategy": "no"}}
    return tiny_recipe(12, jsft=steps, self_training=steps)


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_start_is_gone_on_with(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], calls: list[str], stage: str
) -> None:
    recipe, folder = small(tiny_recipe), tmp_path / "runs" / "run"
    with interrupted("selfjudge.training.run_folder.RunFolder.open"):
        STAGES[stage](recipe, folder)
    assert calls.count("write_items") == 1
    assert "_mapped_part" in calls
    assert [path.name for path in folder.iterdir()] == ["cache"]
    calls.clear()
    run = STAGES[stage](recipe, folder)  # without --resume: nothing was trained yet
    assert calls == []
    assert run.info["status"] == "finished"
    assert not (folder / "cache").exists()


def test_a_resumed_run_prepares_nothing_anew(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], calls: list[str]
) -> None:
    recipe = small(tiny_recipe)
    with interrupted("selfjudge.training.jsft_trainer.JsftTrainer.training_step"):
        run_jsft(recipe, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    calls.clear()
    run_jsft(recipe, tmp_path / "run", resume=True)
    assert calls == []


def test_another_seed_or_other_data_is_prepared_anew(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], calls: list[str]
) -> None:
    from selfjudge.data.load import prepare_data

    data = small(tiny_recipe).data
    file = tmp_path / "own.jsonl"
    row = '{"prompt": "Say it.", "chosen": "It.", "rejected": "No."}\n'
    file.write_text(row)
    own = data.model_copy(update={"sources": [data.sources[0].model_copy(update={"path": str(file)})]})
    cache = Cache(tmp_path / "cache")
    for section, seed, anew in ((data, 0, 1), (data, 0, 0), (data, 1, 1), (own, 0, 1), (own, 0, 0)):
        calls.clear()
        prepare_data(section, seed, cache)
        assert len(calls) == anew
    file.write_text(row.replace("No.", "Not."))
    calls.clear()
    assert prepare_data(own, 0, cache).policy[0].rejected == "Not."
    assert len(calls) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_refused_run_leaves_nothing(tmp_path: Path, tiny_recipe: Callable[..., Recipe], stage: str) -> None:
    longest, rollout = {"max_length": 16}, {"rollout": {"max_new_tokens": 15}}
    recipe = tiny_recipe(12, data=longest, jsft={"rows": "judgment"}, self_training=rollout)
    with pytest.raises(DataError, match="is left"):
        STAGES[stage](recipe, tmp_path / "runs" / "new" / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="is left"):
        STAGES[stage](recipe, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_an_error_during_a_run_leaves_its_cache(tmp_path: Path) -> None:
    Cache(tmp_path / "run" / "cache").folder("rows", 1)
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(RecipeError), run_cache(tmp_path / "run"):
        raise RecipeError("something else")
    assert (tmp_path / "run" / "cache").is_dir()


@pytest.mark.parametrize("damage", [b"", b"x" * 100])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, tiny_recipe: Callable[..., Recipe], damage: bytes) -> None:
    recipe, folder = small(tiny_recipe), tmp_path / "run"
    with interrupted("selfjudge.training.run_folder.RunFolder.open"):
        run_jsft(recipe, folder)
    files = sorted((folder / "cache").rglob("*.arrow"))
    assert {file.name for file in files} == {"records.arrow", "dropped.arrow", "part-0.arrow"}
    for file in files:
        file.write_bytes(damage)
    run = run_jsft(recipe, folder)
    assert run.info["rows"]["policy"] > 1


def test_two_starts_in_one_folder(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    with run_cache(tmp_path / "run") as cache:
        cache.folder("rows", 1)
        with pytest.raises(RunError, match="Another process is preparing the data"):
            run_jsft(small(tiny_recipe), tmp_path / "run")
        assert (tmp_path / "run" / "cache").is_dir()
    assert run_jsft(small(tiny_recipe), tmp_path / "run").info["status"] == "finished"


def test_other_data_is_refused_at_a_resume(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 8)
    recipe = small(tiny_recipe)
    source = recipe.data.sources[0].model_copy(update={"path": str(file), "limit": None})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"sources": [source]})})
    with interrupted("selfjudge.training.jsft_trainer.JsftTrainer.training_step"):
        run_jsft(recipe, tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_text()
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "d"}\n')
    with pytest.raises(RunError, match=r"was started with other data in .*own.jsonl: put it back as it was, or choose"):
        run_jsft(recipe, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "run.json").read_text() == before


@pytest.mark.skipif(processors() < 2, reason="there are no workers on one processor")
@pytest.mark.parametrize("to_all", [True, False], ids=["as a terminal does", "to the process alone"])
def test_ctrl_c_while_workers_tokenize(tmp_path: Path, to_all: bool) -> None:
    row = {"prompt": "Say it. " * 200, "chosen": "It is. " * 200, "rejected": "No. " * 200}
    with (tmp_path / "pairs.jsonl").open("w") as handle:
        for i in range(6000):
            handle.write(json.dumps({**row, "chosen": f"{i} {row['chosen']}"}) + "\n")
    settings = ["model.path=builtin:world", "data.max_length=9999", f"data.sources.0.path={tmp_path / 'pairs.jsonl'}"]
    options = [part for setting in [*settings, "data.sources.0.limit=null"] for part in ("--set", setting)]
    command = [sys.executable, "-c", "from selfjudge.cli.main import main; main()", "jsft", "--recipe", "demo"]
    with subprocess.Popen(
        [*command, *options, "--output-dir", str(tmp_path / "run")], stderr=subprocess.PIPE, start_new_session=True
    ) as run:
        assert run.stderr is not None
        said = b""
        while not re.search(rb"Rows \(num_proc=\d+\): +\d+%\|[^|]+\| [1-9]\d*/6000", said):  # all are at work
            part = os.read(run.stderr.fileno(), 4096)
            assert part, said.decode()
            said += part
        (os.killpg if to_all else os.kill)(run.pid, signal.SIGINT)
        said += run.communicate(timeout=60)[1]
    assert run.returncode == 130, said.decode()
    assert b"Stopped while the data was made ready: the same command goes on from there." in said
    assert b"Traceback" not in said, said.decode()[-3000:]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["cache"]
