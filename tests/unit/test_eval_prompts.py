"""Evaluation prompts, answers to them, and answering in turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_judge_sets import SHARED, write
from test_tournament import ScoreEngine

from selfjudge.data.eval_answers import load_answers, write_alpaca_outputs
from selfjudge.data.eval_prompts import EvalPrompt, load_eval_prompts
from selfjudge.engines.base import SamplingParams
from selfjudge.errors import DataError
from selfjudge.evaluation.answering import answer
from selfjudge.judge import Judge, as_messages
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates


def test_prompts_of_every_format(tmp_path):
    rows = [
        {"instruction": "Name a fox.", "output": "Reynard"},  # AlpacaEval
        {"question_id": 81, "turns": ["Name an owl.", "Another."], "category": "writing"},  # FastChat
        {"id": "x", "prompt": "Add 2 and 2.", "turns": ["Add 2 and 2."], "answer": 4},
    ]
    fox, owl, four = load_eval_prompts(write(tmp_path / "p.jsonl", rows))
    assert (fox.id, fox.prompt, fox.later_turns) == ("0", as_messages("Name a fox."), ())
    assert (owl.id, owl.prompt, owl.later_turns) == ("81", as_messages("Name an owl."), ("Another.",))
    assert (four.id, four.later_turns, four.answer) == ("x", (), "4")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "there is no row"),
        ([{"text": "a"}], "line 1: none of the columns prompt"),
        ([{"turns": []}], "line 1: turns"),
        ([{"turns": [{"text": "a"}]}], "line 1: a turn is not text"),
        ([{"text": "a", "prompt": None}], r"line 1: none of the columns .*; found: text, prompt \(null\);"),
        ([{"prompt": "a", "id": "one"}, {"instruction": " a\n"}], "line 2: the same prompt as that of id 'one'"),
    ],
)
def test_bad_prompts_are_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        load_eval_prompts(write(tmp_path / "p.jsonl", rows))


@pytest.mark.parametrize("name", ["mtbench", "vicuna", "arenahard", "ifeval", "gsm8k", "selfinstruct_user"])
def test_public_prompts(name):
    path = SHARED / f"eval_{name}_dev.jsonl"
    if not path.is_file():
        pytest.skip("the public data is not here")
    found = load_eval_prompts(path)
    assert len(found) >= 40
    assert {len(p.later_turns) for p in found} == {1 if name == "mtbench" else 0}
    assert all(p.answer for p in found) == (name == "gsm8k")


PROMPTS = (EvalPrompt("0", as_messages("Name a fox.")), EvalPrompt("1", as_messages("Name an owl.")))


def test_answers_are_matched_by_prompt(tmp_path):
    rows = [{"prompt": "Name an owl.", "winner": "Athena"}, {"instruction": "Name a fox.", "output": "Reynard"}]
    assert load_answers(write(tmp_path / "a.jsonl", rows), PROMPTS) == ["Reynard", "Athena"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": "Name an owl.", "output": "x"}], "no answer to 1 of 2 prompts, the first of id '0'"),
        ([{"prompt": "Name an owl."}], "line 1: none of the columns output"),
        ([{"prompt": "q", "output": "x"}, {"prompt": "q", "output": "y"}], "line 2: a second answer"),
    ],
)
def test_bad_answers_are_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        load_answers(write(tmp_path / "a.jsonl", rows), PROMPTS)


def test_outputs_are_alpaca_evals_and_are_read_again(tmp_path: Path):
    path = tmp_path / "out.json"
    write_alpaca_outputs(path, PROMPTS, ["Reynard", "Athena"], "my model")
    row = json.loads(path.read_text())[1]
    assert (row["instruction"], row["output"], row["generator"]) == ("Name an owl.", "Athena", "my model")
    assert load_answers(path, PROMPTS) == ["Reynard", "Athena"]


class TurnEngine(ScoreEngine):
    """Answers with the number of user turns it sees; candidate i of a call is scored i."""

    def __init__(self, chat):
        super().__init__(chat)
        self.asked: list[str] = []

    def sample(self, prompts, params, progress=None):
        found = super().sample(prompts, params)
        self.asked += [self.chat.decode(p) for p in prompts]
        texts = [self.chat.decode(p).count("user") for p in prompts]
        return [
            [c.model_copy(update={"text": f"score {i} turn {n}"}) for i, c in enumerate(row)]
            for n, row in zip(texts, found, strict=True)
        ]


@pytest.fixture
def engine(world_chat) -> TurnEngine:
    return TurnEngine(world_chat)


def answered(engine, prompts, **params):
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), engine.chat))
    return answer(engine, engine.chat, judge, prompts, SamplingParams(**{"max_new_tokens": 8} | params))


def test_a_single_turn_is_the_bare_answer(engine):
    assert answered(engine, PROMPTS) == ["score 0 turn 1"] * 2


def test_candidates_play_a_tournament(engine):
    assert answered(engine, PROMPTS, n=4) == ["score 3 turn 1"] * 2


def test_a_later_turn_follows_the_own_answer(engine):
    two = EvalPrompt("2", as_messages("Name a bear."), ("Another bear.",))
    found = answered(engine, (PROMPTS[0], two))
    assert found == ["score 0 turn 1", "score 0 turn 1\n\nUser: Another bear.\n\nAssistant: score 0 turn 2"]
    assert len(engine.asked) == 3
    first, own, second = (engine.asked[2].index(text) for text in ("Name a bear.", "score 0 turn 1", "Another bear."))
    assert first < own < second


def test_what_can_be_too_long_is_refused_before_sampling(engine):
    long = EvalPrompt("long", as_messages("fox " * 250))
    with pytest.raises(DataError, match="'long': answering it can take"):
        answered(engine, (long,))
    with pytest.raises(DataError, match="'0': judging two of its candidates can take"):
        answered(engine, PROMPTS, n=2, max_new_tokens=120)
    assert not engine.asked
