"""Run folders: never over another run, resumed only by the run they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from selfjudge.data.columns import Unused
from selfjudge.data.load import PreparedData
from selfjudge.data.rows import DroppedRow
from selfjudge.errors import RunError
from selfjudge.recipes.load import load_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.training.checkpoints import commit, partial
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import record_data


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("demo")


def test_a_new_run_says_what_it_is(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.open(tmp_path / "a" / "b", "jsft", recipe)
    info = json.loads((run.path / "run.json").read_text())
    assert (info["stage"], info["status"], info["seed"], info["recipe"]) == ("jsft", "running", 0, "demo")
    assert {"selfjudge", "torch", "transformers"} <= set(info["versions"])
    assert Recipe.model_validate(yaml.safe_load((run.path / "recipe.yaml").read_text())) == recipe
    run.update(data={"x": "fingerprint"})
    run.finish(steps=3)
    info = json.loads((run.path / "run.json").read_text())
    assert (info["status"], info["steps"], info["data"], info["stage"]) == ("finished", 3, {"x": "fingerprint"}, "jsft")


def test_a_package_that_is_not_installed_is_no_error(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name in ("selfjudge", "datasets"):
            raise metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(metadata, "version", version)
    versions = RunFolder.open(tmp_path / "run", "jsft", recipe).info["versions"]
    assert (versions["selfjudge"], versions["torch"]) == ("not installed", "1.2")


def test_an_empty_folder_is_free(tmp_path: Path, recipe: Recipe) -> None:
    assert RunFolder.check(tmp_path, "jsft", recipe, resume=False) is None
    assert RunFolder.check(tmp_path / "new", "jsft", recipe, resume=True) is None
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty: choose another --output-dir"):
        RunFolder.open(tmp_path, "jsft", recipe)
    with pytest.raises(RunError, match="holds no run that could be resumed"):
        RunFolder.open(tmp_path, "jsft", recipe, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    file = tmp_path / "thesis.txt"
    with pytest.raises(RunError):
        RunFolder.open(file, "jsft", recipe)
    assert file.read_text() == "mine"


def test_another_run_is_not_resumed(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.open(tmp_path / "r", "jsft", recipe)
    with pytest.raises(RunError, match="go on with it by --resume"):
        RunFolder.open(run.path, "jsft", recipe)
    with pytest.raises(RunError, match="holds a jsft run, not a train run"):
        RunFolder.open(run.path, "train", recipe, resume=True)
    other = load_recipe("demo", ["self_training.beta=0.2", "seed=1", "jsft.lora.r=3"])
    with pytest.raises(RunError, match=r"other settings of jsft\.lora, seed, self_training\.beta: resume"):
        RunFolder.open(run.path, "jsft", other, resume=True)
    again = RunFolder.open(run.path, "jsft", recipe, resume=True)
    assert again.info == run.info
    run.finish()
    with pytest.raises(RunError, match="is finished: there is nothing to resume"):
        RunFolder.open(run.path, "jsft", recipe, resume=True)


def checkpoint(run: RunFolder, step: int) -> Path:
    folder = partial(run.checkpoints, step)
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    commit(run.checkpoints, step, run.log_sizes(), None)
    return run.checkpoints / folder.name


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_the_newest_whole_checkpoint_counts_and_later_lines_go(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.open(tmp_path / "r", "train", recipe)
    for step in range(1, 121):
        run.append("metrics.jsonl", {"step": step, "loss": step / 2})
        if step == 99:
            run.append("rollouts.jsonl", {"step": 99, "prompt": "ü\u2028x"})
        if step in (90, 100, 110):
            checkpoint(run, step)
    # A rollout's step is the one it was made after: that of step 100 belongs to the step after the checkpoint.
    run.append("rollouts.jsonl", {"step": 100, "prompt": "y"})
    with (run.path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 121, "lo')  # killed
    (run.checkpoints / "checkpoint-110" / "trainer_state.json").write_text("{ }")
    assert run.last_checkpoint() == run.checkpoints / "checkpoint-100"
    assert [row["step"] for row in lines(run.path / "metrics.jsonl")] == list(range(1, 101))
    assert lines(run.path / "rollouts.jsonl") == [{"step": 99, "prompt": "ü\u2028x"}]


def test_a_log_that_lost_its_end_is_left_as_it_is(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.open(tmp_path / "r", "train", recipe)
    run.append("metrics.jsonl", {"step": 1})
    checkpoint(run, 1)
    (run.path / "metrics.jsonl").write_text("")
    run.last_checkpoint()
    assert (run.path / "metrics.jsonl").read_bytes() == b""


def test_without_a_checkpoint_the_log_starts_anew(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.open(tmp_path / "r", "train", recipe)
    assert run.last_checkpoint() is None  # no log either
    run.append("metrics.jsonl", {"step": 1})
    assert run.last_checkpoint() is None
    assert lines(run.path / "metrics.jsonl") == []


def test_what_was_begun_of_the_result_goes(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.open(tmp_path / "r", "train", recipe)
    kept = checkpoint(run, 1)
    for begun in ("final", "adapter", "final.partial", "adapter.partial", "checkpoints/partial/checkpoint-2"):
        (run.path / begun).mkdir(parents=True)
        (run.path / begun / "model.safetensors").write_text("")
    assert run.last_checkpoint() == kept
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "recipe.yaml", "run.json"]
    assert [*run.checkpoints.iterdir()] == [kept]


def test_a_run_from_before_a_setting_came_to_the_schema_is_resumed(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe()
    RunFolder.open(tmp_path / "run", "train", recipe)
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    del written["model"]["thinking"], written["self_training"]["keep_lora_dropout"]
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(written))
    assert RunFolder.open(tmp_path / "run", "train", recipe, resume=True).info["status"] == "running"
    recipe.self_training.keep_lora_dropout = True
    with pytest.raises(RunError, match=r"other settings of self_training\.keep_lora_dropout"):
        RunFolder.open(tmp_path / "run", "train", recipe, resume=True)


@pytest.mark.parametrize("broken", ["run.json", "recipe.yaml"])
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_text("{[")])
def test_a_damaged_folder_is_no_run(
    tmp_path: Path, recipe: Recipe, broken: str, damage: Callable[[Path], object]
) -> None:
    run = RunFolder.open(tmp_path / "r", "train", recipe)
    run.append("metrics.jsonl", {"step": 1})
    damage(run.path / broken)
    with pytest.raises(RunError, match="holds no run that could be resumed"):
        RunFolder.open(run.path, "train", recipe, resume=True)


@pytest.mark.parametrize("left", [(), ("recipe.yaml",)])
def test_a_run_that_was_killed_before_its_run_json_begins_anew(
    tmp_path: Path, recipe: Recipe, left: tuple[str, ...]
) -> None:
    run = RunFolder.open(tmp_path / "r", "train", recipe)
    for name in {"recipe.yaml", "run.json"} - {*left}:
        (run.path / name).unlink()
    (run.path / ".run.json.x1.tmp").write_text("{")
    with pytest.raises(RunError, match="is not empty"):
        RunFolder.open(run.path, "train", recipe)
    RunFolder.open(run.path, "train", recipe, resume=True)
    assert json.loads((run.path / "run.json").read_text())["status"] == "running"


def test_another_recipe_alone_is_no_run(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "recipe.yaml").write_text("name: mine\n")
    with pytest.raises(RunError, match="holds no run that could be resumed"):
        RunFolder.open(tmp_path, "train", recipe, resume=True)
    assert (tmp_path / "recipe.yaml").read_text() == "name: mine\n"


def test_what_has_no_effect_on_the_result_may_be_changed(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.open(tmp_path / "r", "train", recipe)
    other = load_recipe("demo", ["judge.token_budget=100", "judge.batch_size=2"])
    assert RunFolder.open(run.path, "train", other, resume=True).info == run.info


def test_servers_that_moved_may_be_named_anew(tmp_path: Path) -> None:
    served = ["self_training.engine=openai", "self_training.lora={r: 8}"]
    judged = ["self_training.judge.kind=external", "self_training.judge.model=m"]

    def recipe(port: int) -> Recipe:
        urls = [f"self_training.{name}.url=http://localhost:{port}/v1" for name in ("servers", "judge")]
        return load_recipe("demo", [*served, *judged, *urls])

    run = RunFolder.open(tmp_path / "r", "train", recipe(1))
    assert RunFolder.open(run.path, "train", recipe(2), resume=True).info == run.info


def test_a_folder_that_cannot_be_made(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/r cannot be made \(Not a directory\): choose another --output-dir"):
        RunFolder.open(tmp_path / "file" / "r", "train", recipe)


def test_a_resumed_run_tells_of_a_row_that_was_left_out_once(tmp_path: Path, recipe: Recipe) -> None:
    data = PreparedData((), (), (), (), (), {"own.jsonl": "0" * 64}, {"own.jsonl": 1})
    dropped = [DroppedRow("policy", "row-7", "too long")]
    for resume in (False, True):
        record_data(RunFolder.open(tmp_path / "run", "jsft", recipe, resume=resume), data, dropped)
    assert len((tmp_path / "run" / "dropped.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["dropped"] == 1


def test_columns_that_are_not_used_are_told_and_recorded(
    tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    left = ("own.jsonl", Unused("topic", 3, "colour"))
    data = PreparedData((), (), (), (), (), {"own.jsonl": "0" * 64}, {"own.jsonl": 1}, (left,))
    record_data(RunFolder.open(tmp_path / "run", "jsft", recipe), data, [])
    assert caplog.messages == ["own.jsonl: not used: topic in 3 rows, such as: colour"]
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["unused"] == [
        {"source": "own.jsonl", "name": "topic", "rows": 3}
    ]  # texts stay out of what is published
