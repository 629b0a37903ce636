"""JSFT rows at token level and their batches."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from selfjudge.data.collate import JsftCollator
from selfjudge.data.rows import Row, build_judgment_rows, build_policy_rows, examples, judgment_rows, policy_rows
from selfjudge.records import Message, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates


def record(**values: Any) -> PreferenceRecord:
    fields = {
        "id": "r1",
        "prompt": (Message(role="user", content="Name two things."),),
        "chosen": "oak, fern",
        "rejected": "fern",
    }
    return PreferenceRecord.model_validate({**fields, **values})


@pytest.fixture
def chat(chatml_tokenizer: PreTrainedTokenizerFast) -> ChatEncoder:
    return ChatEncoder(chatml_tokenizer)


def encoder(chat: ChatEncoder, name: str = "general") -> JudgmentEncoder:
    return JudgmentEncoder(load_templates(name), chat)


def split(chat: ChatEncoder, row: Row) -> tuple[str, str]:
    """The text that is not trained and the text that is, where the targets are one run at the end."""
    n = row.is_target.index(True)
    assert all(row.is_target[n:])
    assert len(row.ids) == len(row.is_target)
    return tuple(chat.tokenizer.decode(list(ids), skip_special_tokens=False) for ids in (row.ids[:n], row.ids[n:]))


def test_a_policy_row_trains_the_chosen_side(chat: ChatEncoder) -> None:
    (row,) = policy_rows(record(), chat)
    assert (row.kind, row.name) == ("policy", "r1")
    assert split(chat, row) == (
        "<|im_start|>user\nName two things.<|im_end|>\n<|im_start|>assistant\n",
        "oak, fern<|im_end|>",
    )


def test_every_assistant_turn_of_a_dialogue_is_a_target(chat: ChatEncoder) -> None:
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Name two.")]
    (row,) = policy_rows(record(prompt=tuple(Message(role=r, content=c) for r, c in turns)), chat)
    trained = [i for i, t in zip(row.ids, row.is_target, strict=True) if t]
    assert chat.tokenizer.decode(trained, skip_special_tokens=False) == "Hello<|im_end|>oak, fern<|im_end|>"


def test_both_orders_and_the_label_of_the_chosen(chat: ChatEncoder) -> None:
    ab, ba = judgment_rows(record(), encoder(chat))
    assert (ab.name, ba.name) == ("r1:overall:AB", "r1:overall:BA")
    before, label = split(chat, ab)
    assert label == " A"
    assert "### Response A\noak, fern\n\n### Response B\nfern\n" in before
    assert before.endswith("<|im_start|>assistant\nBetter: Response")
    before, label = split(chat, ba)
    assert label == " B"
    assert "### Response A\nfern\n\n### Response B\noak, fern\n" in before


def test_training_puts_the_label_where_judging_asks(chat: ChatEncoder) -> None:
    judge_encoder = encoder(chat)
    asked = judge_encoder.principles["overall"].prompt(record().prompt, "oak, fern", "fern")
    row = judgment_rows(record(), judge_encoder)[0]
    assert row.ids == (*asked.token_ids, asked.label_ids[0])


def test_rationales_come_after_the_decision_in_the_order_shown(chat: ChatEncoder) -> None:
    rated = record(chosen_rationale="Complete.", rejected_rationale="One is missing.")
    ab, ba = judgment_rows(rated, encoder(chat, "ultrafeedback"), rationale=True)
    assert split(chat, ab)[1] == " A\n\nResponse A: Complete.\n\nResponse B: One is missing.<|im_end|>"
    assert split(chat, ba)[1] == " B\n\nResponse A: One is missing.\n\nResponse B: Complete.<|im_end|>"
    # The ids up to the label are those of a row without rationale: judging by one token stays possible.
    plain = judgment_rows(rated, encoder(chat, "ultrafeedback"))
    assert [row.ids[: len(p.ids)] for row, p in zip((ab, ba), plain, strict=True)] == [p.ids for p in plain]
    assert all(sum(p.is_target) == 1 for p in plain)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "ultrafeedback"),
        ({"chosen_rationale": "x"}, "ultrafeedback"),
        ({"chosen_rationale": "x", "rejected_rationale": "y"}, "general"),  # a template without rationale
    ],
)
def test_without_both_rationales_the_label_alone_is_trained(
    chat: ChatEncoder, values: dict[str, str], name: str
) -> None:
    assert all(sum(row.is_target) == 1 for row in judgment_rows(record(**values), encoder(chat, name), rationale=True))


def test_a_pair_is_judged_under_its_own_principle(chat: ChatEncoder) -> None:
    records = [
        record(principle="honesty"),
        record(id="r2", principle="speed"),
        record(id="r3", principle="helpfulness"),
    ]
    built = build_judgment_rows(records, encoder(chat, "ultrafeedback-principles"), 2048)
    assert [row.name for row in built.rows] == [
        *("r1:honesty:AB", "r1:honesty:BA", "r3:helpfulness:AB", "r3:helpfulness:BA")
    ]
    assert ["Which response is more honest?" in split(chat, row)[0] for row in built.rows] == [True, True, False, False]
    (dropped,) = built.dropped
    assert (dropped.kind, dropped.name) == ("judgment", "r2")
    assert dropped.reason == "template set 'ultrafeedback-principles' has no principle 'speed'"


def test_policy_rows_come_once_and_from_whole_comparisons(chat: ChatEncoder) -> None:
    records = [
        record(),
        record(id="r2", rejected="another"),  # the same prompt and chosen again
        record(id="r3", principle="honesty", chosen="judged by one principle"),
        record(id="r4", chosen="fern, oak"),
        record(id="r5", prompt=({"role": "user", "content": "Name two."},)),
    ]
    built = build_policy_rows(records, chat, 2048)
    assert [row.name for row in built.rows] == ["r1", "r4", "r5"]
    assert built.dropped == ()


def test_rows_that_do_not_fit_are_named(chat: ChatEncoder) -> None:
    long = record(id="long", chosen="oak, " * 50)
    n = len(policy_rows(record(), chat)[0].ids)
    built = build_policy_rows([record(), long], chat, n)
    assert [row.name for row in built.rows] == ["r1"]  # exactly the limit fits
    assert [(d.name, d.reason) for d in built.dropped] == [("long", f"longer than {n} tokens")]
    assert [d.name for d in build_policy_rows([record()], chat, n - 1).dropped] == ["r1"]
    limit = max(len(row.ids) for row in judgment_rows(record(), encoder(chat)))
    judged = build_judgment_rows([record(), long], encoder(chat), limit)
    assert [row.name for row in judged.rows] == ["r1:overall:AB", "r1:overall:BA"]
    assert [d.name for d in judged.dropped] == ["long:overall:AB", "long:overall:BA"]


def test_both_orders_of_a_pair_are_one_example(chat: ChatEncoder) -> None:
    first, second = record(), record(id="r2", prompt=(Message(role="user", content="Name one."),), rejected="er")
    policy = list(build_policy_rows([first, second], chat, 999).rows)
    judgments = list(build_judgment_rows([first, second], encoder(chat), 999).rows)
    grouped = examples([*policy, *judgments])
    assert [tuple(row.name for row in group) for group in grouped] == [
        ("r1",),
        ("r2",),
        ("r1:overall:AB", "r1:overall:BA"),
        ("r2:overall:AB", "r2:overall:BA"),
    ]
    # Where one order did not fit, the other stands alone and does not join its neighbour.
    assert [len(group) for group in examples([judgments[1], *judgments[2:]])] == [1, 2]
    assert examples([]) == []


def test_records_of_one_id_are_examples_of_their_own(chat: ChatEncoder) -> None:
    rows = build_judgment_rows([record(), record(chosen="fern, oak"), record()], encoder(chat), 999).rows
    assert [[row.name[-2:] for row in group] for group in examples(rows)] == [["AB", "BA"]] * 3


def test_batches_by_hand() -> None:
    rows = [
        Row("policy", "p", (5, 6, 7, 8), (False, True, False, True)),
        Row("judgment", "j", (5, 9), (False, True)),
    ]
    batch = JsftCollator(pad_id=0, judgment_weight=8.0)([{"rows": (row,)} for row in rows])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert set(batch) == {"input_ids", "targets", "target_weights"}
    assert batch["targets"].tolist() == [1, 3, 5]
    assert batch["target_weights"].tolist() == [1, 1, 8]
    # Nothing comes before a row's first token, so nothing predicts it.
    batch = JsftCollator(pad_id=0)([{"rows": (Row("policy", "p", (5, 6), (True, True)),)}])
    assert batch["targets"].tolist() == [1]
