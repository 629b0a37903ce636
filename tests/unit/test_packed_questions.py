"""Packed questions are the judge's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from selfjudge import packed_questions
from selfjudge.errors import DataError
from selfjudge.judge import Judge
from selfjudge.packed_questions import PackedQuestions
from selfjudge.records import Comparison
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.held_out import as_comparisons
from selfjudge.world.people import preference_records


@pytest.fixture
def pairs() -> list[Comparison]:
    return list(as_comparisons(preference_records(11, seed=2)))


def judge(chat: ChatEncoder, context: int = 10_000, templates: str = "world") -> Judge:
    return Judge(SimpleNamespace(max_length=context), JudgmentEncoder(load_templates(templates), chat))  # type: ignore[arg-type]


@pytest.mark.parametrize("templates", ["world", "ultrafeedback-principles", "general"])
def test_unpacked_they_are_what_the_judge_asks(
    world_chat: ChatEncoder, pairs: list[Comparison], monkeypatch: pytest.MonkeyPatch, templates: str
) -> None:
    monkeypatch.setattr(packed_questions, "_TOGETHER", 4)
    own = judge(world_chat, templates=templates)
    checked = []
    packed = PackedQuestions(own, pairs, checked.extend)
    questions = own.questions(pairs)
    assert packed.of(range(len(pairs))) == questions == checked
    each = len(questions) // len(pairs)
    assert packed.of(range(3, 7)) == questions[3 * each : 7 * each]
    assert packed.tokens[5] == sum(len(q.prompt.token_ids) for q in questions[5 * each : 6 * each])
    assert len(packed.tokens) == len(pairs)


def test_the_digest_tells_questions_apart(world_chat: ChatEncoder, pairs: list[Comparison]) -> None:
    own = judge(world_chat)
    digest = PackedQuestions(own, pairs).digest
    assert digest == PackedQuestions(judge(world_chat), list(pairs)).digest
    others = (pairs[:-1], pairs[::-1], [*pairs[:-1], pairs[-1].model_copy(update={"response_a": "fox"})])
    assert digest not in {PackedQuestions(own, other).digest for other in others}


def test_all_are_checked_before_any_is_asked(world_chat: ChatEncoder, pairs: list[Comparison]) -> None:
    long = pairs[0].model_copy(update={"id": "long", "response_a": " ".join(["fox"] * 500)})
    with pytest.raises(DataError, match="Row 'long': its judgment prompt has"):
        PackedQuestions(judge(world_chat, context=400), [*pairs, long])
