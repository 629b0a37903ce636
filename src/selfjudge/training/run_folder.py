"""The run folder: everything needed to repeat, resume or report a run.

recipe.yaml        the resolved recipe
run.json           stage, status, package versions, seeds, data fingerprints, outcome
metrics.jsonl      one line per logging step
dropped.jsonl      every row that was left out, and why
rollouts.jsonl     a few judged pairs as text (self-training, offline, off-policy)
curve.jsonl        measurements along the way (demo, compare)
cache/             the data as records and token ids, until the run is finished
checkpoints/       the Trainer's checkpoints
final/, adapter/   the result
round-1/ ...       run folders of their own, where self-training has several rounds
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, date, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from selfjudge.data.io import atomic_writer, write_json
from selfjudge.errors import RunError
from selfjudge.recipes.comparison import Baseline
from selfjudge.recipes.load import dump_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.training.checkpoints import newest
from selfjudge.training.model_card import write_model_card
from selfjudge.training.processes import is_main, on_main

Stage = Literal["jsft", "train", "demo"] | Baseline
_PACKAGES = ("selfjudge", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")
# How a run is carried out, not what comes of it.
_FREE = ("judge.batch_size", "judge.token_budget", "self_training.judge.url", "self_training.servers.url")
CACHE = "cache"
_LOGS = ("metrics.jsonl", "curve.jsonl", "rollouts.jsonl")


class RunFolder:
    """One stage's folder, opened for writing.

    Of several training processes all have it and make the same calls, and the main one alone touches files; an error
    there is raised on all. The folder has to be one that all see.
    """

    def __init__(self, path: Path, stage: Stage, info: dict[str, Any]) -> None:
        """Use :meth:`open`."""
        self.path = path
        self.stage = stage
        self.info = info

    @classmethod
    def open(cls, path: str | Path, stage: Stage, recipe: Recipe, *, resume: bool = False) -> RunFolder:
        """Makes a new run folder, or opens an unfinished one to go on with it.

        Raises:
            RunError: if the folder holds something and ``resume`` is False; or it holds no run of this stage and
                recipe, or a finished one, and ``resume`` is True.
        """
        path = Path(path)
        before = cls.check(path, stage, recipe, resume=resume)
        if before is not None:
            return cls(path, stage, before)

        def make() -> dict[str, Any]:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise RunError(f"{path} cannot be made ({e.strerror}): choose another --output-dir.") from e
            with atomic_writer(path / "recipe.yaml", overwrite=True) as handle:
                handle.write(dump_recipe(recipe))
            return {"stage": stage, "recipe": recipe.name, "seed": recipe.seed, "versions": _versions()}

        run = cls(path, stage, on_main(make))
        run.update(status="running", started=_now(), template_date=template_date(path).isoformat())
        return run

    @classmethod
    def check(cls, path: str | Path, stage: Stage, recipe: Recipe, *, resume: bool) -> dict[str, Any] | None:
        """Returns the run.json of a run to go on with, or None where a new run may begin. Writes nothing.

        Raises:
            RunError: as :meth:`open`.
        """
        return on_main(lambda: cls._check(Path(path), stage, recipe, resume))

    @staticmethod
    def _check(path: Path, stage: Stage, recipe: Recipe, resume: bool) -> dict[str, Any] | None:
        if not path.exists() or (path.is_dir() and all(entry.name == CACHE for entry in path.iterdir())):
            return None
        if resume and path.is_dir() and _hardly_begun(path, recipe):
            return None
        if not resume:
            hint = "go on with it by --resume, or " if (path / "run.json").is_file() else ""
            raise RunError(f"{path} is not empty: {hint}choose another --output-dir.")
        try:
            info: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
            before = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError, yaml.YAMLError) as e:
            raise RunError(f"{path} holds no run that could be resumed: choose another --output-dir.") from e
        if info.get("stage") != stage:
            raise RunError(f"{path} holds a {info.get('stage')} run, not a {stage} run: choose another --output-dir.")
        if info.get("status") == "finished":
            raise RunError(f"The run in {path} is finished: there is nothing to resume.")
        changed = [d for d in _differences(_with_defaults(before), recipe.model_dump(mode="json")) if d not in _FREE]
        if changed:
            raise RunError(
                f"The run in {path} was started with other settings of {', '.join(changed)}: "
                "resume with the same recipe and --set, or choose another --output-dir."
            )
        return info

    @classmethod
    def finished(cls, path: Path) -> RunFolder | None:
        """Returns the finished run in a folder, or None where there is none."""

        def read() -> dict[str, Any] | None:
            file = path / "run.json"
            return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

        info = on_main(read)
        return cls(path, info["stage"], info) if info is not None and info["status"] == "finished" else None

    @property
    def model(self) -> Path:
        """Where the finished model goes."""
        return self.path / "final"

    @property
    def checkpoints(self) -> Path:
        """Where the Trainer's checkpoints go."""
        return self.path / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """Returns the newest checkpoint that is whole, if any.

        What came after it goes: log lines, and whatever was begun of the result or of another checkpoint.
        """
        return on_main(self._last_checkpoint)

    def _last_checkpoint(self) -> Path | None:
        found = newest(self.checkpoints)
        belong = found[1].logs if found else {}
        for name in _LOGS:
            self._cut(self.path / name, belong.get(name, 0))
        begun = (self.model, self.path / "adapter", self.checkpoints / "partial")
        for folder in (*begun, *self.path.glob("*.partial")):
            shutil.rmtree(folder, ignore_errors=True)
        return found[0] if found else None

    def log_sizes(self) -> dict[str, int]:
        """Returns the bytes of each log."""
        return {name: (self.path / name).stat().st_size for name in _LOGS if (self.path / name).is_file()}

    def update(self, **info: Any) -> None:
        """Adds to run.json."""
        self.info |= info
        on_main(lambda: write_json(self.path / "run.json", self.info))

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Appends one line to a JSONL file of the run."""
        if is_main():
            with (self.path / name).open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self, **outcome: Any) -> None:
        """Writes the model card, marks the run as finished and removes its cache."""
        on_main(lambda: write_model_card(self.path, {**self.info, **outcome}))
        self.update(status="finished", finished=_now(), **outcome)
        on_main(lambda: shutil.rmtree(self.path / CACHE, ignore_errors=True))

    def _cut(self, file: Path, size: int) -> None:
        """Shortens a log; after a crash of the machine it may be shorter already."""
        if file.is_file() and file.stat().st_size > size:
            os.truncate(file, size)


def template_date(folder: str | Path) -> date:
    """Returns the date that chat templates write in a run: that on which it, or the run it is a round of, began.

    For a run to come it is today's.
    """
    for place in (Path(folder), Path(folder).parent):
        try:
            info = json.loads((place / "run.json").read_text(encoding="utf-8"))
            return date.fromisoformat(info["template_date"])
        except (OSError, ValueError, KeyError):
            continue
    return date.today()


def _hardly_begun(path: Path, recipe: Recipe) -> bool:
    """True if a run of the recipe ended before its run.json, and so did nothing yet."""
    written = path / "recipe.yaml"
    others = [p for p in path.iterdir() if p not in (written, path / CACHE) and not p.match(".*.tmp")]
    return not others and (not written.exists() or written.read_bytes() == dump_recipe(recipe).encode())


def _with_defaults(recipe: Any) -> Any:
    """Returns a recipe as it was written, with the settings that came to the schema since at their defaults."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return recipe


def _differences(before: Any, now: Any, at: str = "") -> list[str]:
    """Returns the dotted keys in which two recipes differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{at}.{k}" if at else k)]
    return [] if before == now else [at]


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    """Also of what is not there: this package runs from its sources too, and datasets only reads from the Hub."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
