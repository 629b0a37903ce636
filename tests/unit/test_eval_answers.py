"""Files of answers as FastChat and Arena-Hard publish them, and what an AlpacaEval file may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_judge_sets import write

from selfjudge.data.eval_answers import load_answers
from selfjudge.data.eval_prompts import load_eval_prompts
from selfjudge.data.judge_sets import load_judge_set
from selfjudge.errors import DataError
from selfjudge.judge import as_messages

CASES = Path(__file__).parents[2].parent / "shared" / "cases" / "13"

MT_BENCH = [
    {"question_id": 7, "category": "writing", "turns": ["Name a tree.", "Name another."]},
    {"question_id": 9, "category": "math", "turns": ["Add 1 and 1."], "reference": ["2"]},
]
TWO_TURNS = "Oak.\n\nUser: Name another.\n\nAssistant: Elm."


def fastchat(question, *turns, **values):
    return {
        "question_id": question,
        "answer_id": "a",
        "model_id": "m",
        "choices": [{"index": 0, "turns": turns}],
    } | values


def prompts_of(tmp_path, rows):
    return load_eval_prompts(write(tmp_path / "questions.jsonl", rows))


def answers_of(tmp_path, rows, questions=MT_BENCH):
    return load_answers(write(tmp_path / "answers.jsonl", rows), prompts_of(tmp_path, questions))


def test_fastchats_answers_belong_to_the_question_of_their_id(tmp_path):
    rows = [fastchat(9, "2"), fastchat(8, "not asked"), fastchat(7, "Oak.", "Elm.")]
    assert answers_of(tmp_path, rows) == [TWO_TURNS, "2"]


def test_of_several_choices_the_first_is_taken(tmp_path):
    choices = [{"index": 0, "turns": ["2"]}, {"index": 1, "turns": ["3"]}]
    assert answers_of(tmp_path, [fastchat(9, choices=choices)], MT_BENCH[1:]) == ["2"]


def test_arena_hards_first_form(tmp_path):
    questions = [{"question_id": "ab1", "category": "arena-hard-v0.1", "turns": [{"content": "Sort a list."}]}]
    (prompt,) = prompts_of(tmp_path, questions)
    assert (prompt.id, prompt.prompt, prompt.later_turns) == ("ab1", as_messages("Sort a list."), ())
    rows = [fastchat("ab1", {"content": "list.sort()", "token_len": 4})]
    assert answers_of(tmp_path, rows, questions) == ["list.sort()"]


@pytest.mark.parametrize(
    "content", ["list.sort()", {"answer": "list.sort()"}, {"thought": "Hm.", "answer": "list.sort()"}]
)
def test_arena_hards_second_form(tmp_path, content):
    questions = [{"uid": "ff0", "category": "hard_prompt", "subcategory": "coding", "prompt": "Sort a list."}]
    (prompt,) = prompts_of(tmp_path, questions)
    assert (prompt.id, prompt.question_id) == ("ff0", "ff0")
    turns = [{"role": "user", "content": "Sort a list."}, {"role": "assistant", "content": content}]
    assert answers_of(tmp_path, [{"uid": "ff0", "model": "m", "messages": turns}], questions) == ["list.sort()"]


def test_positions_are_no_question_ids(tmp_path):
    questions = [{"instruction": "Name a tree."}, {"instruction": "Name a moss."}]
    with pytest.raises(DataError, match=r"such as '0', but no prompt has question_id, uid or id: give the benchmark's"):
        answers_of(tmp_path, [fastchat(0, "Oak."), fastchat(1, "Peat.")], questions)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([fastchat(7, "Oak.")], "question '7': the turns are 2, the answers 1; give"),
        ([fastchat(7, "a", "b"), fastchat(9, "a", "b")], "question '9': the turns are 1, the answers 2; give"),
        ([fastchat(7, "a", "b")], "no answer to 1 of 2 prompts, the first of id '9'"),
        ([fastchat(9, "a"), fastchat(9, "b")], "line 2: a second answer to the question '9'"),
        ([fastchat(None, "a")], "line 1: choices without question_id, uid, id"),
        ([fastchat(9, choices=[])], "line 1: choices is not a list of objects with turns"),
        ([fastchat(9, choices=[{"turns": "a"}])], "line 1: choices is not a list of objects with turns"),
        ([fastchat(9, {"text": "a"})], "line 1: an answer is not text"),
        (
            [{"uid": "9", "messages": [{"role": "user", "content": "q"}]}],
            "line 1: messages is not a list of messages, one",
        ),
        ([{"uid": "9", "messages": ["q"]}], "line 1: messages is not a list of messages, one"),
        ([{"instruction": "q", "output": None}], r"line 1: none of .*; found: instruction, output \(null\); correct"),
    ],
)
def test_bad_answers_are_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        answers_of(tmp_path, rows)


def test_two_questions_of_one_id_are_refused_where_answers_go_by_id(tmp_path):
    questions = [{"id": "q", "prompt": "Name a tree."}, {"id": "q", "prompt": "Name a moss."}]
    with pytest.raises(DataError, match="2 prompts have the id 'q'"):
        answers_of(tmp_path, [fastchat("q", "Oak.")], questions)
    rows = [{"prompt": "Name a moss.", "output": "Peat."}, {"prompt": "Name a tree.", "output": "Oak."}]
    assert answers_of(tmp_path, rows, questions) == ["Oak.", "Peat."]


def test_one_answer_to_two_questions_is_refused(tmp_path):
    asked = {"id": "q", "turns": ["Name a tree.", "And a moss."]}
    with pytest.raises(
        DataError, match="has one answer to the prompt of id 'q', which has 2 turns; give one answer to"
    ):
        answers_of(tmp_path, [{"prompt": "Name a tree.", "output": "Oak."}], [asked])
    both = "Oak.\n\nUser: And a moss.\n\nAssistant: Peat."  # as `eval winrate` writes answers
    assert answers_of(tmp_path, [{"prompt": "Name a tree.", "output": both}], [asked]) == [both]


def test_a_prompt_is_found_however_it_is_spelled_and_an_empty_text_is_an_answer(tmp_path):
    rows = [{"instruction": "Name  a tree.\r\n", "output": ""}]
    assert answers_of(tmp_path, rows, [{"instruction": "Name a tree."}]) == [""]


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")
def test_the_cases():
    first = load_eval_prompts(CASES / "alp_a.json")
    assert load_answers(CASES / "alp_a.json", first) == ["Hi!", ""]
    assert load_answers(CASES / "alp_b.json", first) == ["Hello.", "Bye."]
    two_turns = load_eval_prompts(CASES / "mt.json")
    (answer,) = load_answers(CASES / "fastchat_answer.jsonl", two_turns)
    assert answer == "There once was a cat.\n\nUser: Now in French.\n\nAssistant: Il y avait un chat."
    (question,) = load_eval_prompts(CASES / "arena_q.jsonl")
    assert (question.id, question.prompt) == ("abc1", as_messages("Sort a list in place."))
    pairs = load_judge_set(CASES / "rb.jsonl")
    assert [(p.comparison.id, p.subset) for p in pairs] == [("1", "alpacaeval-easy")] * 2
