"""Trains a small real model by the whole method on one GPU, within a number of seconds, from local files alone.

    MODEL=smollm2.gguf SMALL=pairs.jsonl PAIRS="a.jsonl b.jsonl.gz" JUDGE="x.jsonl y.jsonl" PROMPTS=asked.jsonl \
        python benchmarks/gpu_real_model.py [FOLDER]

Needs torch, transformers, peft, accelerate, datasets, pydantic, PyYAML, typer, rich and jinja2, and gguf for a .gguf
model; no network, and no installation of this package. What is missing can be carried in a folder that PYTHONPATH
names.

ITEMS    what to do, in this order (demo small long). demo: the built-in world. small: some steps of JSFT and of
         self-training on SMALL, and the judge before and after on the first of JUDGE. long: the recipe smollm2-mixed on
         PAIRS, as many steps as there is time for; the judge before, between and after on all of JUDGE; and the policy
         against its start on PROMPTS
MODEL    a .gguf file or a model folder           BUDGET   seconds in all (560)
SMALL    a file of preference pairs               LIMIT    seconds of a command at most (300)
PAIRS    files of preference pairs                STEPS    of either training in small (20)
JUDGE    files of labelled pairs                  LONG     steps of self-training in long at most (100)
PROMPTS  a file of prompts                        BATCH    prompts of a step of self-training (8)
ROWS     records of a file at most (all)          EXAMPLES examples of a micro-batch of JSFT (16)
NEW      new tokens of a sample (128)             LENGTH   tokens of a training row at most (1024)
DEVICE   cuda or cpu (cuda)                       WORK     where models go (build/real-model)

FOLDER ($OUT or build/bench by default) gets real.json (figures), real.log (what the commands printed) and
metrics.jsonl (the trainings' log lines); all three are written anew after each command.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
START = time.monotonic()


def setting(name: str, default: str = "") -> str:
    """Returns a setting of the environment."""
    return os.environ.get(name) or default


def files(name: str) -> list[str]:
    """Returns the paths that a setting names."""
    found = [str(Path(path).resolve()) for path in setting(name).split()]
    if not found:
        sys.exit(f"{name} names no file: see the head of {Path(__file__).name}.")
    return found


OUT = Path(sys.argv[1] if len(sys.argv) > 1 else setting("OUT", str(ROOT / "build" / "bench"))).resolve()
WORK = Path(setting("WORK", str(ROOT / "build" / "real-model"))).resolve()
CPU = setting("DEVICE", "cuda") == "cpu"
BUDGET, LIMIT = float(setting("BUDGET", "560")), float(setting("LIMIT", "300"))
STEPS, LONG, BATCH = (int(setting(name, n)) for name, n in (("STEPS", "20"), ("LONG", "100"), ("BATCH", "8")))
EXAMPLES, NEW, LENGTH = (int(setting(n, d)) for n, d in (("EXAMPLES", "16"), ("NEW", "128"), ("LENGTH", "1024")))

_done: dict[str, dict[str, Any]] = {}


def left() -> float:
    """Returns the seconds that are left."""
    return BUDGET - (time.monotonic() - START)


def environment() -> dict[str, str]:
    """Returns what the commands see: the package's sources, no network, and a cache for converted models."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "SELFJUDGE_CACHE": str(WORK / "cache")}


def run(name: str, command: Sequence[str], limit: float = LIMIT) -> subprocess.CompletedProcess[str] | None:
    """Runs Python with these arguments for no longer than is left; tells, logs and remembers how it went."""
    limit, start = min(limit, left()), time.monotonic()
    if limit < 10:
        print(f"{name}: no time left", flush=True)
        return None
    try:
        found = subprocess.run(
            [sys.executable, *command], cwd=WORK, env=environment(), text=True, capture_output=True, timeout=limit
        )
        code, said, output = found.returncode, found.stdout + found.stderr, found
    except subprocess.TimeoutExpired as e:
        code, output = 124, None
        said = "".join(part.decode(errors="replace") for part in (e.stdout, e.stderr) if part)
    said = "\n".join(line for line in said.splitlines() if "%|" not in line)  # progress bars
    seconds = time.monotonic() - start
    _done[name] = {"seconds": round(seconds, 1), "exit": code}
    with (OUT / "real.log").open("a", encoding="utf-8") as log:
        log.write(f"\n===== {name}: {' '.join(command)}\n{said}\n")
    print(f"{name}: exit {code} after {seconds:.0f} s" + ("" if code == 0 else f"\n{said[-1500:]}"), flush=True)
    write()
    return output if code == 0 else None


def write() -> None:
    """Writes the figures so far."""
    (OUT / "real.json").write_text(json.dumps(_done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def note(name: str, figures: dict[str, Any]) -> None:
    """Adds figures to a command that was run, and writes and prints them."""
    _done.setdefault(name, {}).update(figures)
    write()
    print(f"  {json.dumps(figures, ensure_ascii=False)[:700]}", flush=True)


def cli(name: str, *arguments: str, limit: float = LIMIT) -> bool:
    """Runs a command of selfjudge; returns whether it went well."""
    return run(name, ["-m", "selfjudge.cli.main", *arguments], limit) is not None


def train(name: str, stage: str, steps: int, model: str, sources: Sequence[str], **changes: str) -> Path | None:
    """Runs jsft or train on the recipe smollm2-mixed with local files; returns its run folder if it went well."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    rows = f", limit: {setting('ROWS')}" if setting("ROWS") else ""
    section = "jsft" if stage == "jsft" else "self_training"
    training = {
        "max_steps": steps,
        "bf16": True,
        "use_cpu": CPU,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": EXAMPLES if stage == "jsft" else BATCH,
    }
    if stage == "jsft":
        training["train_sampling_strategy"] = "group_by_length"  # less padding
    settings = {
        "model.path": model,
        "data.sources": "[" + ", ".join(f"{{path: '{path}'{rows}}}" for path in sources) + "]",
        "data.max_length": LENGTH,
        "data.held_out": 0,
        **{f"{section}.training.{key}": str(value).lower() for key, value in training.items()},
        **changes,
    }
    changed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    ok = cli(name, stage, "--recipe", "smollm2-mixed", "--output-dir", str(folder), *changed)
    return folder if figures_of_training(name, folder) and ok else None


def figures_of_training(name: str, folder: Path) -> bool:
    """Notes what a training logged, also one that was cut off; returns whether it logged anything."""
    log = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    steps = [row for row in lines if "loss" in row]
    if not steps:
        return False
    with (OUT / "metrics.jsonl").open("a", encoding="utf-8") as kept:
        kept.writelines(json.dumps({"run": name, **row}) + "\n" for row in lines)
    names = ("loss", "kl", "grad_norm", "rewards/margins", "rewards/accuracies", "rollout/length")
    seconds = next((row["train_runtime"] for row in lines if "train_runtime" in row), None)
    speed = [row["rollout/samples_per_second"] for row in steps if "rollout/samples_per_second" in row]
    ends = {end: {n: row[n] for n in names if n in row} for end, row in (("first", steps[0]), ("last", steps[-1]))}
    found = {"steps": steps[-1]["step"], **ends, "seconds_of_training": seconds}
    if seconds:
        found["seconds_per_step"] = round(seconds / found["steps"], 3)
    if speed:  # the first steps record
        found["samples_per_second"] = {"first": speed[0], "median_of_later": median(speed[len(speed) // 2 :])}
    note(name, found)
    return True


def self_train(name: str, steps: int, start: Path, sources: Sequence[str], **changes: str) -> Path | None:
    """Self-trains from a run folder with an adapter of rank 8."""
    lora = {"self_training.lora": "{r: 8, alpha: 16, dropout: 0.05}", "self_training.start": str(start)}
    rollout = {"self_training.rollout.max_new_tokens": str(NEW)}
    return train(name, "train", steps, str(start), sources, **lora, **rollout, **changes)


def judge(name: str, model: str, sets: Sequence[str], against: str | None = None) -> None:
    """Measures a judge on labelled pairs, beside "the longer wins" and a second judge."""
    inputs = [part for path in sets for part in ("--input", path)]
    second = ["--against", against] if against else []
    report = WORK / f"{name}.json"
    device = ["--device", "cpu"] if CPU else []
    if cli(name, "eval", "judge", "--model", model, *inputs, *second, "--json", str(report), "--overwrite", *device):
        found = json.loads(report.read_text(encoding="utf-8"))
        note(name, {"accuracy": accuracies(found, "overall"), "against": accuracies(found, "second")})
        _done[name]["evaluation"] = found
        write()


def accuracies(found: dict[str, Any], which: str) -> dict[str, Any] | None:
    """Returns a judge's accuracy and that of "the longer wins", if there is such a judge."""
    return {name: found[which][name] for name in ("accuracy", "longer_wins")} if found.get(which) else None


def steps_in(share: float, wanted: int, name: str) -> int:
    """Returns the steps that fit into a share of the time left, at the speed of an earlier training.

    Start-up, and reading thousands of records, take up to a minute of it.
    """
    per_step = _done.get(name, {}).get("seconds_per_step")
    return wanted if per_step is None else max(2, min(wanted, int((share * left() - 60) / per_step)))


def demo() -> None:
    """The built-in world, from nothing to the report."""
    folder = WORK / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    cli("demo", "demo", "--output-dir", str(folder))
    for part in ("jsft", "soft", "hard"):
        figures_of_training(f"demo-{part}", folder / part)
    if (folder / "results.json").is_file():
        note("demo", json.loads((folder / "results.json").read_text(encoding="utf-8")))


def converted() -> str | None:
    """Returns the folder of the model, which a .gguf file is first converted to."""
    code = "import sys; from selfjudge.engines.load import resolve_model; print(resolve_model(sys.argv[1]))"
    found = run("convert", ["-c", code, files("MODEL")[0]])
    return found.stdout.split("\n")[-2] if found else None


def small(model: str) -> None:
    """A few steps of everything."""
    pairs, sets = files("SMALL"), files("JUDGE")[:1]
    reference = train("jsft-small", "jsft", STEPS, model, pairs)
    if reference:
        self_train("train-small", STEPS, reference, pairs, **{"self_training.stop": "{}"})
        judge("judge-small", str(reference), sets, model)


def long(model: str) -> None:
    """As much of the recipe as there is time for."""
    pairs, sets = files("PAIRS"), files("JUDGE")
    # Of each pair there is a policy row and a judgment, where they are not too long.
    epoch = -(-2 * sum(map(count, pairs)) // EXAMPLES)
    steps = steps_in(0.45, epoch, "jsft-small")
    reference = train("jsft-long", "jsft", -1 if steps == epoch else steps, model, pairs)
    if reference is None:
        return
    judge("judge-long", str(reference), sets, model)
    policy = self_train("train-long", steps_in(0.6, LONG, "train-small"), reference, pairs)
    if policy is None:
        return
    judge("judge-policy", str(policy), sets)
    answers = ["--prompts", files("PROMPTS")[0], "--evaluator", f"judge:{reference}", "--max-new-tokens", str(NEW)]
    limit = ["--limit", setting("ROWS")] if setting("ROWS") else []
    report, device = WORK / "winrate.json", ["--device", "cpu"] if CPU else []
    against = ["--a", str(policy), "--b", str(reference), "--json", str(report), "--overwrite"]
    if cli("winrate", "eval", "winrate", *against, *answers, *limit, *device):
        note("winrate", json.loads(report.read_text(encoding="utf-8")))


def count(path: str) -> int:
    """Returns the records of a file that are read, ROWS at most."""
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as handle:
        lines = sum(1 for _ in handle)
    return min(lines, int(setting("ROWS", str(lines))))


def main() -> None:
    """Does the items, one after another."""
    for folder in (OUT, WORK):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("real.log", "metrics.jsonl"):
        (OUT / name).unlink(missing_ok=True)
    items = setting("ITEMS", "demo small long").split()
    if "demo" in items:
        demo()
    model = converted() if {"small", "long"} & set(items) else None
    for name, item in (("small", small), ("long", long)):
        if model and name in items:
            item(model)
    print(f"{BUDGET - left():.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
