"""What `selfjudge` does where its output or the Hub is out of reach."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selfjudge.training.run_folder import RunFolder


def test_an_output_folder_that_cannot_be_made(run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = run(
        "jsft", "--recipe", "demo", "--set", "data.sources.0.limit=20", "--output-dir", tmp_path / "file" / "run"
    )
    assert done.code == 2
    assert done.err.strip().splitlines()[-1].endswith("cannot be made (Not a directory): choose another --output-dir.")
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("code", "exit_code"), [(errno.ENOSPC, 2), (errno.EROFS, 2), (errno.EBADF, 1)])
def test_an_output_that_cannot_be_written(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, exit_code: int
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code), "there.json")

    monkeypatch.setattr(RunFolder, "check", full)
    arguments = ("jsft", "--recipe", "demo", "--output-dir", tmp_path / "run")
    if exit_code == 1:  # a bug keeps its traceback
        with pytest.raises(OSError, match="Bad file descriptor"):
            run(*arguments)
        return
    done = run(*arguments)
    assert (done.code, done.err) == (
        2,
        f"Error: there.json cannot be written ({os.strerror(code)}): make room or choose another output.\n",
    )


def test_sigterm_outside_of_training(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(RunFolder, "check", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
    try:
        assert run("jsft", "--recipe", "demo", "--output-dir", tmp_path / "run").code == 143
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.long  # the Hub's client tries again for a while
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.path=org/none", "Error: The model 'org/none' could not be loaded: We couldn't connect to"),
        (
            "data.sources.0.path=org/none",
            "Error: org/none (subset default, split train): no local file, and not loaded",
        ),
    ],
)
def test_a_hub_that_does_not_answer(tmp_path: Path, setting: str, said: str) -> None:
    command = [sys.executable, "-m", "selfjudge.cli.main", "jsft", "--recipe", "demo", "--set", setting]
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--output-dir", tmp_path / "run"], env=os.environ | away, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(said)
    assert not (tmp_path / "run").exists()
