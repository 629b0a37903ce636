"""The sampler beside transformers' own pipeline on the same tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from thinking_model import CLOSE, save_thinking_model
from transformers import AutoModelForCausalLM, TextGenerationPipeline, pipeline

from selfjudge.core.bracket import placing
from selfjudge.engines.base import SamplingParams
from selfjudge.errors import DataError
from selfjudge.judge import Judge, as_messages
from selfjudge.sampler import TournamentSampler
from selfjudge.tournament import play

TEXT = "Name two things of the sea for Ada."
CHAT = [{"role": "user", "content": TEXT}]
LONG_CHAT = [{"role": "user", "content": "Name a fox."}, {"role": "assistant", "content": "fox"}, *CHAT]


@pytest.fixture(scope="module")
def sampler(tiny_model_folder: Path) -> TournamentSampler:
    return TournamentSampler(tiny_model_folder, n=5, max_new_tokens=6, device="cpu", seed=3, templates="world")


@pytest.fixture(scope="module")
def pipe(tiny_model_folder: Path) -> TextGenerationPipeline:
    return pipeline("text-generation", model=str(tiny_model_folder), device="cpu")


@pytest.mark.parametrize("inputs", [CHAT, LONG_CHAT, [CHAT], [CHAT, LONG_CHAT], (CHAT, LONG_CHAT)])
@pytest.mark.parametrize("full", [True, False])
def test_greedy_chats_are_what_the_pipeline_returns(
    sampler: TournamentSampler, pipe: TextGenerationPipeline, inputs: Any, full: bool
) -> None:
    options = {"do_sample": False, "max_new_tokens": 6, "return_full_text": full}
    expected = pipe(inputs, **options)
    assert sampler(inputs, **options) == expected
    assert sampler(inputs, max_new_tokens=6, temperature=0.0, return_full_text=full) == expected


def shape(found: Any) -> Any:
    """What is in a result, without the texts."""
    if isinstance(found, list | tuple):
        return [shape(item) for item in found]
    return {name: shape(item) for name, item in found.items()} if isinstance(found, dict) else type(found)


@pytest.mark.parametrize("inputs", [TEXT, [TEXT], [TEXT, "Name a fox."], CHAT, [CHAT, CHAT]])
@pytest.mark.parametrize("n", [1, 3])
def test_sampled_answers_have_the_shape_of_the_pipelines(
    sampler: TournamentSampler, pipe: TextGenerationPipeline, inputs: Any, n: int
) -> None:
    found, theirs = sampler(inputs, num_return_sequences=n), pipe(inputs, num_return_sequences=n, max_new_tokens=6)
    assert shape(found) == shape(theirs)


def test_a_text_is_what_a_user_says_and_comes_before_its_answer(sampler: TournamentSampler) -> None:
    (of_text,), (of_chat,) = sampler(TEXT), sampler(CHAT)
    answer = of_chat["generated_text"][-1]["content"]
    assert of_chat["generated_text"] == [*CHAT, {"role": "assistant", "content": answer}]
    assert of_text == {"generated_text": TEXT + answer}
    assert sampler(TEXT, return_full_text=False) == [{"generated_text": answer}]


def test_the_answers_are_the_best_of_the_tournament_that_play_plays(sampler: TournamentSampler) -> None:
    rows = sampler([TEXT, "Name a fox."], return_full_text=False, return_bracket=True, num_return_sequences=3)
    candidates = [row[0]["candidates"] for row in rows]
    assert [len(texts) for texts in candidates] == [5, 5]
    assert len(set(candidates[0])) > 1
    expected = play(sampler._judge, [as_messages(TEXT), as_messages("Name a fox.")], candidates, seed=3)
    assert [row[0]["bracket"] for row in rows] == expected
    for row, bracket, texts in zip(rows, expected, candidates, strict=True):
        places = placing([bracket.winner], bracket.matches)
        assert [record["generated_text"] for record in row] == [texts[place] for place in places[:3]]


def test_a_call_can_draw_otherwise_and_is_repeatable(sampler: TournamentSampler) -> None:
    def candidates(**options: Any) -> tuple[str, ...]:
        return tuple(sampler(TEXT, return_bracket=True, **options)[0]["candidates"])

    assert candidates() == candidates() == candidates(seed=3)
    assert candidates(seed=4) != candidates()
    assert len(candidates(n=2)) == 2
    assert len(candidates(do_sample=False)) == len(candidates(temperature=0)) == 1
    assert sampler([]) == []
    with pytest.raises(TypeError, match="beams"):
        sampler(TEXT, beams=3)
    with pytest.raises(ValueError, match="num_return_sequences is 3"):
        sampler(TEXT, n=2, num_return_sequences=3)


def test_the_adapter_is_sampled_and_the_base_judges(tiny_model_folder: Path, tmp_path: Path) -> None:
    start = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    model = get_peft_model(start, LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_()
    model.save_pretrained(tmp_path)
    options = {"return_bracket": True, "max_new_tokens": 6}
    base = TournamentSampler(tiny_model_folder, n=4, device="cpu", templates="world")
    adapted = TournamentSampler(tiny_model_folder, n=4, device="cpu", templates="world", adapter=tmp_path)
    (drawn,), (other,) = adapted(TEXT, **options), base(TEXT, **options)
    assert drawn["candidates"] != other["candidates"]
    judge: Judge = base._judge
    assert [drawn["bracket"]] == play(judge, [as_messages(TEXT)], [drawn["candidates"]])


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        (3, "neither"),
        ([TEXT, 3], "Input 1 is neither"),
        ([{"role": "assistant", "content": "x"}], "end with a non-empty user message"),
        ([{"role": "tool", "content": "x"}], "role"),
        (" ", "non-empty"),
        ([TEXT, "fox " * 260], "Input 1 leaves room for 0 tokens"),
    ],
)
def test_what_is_no_prompt_is_refused_in_a_sentence(sampler: TournamentSampler, inputs: Any, word: str) -> None:
    with pytest.raises(DataError, match=word):
        sampler(inputs)


def test_room_for_two_candidates_is_asked_for_only_where_two_are_judged(sampler: TournamentSampler) -> None:
    prompt = as_messages(TEXT)
    room = sampler._judge.room(prompt)
    sampler._check_room(0, prompt, SamplingParams(n=2, max_new_tokens=room))
    with pytest.raises(DataError, match=f"room for {room} tokens"):
        sampler._check_room(0, prompt, SamplingParams(n=2, max_new_tokens=room + 1))
    alone = 256 - len(sampler._chat.prompt_ids(prompt))
    sampler._check_room(0, prompt, SamplingParams(n=1, max_new_tokens=alone))
    with pytest.raises(DataError, match=f"room for {alone} tokens"):
        sampler._check_room(0, prompt, SamplingParams(n=1, max_new_tokens=alone + 1))


def test_a_model_that_thinks_answers_with_what_follows_its_thought(tmp_path: Path) -> None:
    folder = save_thinking_model(tmp_path / "model")
    options: dict[str, Any] = {"n": 12, "max_new_tokens": 12, "device": "cpu", "templates": "world"}
    rows = TournamentSampler(folder, thinking="on", **options)(
        TEXT, return_full_text=False, num_return_sequences=12, return_bracket=True
    )
    answered = len(rows[0]["bracket"].order)
    assert 1 < answered < 12
    assert len(rows[0]["bracket"].matches) == answered - 1
    assert [row["generated_text"] for row in rows[answered:]] == [""] * (12 - answered)  # thoughts that never ended
    assert sorted(row["generated_text"] for row in rows) == sorted(rows[0]["candidates"])
    assert rows[0]["generated_text"]
    assert any(row.get("reasoning_content") for row in rows)
    assert all(CLOSE not in row.get("reasoning_content", "") for row in rows)
    (off,) = TournamentSampler(folder, **options)(TEXT)
    assert set(off) == {"generated_text"}
