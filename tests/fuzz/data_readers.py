"""What reads data, under anything: raw bytes of every file type, cells of every kind, and texts that hold messages."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from selfjudge.data.candidates import load_candidates
from selfjudge.data.eval_prompts import load_eval_prompts
from selfjudge.data.formats import FORMATS, Dropped, Pairing, Reject, Row
from selfjudge.data.judge_sets import load_judge_set
from selfjudge.data.prompts import load_comparisons, load_prompts
from selfjudge.data.raw import SUFFIXES
from selfjudge.data.sources import load_preferences, write_records
from selfjudge.errors import SelfJudgeError
from selfjudge.records import PreferenceRecord

Values = st.SearchStrategy[Any]
LOADERS = (load_preferences, load_comparisons, load_prompts, load_candidates, load_judge_set, load_eval_prompts)

_LISTS = ("completions", "responses", "answers", "outputs", "candidates")
_NUMBER_LISTS = ("scores", "ratings", "ranks", "individual_preference")
_NUMBERS = (
    *("score_chosen", "score_rejected", "chosen_score", "rejected_score", "margin", "strength", "better_response_id"),
    *("labels", "score_A", "score_B", "score_0", "score_1", "rating_a", "rating_b"),
    *("winner_model_a", "winner_model_b", "winner_tie", "annotator1", "annotator2", "turn"),
)
_LABELS = ("label", "winner", "preference", "preferred", "overall_preference")
_SHAPES = [
    ("prompt", "chosen", "rejected"), ("chosen", "rejected"), ("id", "prompt", "chosen", "rejected", "principle"),
    ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"), ("question", "chosen", "rejected", "margin"),
    ("prompt", "response_a", "response_b", "label"), ("conversation_a", "conversation_b", "winner", "turn"),
    ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
    ("prompt", "response_1", "response_2", "overall_preference"), ("instruction", "output_1", "output_2", "preference"),
    ("prompt", "response_1", "response_2", "individual_preference"),
    ("prompt", "response_0", "response_1", "better_response_id"), ("prompt", "responses", "scores"),
    ("instruction", "input", "response1", "response2", "annotator1", "annotator2"), ("prompt", "answers"),
    ("prompt", "candidates", "ranks"), ("instruction", "completions"),
    ("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"),
    ("question", "answer_0", "answer_1", "score_0", "score_1"),
    ("prompt", "response_a", "response_b", "rating_a", "rating_b"),
]  # fmt: skip
"""Columns that make a row of some published set."""
_NAMES = [
    *dict.fromkeys(name for names in (_LISTS, _NUMBER_LISTS, _NUMBERS, _LABELS, *_SHAPES) for name in names),
    *("context", "history", "conversation", "messages", "system", "system_prompt", "rank", "source", "annotations"),
    *("Unnamed: 0", "turns", "tools", "images", "response_c"),
]
_ROLES = ["system", "user", "assistant", "human", "gpt", "Human", "tool", "function", "model", "developer", ""]
_TURN_MARKS = [
    *("\n\nHuman: ", "\n\nAssistant: ", "Human:", "\n", " ", "<|im_start|>", "<|im_end|>", "<|im_start|>user\n"),
    *("<|im_start|>assistant\n", "<|im_end|>\n", "[INST]", "[/INST]", "<s>", "</s>", "<|eot_id|>", "### Response:"),
    *("<|start_header_id|>user<|end_header_id|>\n\n", "<think>", "</think>", "[{'role': 'user', 'content': '", "'}]"),
    *('[{"role": "user", "content": "', '"}]', "array([", "], dtype=object)", "{", "}", "[", "]", "'", '"', "\\", ","),
    *("[" * 3000, "{'role':" * 500, "-" * 3000, "9" * 5000, "\x00", "\ud800", "f'", "b'x'", "{1, 2}", "1e999", "NaN"),
]
_DEEP = [
    f'[{{"role": "user", "content": {"[" * 9000}{"]" * 9000}}}]',
    f"[{{'role': 'user', 'content': {'[' * 9000}{']' * 9000}}}]",
    f"[{{'role': 'user', 'content': {'-' * 9000}1}}]",
    f"[{{'role': 'user', 'content': {'9' * 5000}}}]",
    "[{'role': 'user', 'content': {[]: 1}}]",
]
"""Messages that parsers give up on."""
_CSV = ['"', '""', ",", ";", "\r", "\n", "\r\n", "\x00", "prompt,chosen,rejected\n", "prompt", "x" * 200_000, "\ufeff"]


def texts_with_messages(values: Values, texts: Values) -> Values:
    """Messages as JSON, as Python, as a printed array, as a transcript or as ChatML, whole and damaged."""
    fields = st.sampled_from(["role", "content", "from", "value", "text", "weight", "tool_calls", "name", "thinking"])
    message = st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(_ROLES), "content": st.one_of(texts, values)}),
        st.fixed_dictionaries({"from": st.sampled_from(_ROLES), "value": texts}),
        st.dictionaries(fields, st.one_of(st.sampled_from(_ROLES), texts, values), max_size=4),
    )
    held = st.one_of(st.lists(message, max_size=4), message, message.map(lambda m: {"messages": [m]}), values)
    turns = st.lists(st.tuples(st.sampled_from(_ROLES), texts), max_size=4)
    written = st.one_of(
        st.sampled_from(_DEEP),
        held.map(json.dumps),
        held.map(repr),
        held.map(lambda value: f"array({value!r}, dtype=object)"),
        turns.map(lambda turns: "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)),
        turns.map(lambda turns: "".join(f"\n\n{role.title()}: {text}" for role, text in turns)),
        st.lists(st.one_of(st.sampled_from(_TURN_MARKS), texts), max_size=10).map("".join),
    )
    return st.one_of(written, st.tuples(written, st.integers(0, 60), st.sampled_from(_TURN_MARKS)).map(_damaged), held)


def _damaged(case: tuple[str, int, str]) -> str:
    text, place, mark = case
    return text[:place] + mark + text[place + 2 :]


def cells(values: Values, texts: Values) -> Values:
    """Rows of columns with known names, and of others, mostly with what such a column holds; and names for columns."""
    anything = st.one_of(texts_with_messages(values, texts), values)
    plain = st.sampled_from(["x", "Name a fox.", "fox", "an owl, two foxes", '["a", "b"]', "a\n<extra_id_1>User\nb"])
    said = st.one_of(plain, st.lists(plain, min_size=2, max_size=2), texts, anything)
    number = st.sampled_from([0, 1, 2, -3, 1.5, "1", "7.0", "N/A", "nan", 10**400, 1e308, -1e308, True, None, 5])
    fields = {"text": said, "score": number, "rank": number}
    answer = st.one_of(said, st.fixed_dictionaries({}, optional=fields))
    label = st.sampled_from(["A", "b", "tie", "model_a", "model_b", "tie (bothbad)", "A>B", 0, 1, 2, -2, 1.5, None])
    lists = {
        **dict.fromkeys(_LISTS, st.lists(answer, min_size=2, max_size=3)),
        **dict.fromkeys(_NUMBER_LISTS, st.lists(number, min_size=2, max_size=3)),
    }
    likely = {
        **dict.fromkeys(_NAMES, said),
        **dict.fromkeys(_NUMBERS, number),
        **dict.fromkeys(_LABELS, label),
        **{name: st.one_of(found, found.map(repr), found.map(json.dumps)) for name, found in lists.items()},
    }

    def cell(name: str) -> Values:
        return st.integers(0, 9).flatmap(lambda i: likely.get(name, said) if i else anything)

    def row(names: tuple[str, ...]) -> Values:
        more = st.lists(st.one_of(st.sampled_from(_NAMES), texts), max_size=3)
        return more.flatmap(lambda found: st.fixed_dictionaries({name: cell(name) for name in (*names, *found)}))

    names = st.one_of(st.sampled_from(_SHAPES), st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4).map(tuple))
    name = st.one_of(st.sampled_from(_NAMES), texts)
    return st.tuples(st.lists(names.flatmap(row), min_size=1, max_size=3), st.dictionaries(name, name, max_size=2))


@st.composite
def raw_files(draw: st.DrawFn, texts: Values) -> tuple[str, bytes]:
    """A name of every file type, and bytes that need not be of that type."""
    name = f"raw{draw(st.sampled_from([*SUFFIXES, '', '.txt', '.JSONL', '.parquet.gz']))}"
    rows = [{"prompt": draw(texts), "chosen": draw(texts), "rejected": "b"} for _ in range(draw(st.integers(0, 2)))]
    content = draw(
        st.one_of(
            st.binary(max_size=60),
            st.lists(st.one_of(st.sampled_from(_CSV), texts), max_size=8).map("".join).map(_encoded),
            st.sampled_from([_as_csv(rows), _as_parquet(rows), json.dumps(rows).encode()]),
            st.sampled_from(["utf-8-sig", "utf-16", "latin-1"]).map(lambda e: json.dumps(rows).encode(e)),
        )
    )
    if name.endswith(".gz") and draw(st.booleans()):
        content = gzip.compress(content)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.binary(max_size=4)) + content[place + draw(st.integers(0, 4)) :]
    return name, content


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _as_csv(rows: list[dict[str, str]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["prompt", "chosen", "rejected"])
    writer.writeheader()
    writer.writerows(rows)
    return _encoded(out.getvalue())


def _as_parquet(rows: list[dict[str, str]]) -> bytes:
    """A table of as many rows, with a time, bytes and a nested list, which JSON does not have."""
    moment = datetime.datetime(2025, 1, 2, tzinfo=datetime.UTC)
    row = {"prompt": [{"role": "user", "content": "x"}], "chosen": "a", "rejected": b"b", "id": moment}
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row] * len(rows)), out)
    return out.getvalue()


@cache
def folder() -> Path:
    """One folder for all files of this process."""
    made = tempfile.TemporaryDirectory(prefix="selfjudge-fuzz-")
    _keep.append(made)
    return Path(made.name)


_keep: list[Any] = []


def load(path: Path) -> None:
    """Has every loader read a file; records that are found are written and read back."""
    for loader in LOADERS:
        with suppress(SelfJudgeError):
            found = loader(path)
            if loader is load_preferences:
                for record in found.records:
                    assert PreferenceRecord.model_validate_json(record.model_dump_json()) == record
                written = folder() / "written.jsonl"
                write_records(found.records, written, overwrite=True)
                assert load_preferences(written).fingerprint == found.fingerprint


def check_raw(file: tuple[str, bytes]) -> None:
    """Bytes are read, or refused in words."""
    name, content = file
    (folder() / name).write_bytes(content)
    load(folder() / name)


def check_cells(case: tuple[list[dict[str, Any]], dict[str, str]]) -> None:
    """Whatever a row holds, each format reads or rejects it, by itself and from a file."""
    rows, columns = case
    for form in FORMATS.values():
        for data in rows:
            _parse(form, data)
    path = folder() / "cells.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    load(path)
    for form in FORMATS.values():
        for given in ({}, columns):
            with suppress(SelfJudgeError):
                load_preferences(path, format=form.name, columns=given)


def _parse(form: Any, data: dict[str, Any]) -> None:
    assert form.fits(data) in (True, False)
    row = Row(data, 1, 0, "fuzz")
    with suppress(Reject):
        for found in form.parse(row, Pairing()):
            if isinstance(found, Dropped):
                assert found.reason
            else:
                assert PreferenceRecord.model_validate_json(found.model_dump_json()) == found
                assert found.chosen.strip() != found.rejected.strip()
    row.unused()
