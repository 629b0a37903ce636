"""Rows that a chat template refuses are left out under the reason it gives; the others are trained."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from stored_data import prepared_records
from transformers import PreTrainedTokenizerFast

from selfjudge.baselines.pairs import token_pairs
from selfjudge.data.rows import build_policy_rows
from selfjudge.engines.base import SamplingParams
from selfjudge.errors import DataError, RowError
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Comparison, Message, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.tournament import self_reject
from selfjudge.training.pair_source import rollout_prompts

# As those of Mistral and Gemma do.
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REASON = "the chat template of 'tiny-chatml' refuses it: Conversation roles must alternate user/assistant"


@pytest.fixture
def chat(chatml_tokenizer: PreTrainedTokenizerFast) -> ChatEncoder:
    chatml_tokenizer.chat_template = ALTERNATING
    return ChatEncoder(chatml_tokenizer)


def record(name: str, *users: str) -> PreferenceRecord:
    prompt = tuple(Message(role="user", content=text) for text in users)
    return PreferenceRecord(id=name, prompt=prompt, chosen="yes", rejected="no")


RECORDS = [record("good", "One?"), record("bad", "Two.", "And?")]


def test_policy_rows(chat: ChatEncoder) -> None:
    built = build_policy_rows(RECORDS, chat, 999)
    assert [row.name for row in built.rows] == ["good"]
    assert [(row.kind, row.name, row.reason) for row in built.dropped] == [("policy", "bad", REASON)]


def test_pairs_of_baselines(chat: ChatEncoder) -> None:
    pairs, dropped = token_pairs(RECORDS, chat, 999)
    assert [record.id for record, _ in pairs] == ["good"]
    assert [(row.name, row.reason) for row in dropped] == [("bad", REASON)]
    with pytest.raises(DataError, match=r"No pair is left: .*must alternate"):
        token_pairs(RECORDS[1:], chat, 999)


def test_prompts_of_self_training(chat: ChatEncoder, tiny_recipe: Callable[..., Recipe]) -> None:
    loaded: Any = SimpleNamespace(chat=chat, context=512)
    prompts, dropped = rollout_prompts(tiny_recipe(), prepared_records(RECORDS), loaded)
    assert [prompt.id for prompt in prompts] == ["prompt-0"]
    assert [(row.name, row.reason) for row in dropped] == [("prompt-1", REASON)]
    with pytest.raises(DataError, match="0 were read, 1 more were refused by the chat template"):
        rollout_prompts(tiny_recipe(), prepared_records(RECORDS[1:]), loaded)


def test_a_prompt_to_answer_is_named(chat: ChatEncoder) -> None:
    with pytest.raises(RowError, match="must alternate"):
        chat.prompt_ids(RECORDS[1].prompt)
    with pytest.raises(DataError, match=r"Prompt 'bad': the chat template .* refuses it: .*: remove it, or set"):
        chat.named_prompt_ids((r.id, r.prompt) for r in RECORDS)
    engine: Any = None
    with pytest.raises(DataError, match="Prompt '1': the chat template"):
        self_reject(engine, chat, engine, [r.prompt for r in RECORDS], SamplingParams())


def test_a_pair_to_judge_is_named(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    chatml_tokenizer.chat_template = ALTERNATING.replace(
        "{% for m", "{% if 'forbidden' in messages[-1]['content'] %}{{ raise_exception('no') }}{% endif %}{% for m", 1
    )
    chat = ChatEncoder(chatml_tokenizer)
    engine: Any = SimpleNamespace(max_length=4096)
    judge = Judge(engine, JudgmentEncoder(load_templates("general"), chat))
    rows = [
        Comparison(id=name, prompt=RECORDS[0].prompt, response_a="x", response_b=b)
        for name, b in (("fine", "y"), ("worse", "forbidden"))
    ]
    assert len(judge.questions(rows[:1])) == 2
    with pytest.raises(DataError, match=r"Row 'worse': the chat template of 'tiny-chatml' refuses it: no: remove it"):
        judge.questions(rows)
    # The samples of a policy cannot be mended: such a pair is one that cannot be judged.
    assert judge.fitting(rows) == [judge.questions(rows[:1]), []]
