"""From a file of preference pairs to JSFT rows: time and memory, against rows made one by one in lists.

    python benchmarks/data.py                                  # 50,000 pairs both ways, 200,000 pairs in files
    python benchmarks/data.py --pairs 2000 --many 4000         # a try

Every text has 300 words (``--words``), drawn from a vocabulary by Zipf's law, so a pair has 900. The tokenizer is a
byte-level BPE of 8,192 tokens trained on such texts, with a ChatML template; ``--model`` names another. Each
measurement is a process of its own. ``before`` makes records and rows as earlier versions did: one by one, in one
process, with the positions of all tokens, and held in lists. ``files`` is what a run does now; ``again`` is its second
start; ``rank`` is a further process of a run, beside one that has the files open, which both map; ``inspect`` and
``prepare`` are the commands.

Memory is what a process and its workers hold beyond what they held with the tokenizer loaded: ``resident`` counts
mapped files as well (shared pages by their share), ``own`` what only the process itself has. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil

from selfjudge.data.columns import HEAD_ROWS, renamed
from selfjudge.data.formats import Pairing, find_format
from selfjudge.data.formats import Row as RawRow
from selfjudge.data.load import PreparedData, prepare_data
from selfjudge.data.raw import read_rows
from selfjudge.data.rows import Row, examples, judgment_rows, policy_rows
from selfjudge.data.sources import parse_row
from selfjudge.data.store import Cache
from selfjudge.engines.load import load_tokenizer
from selfjudge.recipes.load import load_recipe
from selfjudge.records import PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.exact_cuts import NO_CUTS
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft import jsft_rows

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
VOCABULARY = 20_000
MAX_LENGTH = 1_000_000


def words(rng: random.Random) -> list[str]:
    """Returns a vocabulary of made-up words, the frequent ones first and short."""
    return ["".join(rng.choices(LETTERS, k=rng.randint(2, 4 + i // 2500))) for i in range(VOCABULARY)]


def texts(length: int, seed: int) -> Iterator[str]:
    """Yields texts of so many words, with full stops and paragraphs."""
    rng = random.Random(seed)
    vocabulary = words(random.Random(0))
    weights = list(accumulate(1 / (i + 2) for i in range(VOCABULARY)))
    while True:
        drawn = rng.choices(vocabulary, cum_weights=weights, k=length)
        for i in range(11, length, 12):
            drawn[i] += ".\n\n" if i % 60 == 59 else "."
        yield " ".join(drawn).replace("\n\n ", "\n\n")


def write_pairs(path: Path, pairs: int, length: int) -> None:
    """Writes pairs as one JSON object a line."""
    drawn = texts(length, 1)
    with path.open("w", encoding="utf-8") as handle:
        for i in range(pairs):
            row = {"id": f"p{i}", "prompt": next(drawn), "chosen": next(drawn), "rejected": next(drawn)}
            handle.write(json.dumps(row) + "\n")


def train_tokenizer(folder: Path, length: int) -> None:
    """Trains a byte-level BPE on such texts, and saves it with a ChatML template and the smallest of configs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    drawn = texts(length, 2)
    tokenizer.train_from_iterator((next(drawn) for _ in range(500)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)


@contextmanager
def measured(found: dict[str, Any]) -> Iterator[None]:
    """Puts the seconds of a block and the growth of memory in it, in MB, into ``found``."""
    process, done = psutil.Process(), threading.Event()

    def held() -> tuple[float, float]:
        resident = own = 0
        for each in (process, *process.children(recursive=True)):
            try:
                memory = each.memory_full_info()
            except psutil.Error:
                continue
            resident, own = resident + memory.pss, own + memory.uss
        return resident / 1e6, own / 1e6

    before = held()
    most = [*before]

    def watch() -> None:
        while not done.wait(0.25):
            most[:] = map(max, most, held())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    yield
    found["seconds"] = round(time.perf_counter() - start, 2)
    most[:] = map(max, most, held())
    done.set()
    watcher.join()
    found["resident_mb"], found["own_mb"] = (round(a - b) for a, b in zip(most, before, strict=True))


def recipe_of(path: Path) -> Any:
    """Returns the demo's recipe with the file as its only source."""
    recipe = load_recipe("demo", ["templates.set=general"])
    data = recipe.data.model_copy(
        update={"sources": [recipe.data.sources[0].model_copy(update={"path": str(path), "limit": None})]}
    )
    return recipe.model_copy(update={"data": data.model_copy(update={"max_length": MAX_LENGTH, "held_out": 0.0})})


def before(path: Path, chat: ChatEncoder, encoder: JudgmentEncoder) -> int:
    """Makes rows one by one and holds them in lists."""
    chat.tokens._rust, chat.tokens._cuts = None, NO_CUTS  # as they were tokenized: with positions, nothing shared
    rows = list(read_rows(path))
    form = find_format([renamed(data, {}) for _, data in rows[:HEAD_ROWS]], str(path))
    records: list[PreferenceRecord] = []
    for index, (line, data) in enumerate(rows):
        parsed = parse_row(RawRow(data, line, index, "pairs"), form, Pairing())
        records += [item for item in parsed if isinstance(item, PreferenceRecord)]
    policy = [row for record in records for row in policy_rows(record, chat)]
    judgments = [row for place, record in enumerate(records) for row in judgment_rows(record, encoder, place=place)]
    return len(examples([*policy, *judgments]))


def in_files(path: Path, chat: ChatEncoder, encoder: JudgmentEncoder, cache: Path) -> Sequence[tuple[Row, ...]]:
    """Makes rows as a run does, or finds them."""
    recipe = recipe_of(path)
    data: PreparedData = prepare_data(recipe.data, recipe.seed, Cache(cache))
    rows, _ = jsft_rows(recipe, data, chat, encoder, MAX_LENGTH)
    return rows.examples


@contextmanager
def beside_another(kind: str, path: Path, cache: Path, model: str) -> Iterator[None]:
    """For ``rank``: another process, whose memory counts too, has the same data open meanwhile."""
    if kind != "rank":
        yield
        return
    asked = [sys.executable, __file__, "--model", model, "--measure", "hold", str(path), str(cache)]
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.stdin.close()


def command(*arguments: str) -> Callable[[], int]:
    """Returns what runs a command in this process."""
    from selfjudge.cli.main import app

    def run() -> int:
        app([*arguments], standalone_mode=False)
        return 0

    return run


def measure(kind: str, path: Path, model: str, cache: Path) -> dict[str, Any]:
    """Returns time and memory of one way."""
    chat = load_tokenizer(model)
    encoder = JudgmentEncoder(load_templates("general"), chat)
    found: dict[str, Any] = {}
    ways: dict[str, Callable[[], Any]] = {
        "before": lambda: before(path, chat, encoder),
        "files": lambda: in_files(path, chat, encoder, cache),
        "again": lambda: in_files(path, chat, encoder, cache),
        "rank": lambda: in_files(path, chat, encoder, cache),
    }
    if kind in ("inspect", "prepare"):
        output = ["--output", str(cache / "records.jsonl")] if kind == "prepare" else []
        ways[kind] = command("data", kind, str(path), *output)
    if kind == "hold":
        data = in_files(path, chat, encoder, cache)
        print(len(data), flush=True)
        sys.stdin.read()
        return found
    with beside_another(kind, path, cache, model), measured(found):
        made = ways[kind]()
        found["examples"] = len(made) if isinstance(made, Sequence) else made
    return found


def main() -> None:
    """Measures each way in a process of its own and prints all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50_000, help="pairs that are read both ways")
    parser.add_argument("--many", type=int, default=200_000, help="pairs that are read into files alone")
    parser.add_argument("--words", type=int, default=300, help="words of a text")
    parser.add_argument("--model", help="folder of a tokenizer; by default one is trained on the texts")
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "FILE", "CACHE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, path, cache = options.measure
        found = measure(kind, Path(path), options.model, Path(cache))
        if kind != "hold":
            print(json.dumps(found), file=sys.__stdout__)
        return
    with tempfile.TemporaryDirectory(prefix="data-benchmark-") as folder:
        model = options.model or str(Path(folder) / "tokenizer")
        if not options.model:
            train_tokenizer(Path(model), options.words)
        results: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "words": options.words}
        for pairs, kinds in (
            (options.pairs, ("before", "files")),
            (options.many, ("files", "again", "rank", "inspect", "prepare")),
        ):
            path, cache = Path(folder) / f"{pairs}.jsonl", Path(folder) / f"cache-{pairs}"
            write_pairs(path, pairs, options.words)
            for kind in kinds:
                results[f"{kind} {pairs}"] = _measured_apart(kind, path, cache, model)
                print(kind, pairs, results[f"{kind} {pairs}"], file=sys.stderr, flush=True)
        print(json.dumps(results, indent=2))


def _measured_apart(kind: str, path: Path, cache: Path, model: str) -> dict[str, Any]:
    cache.mkdir(exist_ok=True)
    asked = [sys.executable, __file__, "--model", model, "--measure", kind, str(path), str(cache)]
    done = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
