"""Who measures or rewards a policy that thinks gets the text after the thought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from score_server import ScoreEngine, judge_on
from thinking_model import save_thinking_model, thinking_tokenizer

from selfjudge.baselines.rlhf import reward_function
from selfjudge.data.eval_prompts import EvalPrompt
from selfjudge.engines.base import SamplingParams
from selfjudge.evaluation.answering import answer
from selfjudge.evaluation.checkers import CHECKERS
from selfjudge.evaluation.evaluators import by_check
from selfjudge.evaluation.winrate import pairs_of
from selfjudge.judge import as_messages
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.study import StudySection
from selfjudge.records import Completion
from selfjudge.study.cells import Cell
from selfjudge.study.measure import answer_prompts, engine_of, prompts_of, read_answers, sampling
from selfjudge.templates.chat import ChatEncoder


def test_a_reward_is_of_the_answer_and_not_of_the_thought() -> None:
    chat = ChatEncoder(thinking_tokenizer(), thinking="on")
    prompts = [[{"role": "user", "content": "Name a fox."}], [{"role": "user", "content": "Name an owl."}]]
    scored: list[Any] = []

    class Scorer:
        def score(self, asked: Sequence[Any], texts: Sequence[str]) -> list[float]:
            scored.append((list(asked), list(texts)))
            return [float(len(text)) for text in texts]

    ids = [chat.tokens.encode([(text, "\ue000")])[0] for text in ("hm fox</think>\n\nfox<|im_end|>", "hm owl owl")]
    reward = reward_function(Scorer(), chat)  # type: ignore[arg-type]
    assert reward(prompts=prompts, completions=None, completion_ids=ids, trainer_state=None) == [3.0, 0.0]
    assert scored == [([as_messages("Name a fox."), as_messages("Name an owl.")], ["fox", ""])]


class Thinker(ScoreEngine):
    """Always thinks of the right number, and answers with it once in three times."""

    def sample(self, prompts: Sequence[Any], *_: Any) -> list[list[Completion]]:
        texts = ("4", "5", "")
        return [
            [Completion(ids=(1,), text=texts[i % 3], finish_reason="stop", reasoning_content="It is 4.")]
            for i in range(len(prompts))
        ]


def test_a_checker_gets_the_answer_alone(world_chat: ChatEncoder) -> None:
    prompts = [EvalPrompt(id=str(i), prompt=as_messages("2 + 2?"), answer="#### 4") for i in range(3)]
    engine = Thinker(world_chat)
    answers = answer(engine, world_chat, judge_on(engine, world_chat), prompts, SamplingParams(max_new_tokens=8))
    pairs = pairs_of(prompts, answers, ["5", "5", "5"])
    assert [pair.response_a for pair in pairs] == ["4", "5", ""]
    scored = by_check(prompts, CHECKERS["gsm8k"])(pairs)
    assert [pair.score for pair in scored] == [1.0, 0.5, 0.5]


def test_a_study_samples_its_cells_as_the_recipe_says(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny_recipe(24)
    recipe.self_training.rollout.max_new_tokens = 12
    recipe.study = StudySection.model_validate({"cells": {"sft": {"method": "sft"}}, "limit": 6, "reference": "sft"})
    texts = {}
    for thinking in ("off", "on"):
        recipe.model.thinking = thinking
        cell = Cell("sft", 0, (), tmp_path / thinking, recipe.study.cells["sft"])
        save_thinking_model(cell.folder / "run")
        answer_prompts(cell, recipe)
        answers = read_answers(cell.folder / "answers.jsonl")
        texts[thinking] = [row.text for row in answers] + [row.second for row in answers]
        engine = engine_of(cell.folder / "run", recipe, recipe.model.thinking)
        asked = [engine.chat.prompt_ids(p.prompt) for p in prompts_of(recipe.study, cell)]
        drawn = engine.sample(asked, sampling(recipe, cell, n=2))
        assert texts[thinking] == [row[i].text for i in (0, 1) for row in drawn]
        assert any(sample.reasoning_content for row in drawn for sample in row) == (thinking == "on")
    assert "" in texts["on"]
