"""What is fuzzed: for each place where foreign input comes in, inputs and what must hold whatever they are.

A check may see the project's own errors, which are answers to bad input. Any other exception is a finding.
"""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import server_requests
from data_readers import cells, check_cells, check_raw, folder, load, raw_files
from frames import check_frame, encoders
from hostile_texts import TOKENIZERS, texts
from hypothesis import strategies as st

from selfjudge.core.bracket import BracketState, placing, tie_winner
from selfjudge.core.verdict import combine, mirrored, principle_verdict
from selfjudge.data.formats.messages import Reject
from selfjudge.data.formats.rendered import read_transcript
from selfjudge.engines.openai_connection import ServerConnection
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.engines.safe_files import check_weights
from selfjudge.errors import SelfJudgeError
from selfjudge.recipes.load import SHIPPED as RECIPES
from selfjudge.recipes.load import changed, dump_recipe, load_recipe, shipped_recipes
from selfjudge.records import LabelProbabilities, Match, OrderProbabilities, Verdict
from selfjudge.serving.gate import read_key_hashes
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.template import SETS, parse_template

_half = st.sampled_from(["\ud800", "\udfff"])  # halves of characters, as JSON's escapes can have them
_any_text = st.one_of(texts, st.text(max_size=8), _half)
_numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, True, 1e308, -1e308, math.nan, math.inf])
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _any_text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_any_text, inner, max_size=3)),
    max_leaves=6,
)


def _mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is expected, and now and then anything else."""
    return st.integers(0, 7).flatmap(lambda i: strategy if i else _values)


_role = _mostly(st.sampled_from(["system", "user", "assistant"]))
_message = _mostly(st.fixed_dictionaries({"role": _role, "content": _mostly(texts)}))
_messages = _mostly(st.lists(_message, max_size=4))
_transcript = st.lists(
    st.one_of(texts, st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "Human: ", "\n\n"])), max_size=8
).map("".join)
_hh = st.tuples(_transcript, texts).map(lambda p: f"\n\nHuman: {p[0]}\n\nAssistant: {p[1]}")
_MARKS = [
    "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n", "<think>", "</think>", "[INST]", "</s>", "x",
    "[{'role': 'user', 'content': ", '[{"from": "gpt", "value": ', "'x'", '"x"', "}]", "[" * 2000, "-" * 9000 + "1",
]  # fmt: skip
_structure = st.one_of(
    _messages.map(json.dumps), _messages.map(repr), st.lists(st.sampled_from(_MARKS), max_size=5).map("".join)
)
_text = _mostly(st.one_of(texts, _hh, st.sampled_from(["x", "Name a fox."]), _structure))
_rating = _mostly(st.fixed_dictionaries({"Rating": st.sampled_from(["1", "5", "N/A", "nan"]), "Rationale": _text}))
_completion = st.fixed_dictionaries(
    {"response": _text, "annotations": _mostly(st.dictionaries(st.sampled_from(["honesty", "helpfulness"]), _rating))}
)
_COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.one_of(_text, _messages) for name in ("prompt", "chosen", "rejected")},
    **dict.fromkeys(("response_a", "response_b", "response_A", "question", "instruction", "answer", "source"), _text),
    **{name: _mostly(_numbers) for name in ("score_chosen", "score_rejected", "chosen-rating", "rejected-rating")},
    **dict.fromkeys(("conversation_a", "conversation_b"), _messages),
    **dict.fromkeys(
        ("overall_preference", "better_response_id", "preference", "annotator1", "margin", "turn"), _numbers
    ),
    **dict.fromkeys(("labels", "score_A", "score_B", "score_0", "score_1", "score_a", "score_b"), _numbers),
    "individual_preference": _mostly(st.lists(_mostly(st.fixed_dictionaries({"score": _numbers})), max_size=3)),
    "winner": _mostly(st.sampled_from(["model_a", "model_b", "tie (bothbad)"])),
    **dict.fromkeys(("winner_model_a", "winner_model_b", "winner_tie"), _mostly(st.sampled_from([0, 1, "1"]))),
    "answers": _mostly(st.lists(_mostly(st.fixed_dictionaries({"answer": _text, "rank": _numbers})), max_size=3)),
    "label": _mostly(st.sampled_from(["A", "B", "tie", "A>B"])),
    "id": _mostly(st.one_of(texts, st.integers())),
    **{name: st.one_of(_text, _messages, _message) for name in ("messages", "rejected_response", "system", "input")},
    "history": _mostly(st.lists(st.lists(_text, min_size=2, max_size=2), max_size=2)),
    "output": _mostly(st.lists(_text, min_size=2, max_size=2)),
    "principle": _text,
    "completions": _mostly(st.lists(_mostly(_completion), max_size=4)),
    "candidates": _mostly(st.lists(_text, max_size=4)),
    "scores": _mostly(st.lists(_numbers, max_size=4)),
    "samples": _mostly(st.lists(_mostly(st.fixed_dictionaries({"response": _text, "score": _numbers})), max_size=3)),
    "best": _mostly(st.fixed_dictionaries({"response": _text})),
    "losers": _mostly(st.lists(_mostly(st.fixed_dictionaries({"response": _text})), max_size=3)),
    "turns": _mostly(st.lists(_text, max_size=3)),
    "instruction_id_list": _mostly(st.lists(texts, max_size=2)),
    "kwargs": _mostly(st.lists(st.dictionaries(texts, _values, max_size=2), max_size=2)),
}
_SHAPES = [
    ("chosen", "rejected"), ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
    ("id", "prompt", "chosen", "rejected", "principle"), ("prompt", "response_a", "response_b", "label"),
    ("instruction", "completions"), ("prompt", "candidates", "scores"), ("prompt", "samples"),
    ("prompt", "best", "losers"),
    ("question", "response_A", "response_B", "label"), ("turns", "prompt"),
    ("messages", "chosen", "rejected", "system", "history"), ("messages", "rejected_response"),
    ("instruction", "input", "output"),
    ("instruction", "instruction_id_list", "kwargs"),
    ("conversation_a", "conversation_b", "winner", "turn"),
    ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
    ("prompt", "response1", "response2", "overall_preference"),
    ("prompt", "response_1", "response_2", "individual_preference"),
    ("prompt", "response_0", "response_1", "better_response_id"), ("prompt", "output_1", "output_2", "preference"),
    ("prompt", "response1", "response2", "annotator1"), ("prompt", "chosen", "rejected", "margin"),
    ("prompt", "answers"), ("prompt", "completions", "scores"),
    ("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"),
    ("question", "answer_0", "answer_1", "score_0", "score_1"),
    ("prompt", "response_a", "response_b", "score_a", "score_b"),
]  # fmt: skip


def _row(shape: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    required = {name: _COLUMNS.get(name, _text) for name in shape}
    optional = {name: _COLUMNS[name] for name in ("id", "label", "source") if name not in shape}
    return st.fixed_dictionaries(required, optional=optional)


_rows = st.sampled_from(_SHAPES).flatmap(
    lambda shape: st.lists(st.one_of(_row(shape), _row(shape), _values), min_size=1, max_size=4)
)


def check_rows(rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder() / "rows.jsonl").write_text(text)
    (folder() / "rows.json").write_text(json.dumps(rows))
    load(folder() / "rows.jsonl")
    load(folder() / "rows.json")
    parquet = folder() / "rows.parquet"
    with suppress(pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
        pq.write_table(pa.Table.from_pylist([row for row in rows if isinstance(row, dict)]), parquet)
        load(parquet)


@st.composite
def _files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of some type, whole or damaged."""
    name = draw(st.sampled_from(["d.jsonl", "d.jsonl.gz", "d.json", "d.parquet", "d.txt"]))
    rows = [{"prompt": "Name a fox.", "chosen": "fox", "rejected": draw(texts)}] * draw(st.integers(0, 3))
    if name == "d.parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder() / name)
        content = (folder() / name).read_bytes()
    else:
        content = (
            json.dumps(rows).encode() if name == "d.json" else "".join(json.dumps(r) + "\n" for r in rows).encode()
        )
        content = gzip.compress(content) if name.endswith(".gz") else content
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.binary(max_size=6)) + content[place + draw(st.integers(0, 4)) :]
    return name, content


def check_file(file: tuple[str, bytes]) -> None:
    name, content = file
    (folder() / name).write_bytes(content)
    load(folder() / name)


def check_prompt(case: tuple[str, str, str, str, str]) -> None:
    tokenizer, set_, first, second, question = case
    check_frame(encoders(tokenizer)[set_], first, second, question)


_prompts = st.tuples(
    st.sampled_from(list(TOKENIZERS)), st.sampled_from(sorted(p.name for p in SETS.iterdir())), texts, texts, texts
)
_probability = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 5e-324, 0.5, 1 - 2**-53]))
_orders = st.builds(
    lambda a, b, c, d: OrderProbabilities(AB=LabelProbabilities(A=a, B=b), BA=LabelProbabilities(A=c, B=d)),
    *[_probability] * 4,
)


def check_verdict(orders: list[OrderProbabilities]) -> None:
    verdict = combine([principle_verdict(str(i), p) for i, p in enumerate(orders)])
    assert 0 <= verdict.strength <= 1
    assert 0 <= verdict.label_mass <= 1
    other = mirrored(verdict)
    assert other.preferred == {"A": "B", "B": "A", "tie": "tie"}[verdict.preferred]
    assert math.isclose(other.strength, 1 - verdict.strength, abs_tol=1e-9)
    assert (other.agree, other.label_mass) == (verdict.agree, verdict.label_mass)
    assert mirrored(other) == verdict
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    if len(orders) == 1 and verdict.preferred != "tie":
        assert (verdict.strength >= 0.5) == (verdict.preferred == "A") or math.isclose(verdict.strength, 0.5)


def check_bracket(case: tuple[int, int, random.Random]) -> None:
    n, seed, chance = case
    state = BracketState(n, seed)
    assert sorted(state.order) == list(range(n))
    tie = combine([principle_verdict("p", OrderProbabilities.model_validate(_TIE))])
    matches: list[Match] = []
    while not state.finished:
        pairs = state.pairings()
        winners = [chance.choice([*pair, tie_winner(*pair, seed, state.round)]) for pair in pairs]
        matches += [
            Match(round=state.round, a=a, b=b, winner=w, verdict=tie) for (a, b), w in zip(pairs, winners, strict=True)
        ]
        played = {side for pair in pairs for side in pair}
        assert len(played) == 2 * len(pairs)
        assert set(state.alive) - played <= {state.alive[-1]}
        state.advance(winners)
        assert sorted(placing(state.alive, matches)) == list(range(n))
    assert len(matches) == n - 1
    assert state.round == math.ceil(math.log2(n))
    lost = [m.a + m.b - m.winner for m in matches]
    assert sorted([*lost, *state.alive]) == list(range(n))
    assert placing(state.alive, matches)[0] == state.alive[0]


_TIE = {order: {"A": 0.5, "B": 0.5} for order in ("AB", "BA")}
_brackets = st.tuples(st.integers(1, 70), st.integers(), st.randoms(use_true_random=False))

_YAML = [
    "&a", "*a", "<<: *a", "!!python/object:os.system", "!!binary aGk=", "!!set {a}", "!!float x", "2024-13-45",
    "1:60:1", ".nan",
    "-.inf", "9" * 5000, "0x", "0o9", "[" * 50, "{", "? ", "- ", ": ", "|", ">", "'", '"', "\t", "%YAML 3.0", "---",
    "...",
    "null", "~", "true", "1e999", "../../x", "\x00", "é", "name: ..",
]  # fmt: skip


@st.composite
def _recipe_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A shipped recipe, damaged, and changes to it."""
    lines = (RECIPES / f"{draw(st.sampled_from(shipped_recipes()))}.yaml").read_text().splitlines()
    keys = [line.strip().split(":")[0] for line in lines if ":" in line]
    value = st.one_of(st.sampled_from(_YAML), _any_text.filter(lambda t: t.isascii()), _numbers.map(repr))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            lines[place] = lines[place].partition(":")[0] + ": " + draw(value)
        elif kind == 1:
            lines.insert(place, draw(value))
        elif kind == 2:
            del lines[place]
        else:
            lines[place] = "  " * draw(st.integers(0, 3)) + lines[place].strip()
        lines = lines or [""]
    part = st.one_of(st.sampled_from([*keys, "model", "data", "sources", "0", "training", "²", "9" * 5000]), texts)
    change = st.tuples(st.lists(part, max_size=4).map(".".join), value).map("=".join)
    return "\n".join(lines), draw(st.lists(st.one_of(change, texts), max_size=3))


def check_recipe(case: tuple[str, list[str]]) -> None:
    text, overrides = case
    file = folder() / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(SelfJudgeError):
        recipe = load_recipe(file, overrides)
        assert "/" not in recipe.name
        file.write_text(dump_recipe(recipe), encoding="utf-8")
        again = load_recipe(file)
        assert dump_recipe(again) == dump_recipe(recipe)
        changed(recipe, ["seed=1"])


def check_transcript(text: str) -> None:
    with suppress(Reject):
        turns = read_transcript(text)
        assert [turn.role for turn in turns] == [("user", "assistant")[i % 2] for i in range(len(turns))]
        # Nothing said is lost, and nothing is added but the marks of turns.
        said = "".join("".join(turn.content.split()) for turn in turns)
        marks = "".join("Human:" if turn.role == "user" else "Assistant:" for turn in turns)
        assert len("".join(text.split())) == len(said) + len(marks)


_TEMPLATE = [
    "[system]", "[user]", "[assistant]", "[rationale]", "[x]", "{context}", "{response_a}", "{response_b}", "{label}",
    "{rationale_a}", "{rationale_b}", "{", "}", "{{x}}", "\n", "\ufeff",
]  # fmt: skip
_template_bytes = st.one_of(
    st.lists(st.one_of(st.sampled_from(_TEMPLATE), texts), max_size=14).map("\n".join).map(str.encode),
    st.binary(max_size=40),
)


def check_small_file(content: bytes) -> None:
    """Judgment templates, files of key hashes, indexes of weights."""
    file = folder() / "overall.txt"
    file.write_bytes(content)
    with suppress(SelfJudgeError):
        template = parse_template(file)
        template.messages("c", "a", "b")
    with suppress(SelfJudgeError):
        read_key_hashes(file)
    (folder() / "model.safetensors").touch()
    (folder() / "model.safetensors.index.json").write_bytes(content)
    with suppress(SelfJudgeError):
        check_weights(folder())


@cache
def _asking_engine() -> OpenAIEngine:
    """The engine of a server, without the server."""
    engine = object.__new__(OpenAIEngine)
    engine.__dict__ |= {
        "base_url": "http://x/v1",
        "model": "m",
        "chat": ChatEncoder(TOKENIZERS["world"]()),
        "_label_texts": {},
        "_server": ServerConnection("http://x/v1", "", 1, 1.0, 0, 0.0),
    }
    return engine


_TOKENS = st.one_of(st.sampled_from(["token_id:5", "token_id:x", "token_id:99999999999", "A", " A", "B"]), texts)
_logprobs = _mostly(
    st.fixed_dictionaries(
        {},
        optional={
            "tokens": _mostly(st.lists(_mostly(_TOKENS), max_size=3)),
            "token_logprobs": _mostly(st.lists(_mostly(_numbers), max_size=3)),
            "top_logprobs": _mostly(
                st.lists(_mostly(st.dictionaries(_TOKENS, _mostly(_numbers), max_size=3)), max_size=2)
            ),
            "content": _mostly(st.lists(_values, max_size=2)),
        },
    )
)
_choices = st.fixed_dictionaries(
    {"finish_reason": _mostly(st.sampled_from(["stop", "length"])), "text": _mostly(texts)},
    optional={"logprobs": _logprobs, "token_ids": _mostly(st.lists(_mostly(st.integers(-1, 10**6)), max_size=3))},
)


def check_answer(choice: dict[str, Any]) -> None:
    """What a server that is broken, or hostile, answers."""
    engine = _asking_engine()
    with suppress(SelfJudgeError):
        engine._server._understood(lambda: engine._completion(0, choice))
    with suppress(SelfJudgeError):
        a, b = engine._server._understood(lambda: engine._label_pair(0, (5, 6), [choice]))
        assert 0 <= a <= 1
        assert 0 <= b <= 1


@dataclass(frozen=True)
class Target:
    """Inputs, and what is tried with each."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]


TARGETS = {
    "rows of data": Target(_rows, check_rows),
    "files of data": Target(_files(), check_file),
    "raw files of data": Target(raw_files(_any_text), check_raw),
    "cells of data": Target(cells(_values, _any_text), check_cells),
    "HH transcripts": Target(_transcript, check_transcript),
    "judgment prompts": Target(_prompts, check_prompt),
    "verdicts": Target(st.lists(_orders, min_size=1, max_size=4), check_verdict),
    "brackets": Target(_brackets, check_bracket),
    "recipes": Target(_recipe_texts(), check_recipe),
    "templates, keys, indexes": Target(_template_bytes, check_small_file),
    "answers of servers": Target(_choices, check_answer),
    "requests to the server": Target(server_requests.requests(_values, _any_text), server_requests.check),
}
