"""Rows and prompts that are tokenized together and kept in files are those of each record alone."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from stored_data import prepared_records
from transformers import PreTrainedTokenizerFast

from selfjudge.data import encoded as encoded_module
from selfjudge.data.encoded import both, encode_judgment_rows, encode_policy_rows, encode_prompts, encode_rows
from selfjudge.data.load import policy_records
from selfjudge.data.rows import DroppedRow, judgment_rows, policy_rows
from selfjudge.data.store import Cache
from selfjudge.errors import RowError
from selfjudge.records import Message, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.fingerprint import chat_fingerprint
from selfjudge.templates.template import load_templates

STRICT = (
    "{% for m in messages %}{% if m.content == 'No.' %}{{ raise_exception('not this') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def chat(chatml_tokenizer: PreTrainedTokenizerFast) -> ChatEncoder:
    chatml_tokenizer.chat_template = STRICT
    return ChatEncoder(chatml_tokenizer)


@pytest.fixture
def encoder(chat: ChatEncoder) -> JudgmentEncoder:
    return JudgmentEncoder(load_templates("general"), chat)


def record(i: int, *turns: str, chosen: str = "", **fields: Any) -> PreferenceRecord:
    prompt = tuple(Message(role="assistant" if j % 2 else "user", content=text) for j, text in enumerate(turns))
    chosen = chosen or f"{i}. " + "very long " * i + "<|im_end|> ### Response A\nend"
    return PreferenceRecord(id=f"r{i // 2}", prompt=prompt, chosen=chosen, rejected=f"Not {i}", **fields)


RECORDS = [
    record(0, "Say it."),
    record(1, "Say it.", "It.", "Again."),
    record(2, "No."),  # which the chat template refuses
    record(3, "Say it.", principle="honesty"),  # which the template set does not know
    record(4, "A long one."),
    record(5, "Zwölf? 你好! 🙂"),
    record(6, "Say it.", chosen="0.  <|im_end|>\n### Response A end"),  # the first one's in another spelling
]
LONGEST = 75


@pytest.fixture(params=[(128, 25_000, 1000), (2, 3, 1000), (3, 4, 1)], ids=["one part", "parts", "workers"])
def batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("_BATCH", "_AT_A_TIME", "_WORTH_A_WORKER"), request.param, strict=True):
        monkeypatch.setattr(encoded_module, name, value)
    monkeypatch.setattr(encoded_module, "processors", lambda: 2)


def alone(
    rows_of: Any, records: Sequence[PreferenceRecord], longest: int, *, grouped: bool
) -> tuple[list[Any], list[DroppedRow]]:
    """The rows of each record made alone, and those that are too long or refused."""
    made: list[Any] = []
    dropped: list[DroppedRow] = []
    for place, each in enumerate(records):
        try:
            rows = rows_of(each, place)
        except RowError as e:
            dropped.append(DroppedRow("judgment" if grouped else "policy", each.id, str(e)))
            continue
        except KeyError:
            reason = "template set 'general' has no principle 'honesty'"
            dropped.append(DroppedRow("judgment", each.id, reason))
            continue
        fitting = tuple(row for row in rows if len(row.ids) <= longest)
        made += [fitting] if grouped and fitting else [] if grouped else [(row,) for row in fitting]
        long = f"longer than {longest} tokens"
        dropped += [DroppedRow(row.kind, row.name, long) for row in rows if len(row.ids) > longest]
    return made, dropped


@pytest.mark.usefixtures("batches")
def test_policy_rows(chat: ChatEncoder, tmp_path: Path) -> None:
    data = prepared_records(RECORDS)
    records = policy_records(data.policy)
    assert [r.chosen for r in records] == [r.chosen for r in RECORDS if r is not RECORDS[3] and r is not RECORDS[6]]
    found = encode_policy_rows(records, chat, LONGEST, "x", Cache(tmp_path))
    made, dropped = alone(lambda r, _: policy_rows(r, chat), list(records), LONGEST, grouped=False)
    assert (found.examples, found.dropped) == (made, dropped)
    assert found.rows == {"policy": len(made)}
    assert min(len(made), len(dropped)) > 1  # else there is nothing to see


@pytest.mark.usefixtures("batches")
def test_judgment_rows(encoder: JudgmentEncoder, chat: ChatEncoder, tmp_path: Path) -> None:
    data = prepared_records(RECORDS)
    known = [r for r in RECORDS if r.principle == "overall" and r is not RECORDS[2]]
    lengths = sorted(len(row.ids) for r in known for row in judgment_rows(r, encoder))
    longest = lengths[len(lengths) // 2]
    found = encode_judgment_rows(data.judgment, encoder, chat, longest, "x", Cache(tmp_path))
    made, dropped = alone(lambda r, i: judgment_rows(r, encoder, place=i), RECORDS, longest, grouped=True)
    assert (found.examples, found.dropped) == (made, dropped)
    assert found.rows == {"judgment": sum(map(len, made))}
    assert min(len(made), len(dropped)) > 2  # else there is nothing to see
    assert len({rows[0].pair for rows in found.examples}) == len(made)  # though ids repeat
    policy = encode_policy_rows(policy_records(data.policy), chat, longest, "x", Cache(tmp_path))
    together = both(policy, found)
    assert list(together.examples) == [*policy.examples, *found.examples]
    assert together.rows == {**policy.rows, **found.rows}


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("long", [256, 8])
def test_both_kinds_in_one_go(
    encoder: JudgmentEncoder, chat: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: int
) -> None:
    data, shared = prepared_records(RECORDS), Cache(tmp_path)
    one_by_one = [
        encode_policy_rows(policy_records(data.policy), chat, LONGEST, "x", shared),
        encode_judgment_rows(data.judgment, encoder, chat, LONGEST, "x", shared),
    ]
    apart = both(*one_by_one)
    tokenized: list[str] = []
    honest = chat.tokens._tokenize
    monkeypatch.setattr(chat.tokens, "_tokenize", lambda texts: tokenized.extend(texts) or honest(texts))
    monkeypatch.setattr("selfjudge.templates.exact_cuts.LONG", long)
    found = encode_rows(data.policy, encoder, chat, LONGEST, "x", shared)
    assert (found.examples, found.dropped, found.rows) == (apart.examples, apart.dropped, apart.rows)
    assert len(tokenized) == len({*tokenized}) or len(RECORDS) > encoded_module._BATCH
    again = encode_rows(data.policy, encoder, chat, LONGEST, "x", shared)
    assert (again.examples, again.dropped, again.rows) == (found.examples, found.dropped, found.rows)


@pytest.mark.usefixtures("batches")
def test_prompts(chat: ChatEncoder, tmp_path: Path) -> None:
    data = prepared_records(RECORDS)
    found = encode_prompts(data.prompts, chat, "x", Cache(tmp_path))
    assert [row["place"] for row in found] == list(range(len(RECORDS)))
    assert [row["reason"] is None for row in found] == [r is not RECORDS[2] for r in RECORDS]
    assert [row["ids"] for row in found if row["ids"]] == [
        chat.prompt_ids(r.prompt) for r in RECORDS if r is not RECORDS[2]
    ]
    assert found.numbers("length").tolist() == [len(row["ids"]) for row in found]
    assert [tuple(m["content"] for m in row["prompt"]) for row in found][1] == ("Say it.", "It.", "Again.")


def test_rationales_follow_their_labels(chat: ChatEncoder, tmp_path: Path) -> None:
    encoder = JudgmentEncoder(load_templates("ultrafeedback-principles"), chat)
    told = record(0, "Say it.", principle="honesty", chosen_rationale="True.", rejected_rationale="False.")
    cache = Cache(tmp_path)
    data = prepared_records([told])
    for rationale in (True, False):  # kept apart in one cache
        found = encode_judgment_rows(data.judgment, encoder, chat, 9999, "x", cache, rationale=rationale)
        assert list(found.examples) == [tuple(judgment_rows(told, encoder, rationale=rationale))]


def test_no_records(chat: ChatEncoder, encoder: JudgmentEncoder, tmp_path: Path) -> None:
    data = prepared_records([])
    policy = encode_policy_rows(policy_records(data.policy), chat, LONGEST, "x", Cache(tmp_path))
    judgments = encode_judgment_rows(data.judgment, encoder, chat, LONGEST, "x", Cache(tmp_path))
    assert (list(policy.examples), list(judgments.dropped)) == ([], [])
    assert both(policy, judgments).rows == {"policy": 0, "judgment": 0}
    together = encode_rows(data.policy, encoder, chat, LONGEST, "x", Cache(tmp_path))
    assert (list(together.examples), together.rows) == ([], {"policy": 0, "judgment": 0})
    assert list(encode_prompts(data.prompts, chat, "x", Cache(tmp_path))) == []


def test_a_second_start_tokenizes_nothing(chat: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = prepared_records(RECORDS).policy
    first = encode_policy_rows(records, chat, LONGEST, "x", Cache(tmp_path))
    monkeypatch.setattr(encoded_module, "policy_examples", lambda *_: pytest.fail("it was tokenized again"))
    again = encode_policy_rows(records, chat, LONGEST, "x", Cache(tmp_path))
    assert (again.examples, again.dropped, again.rows) == (first.examples, first.dropped, first.rows)


@pytest.mark.parametrize("what", ["data", "length", "template", "tokenizer"])
def test_what_would_give_other_rows_is_made_anew(
    chat: ChatEncoder, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, what: str
) -> None:
    records = prepared_records(RECORDS).policy
    encode_policy_rows(records, chat, LONGEST, "x", Cache(tmp_path))
    if what == "template":
        chatml_tokenizer.chat_template = STRICT.replace("m.content + '<", "m.content + ' <")
    if what == "tokenizer":
        chatml_tokenizer.add_tokens(["very long"])
    now, made_from = ChatEncoder(chatml_tokenizer), "y" if what == "data" else "x"
    encode_policy_rows(records, now, LONGEST + (what == "length"), made_from, Cache(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_start_goes_on_behind_what_is_done(
    chat: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_module, "_AT_A_TIME", 3)
    records = prepared_records(RECORDS).policy
    whole = encode_policy_rows(records, chat, LONGEST, "x", Cache(tmp_path / "whole"))
    calls: list[int] = []
    honest = encoded_module.policy_examples

    def interrupted(batch: Sequence[PreferenceRecord], *args: Any) -> Any:
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(batch, *args)

    monkeypatch.setattr(encoded_module, "policy_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_policy_rows(records, chat, LONGEST, "x", Cache(tmp_path / "cut"))
    again = encode_policy_rows(records, chat, LONGEST, "x", Cache(tmp_path / "cut"))
    assert calls == [3, 3, 3, 1]  # the first part was not made again
    assert (again.examples, again.dropped) == (whole.examples, whole.dropped)


def test_the_date_of_a_template_is_part_of_what_rows_are_made_from(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    from datetime import date

    days = [date(2026, 1, 1), date(2026, 1, 2)]
    assert len({chat_fingerprint(ChatEncoder(chatml_tokenizer, today=day)) for day in days}) == 1
    chatml_tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + STRICT
    assert len({chat_fingerprint(ChatEncoder(chatml_tokenizer, today=day)) for day in days}) == 2


def test_an_error_of_a_worker_is_the_run_s(chat: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_BATCH", 1), ("_WORTH_A_WORKER", 1), ("processors", lambda: 2)):
        monkeypatch.setattr(encoded_module, name, value)
    honest = encoded_module.policy_examples

    def examples(batch: Sequence[PreferenceRecord], *args: Any) -> Any:
        if batch[0].chosen != RECORDS[0].chosen:
            return honest(batch, *args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(encoded_module, "policy_examples", examples)
    before = psutil.Process().children(recursive=True)  # of other tests in this process
    with pytest.raises(OSError, match="No space left"):
        encode_policy_rows(prepared_records(RECORDS).policy, chat, LONGEST, "x", Cache(tmp_path))
    assert {*psutil.Process().children(recursive=True)} <= {*before}
