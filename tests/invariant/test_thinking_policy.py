"""Self-training of a policy that thinks: all that it samples is trained on, and what follows the thought is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from thinking_model import CLOSE, save_thinking_model

from selfjudge.data.io import read_jsonl
from selfjudge.data.load import prepare_data
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Completion
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import context_text, load_templates
from selfjudge.training.jsft import jsft_rows
from selfjudge.training.rollout import Rollout, RolloutCollector
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training

TOKENS = 12


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_thinking_model(tmp_path_factory.mktemp("thinking") / "model")


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Callable[..., Recipe], thinker: Path) -> Recipe:
    training = {"max_steps": 3, "learning_rate": 1e-3, "save_strategy": "no"}
    rollout = {"top_p": 1.0, "max_new_tokens": TOKENS, "samples": 4}
    made = tiny_recipe(24, self_training={"lora": {"r": 4}, "rollout": rollout, "training": training})
    made.model.path = made.self_training.start = str(thinker)
    made.model.thinking = "on"
    return made


class Seen:
    """What a training sampled, trained on and asked its judge."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rollouts: list[Rollout] = []
        self.judged: list[JudgmentPrompt] = []
        collect, probabilities = RolloutCollector.collect, TransformersEngine.label_probabilities

        def collecting(*given: Any) -> Rollout:
            self.rollouts.append(collect(*given))
            return self.rollouts[-1]

        def judging(engine: TransformersEngine, prompts: Sequence[JudgmentPrompt], *more: Any) -> Any:
            self.judged += prompts
            return probabilities(engine, prompts, *more)

        patch.setattr(RolloutCollector, "collect", collecting)
        patch.setattr(TransformersEngine, "label_probabilities", judging)

    def samples(self) -> list[Completion]:
        return [sample for rollout in self.rollouts for judged in rollout.judged for sample in judged.samples]


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Seen]:
    with pytest.MonkeyPatch.context() as patch:
        seen = Seen(patch)
        return run_self_training(recipe, tmp_path_factory.mktemp("run") / "r"), seen


@pytest.fixture(scope="module")
def chat(thinker: Path) -> Any:
    return load_model(thinker, thinking="on", device="cpu").chat


def raw(chat: Any, ids: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(list(ids), skip_special_tokens=False))


def after_thought(chat: Any, sample: Completion) -> str:
    """The answer of a sample by its text alone."""
    answer = raw(chat, sample.ids).removesuffix("<|im_end|>").partition(CLOSE)[2]
    return answer.replace("<|im_start|>", "").replace("<|pad|>", "").lstrip()


def test_all_sampled_ids_are_trained_on(trained: tuple[RunFolder, Seen], chat: Any) -> None:
    _, seen = trained
    thoughts = [raw(chat, sample.ids) for sample in seen.samples() if CLOSE in raw(chat, sample.ids)]
    assert 10 < len(thoughts) < len(seen.samples())
    for rollout in seen.rollouts:
        drawn = {(j.prompt.ids, sample.ids) for j in rollout.judged for sample in j.samples}
        assert rollout.pairs
        assert {(p.prompt_ids, ids) for p in rollout.pairs for ids in (p.chosen_ids, p.rejected_ids)} <= drawn
        assert all(raw(chat, p.prompt_ids).endswith("<think>\n") for p in rollout.pairs)
    trained_on = {ids for rollout in seen.rollouts for p in rollout.pairs for ids in (p.chosen_ids, p.rejected_ids)}
    assert any(CLOSE in raw(chat, ids) and not raw(chat, ids).startswith(CLOSE) for ids in trained_on)


def test_the_judge_sees_what_follows_the_thought_and_does_not_think(trained: tuple[RunFolder, Seen], chat: Any) -> None:
    _, seen = trained
    encoder = JudgmentEncoder(load_templates("world"), chat)
    expected = set()
    for judged in (judged for rollout in seen.rollouts for judged in rollout.judged):
        texts = [after_thought(chat, sample) for sample in judged.samples]
        assert texts == [sample.text for sample in judged.samples]
        for i, j in judged.verdicts:
            expected.update(encoder.prompts([(judged.prompt.prompt, texts[i], texts[j])]))
    assert expected == set(seen.judged)
    assert all(raw(chat, prompt.token_ids).endswith("<think>\n\n</think>\n\n") for prompt in seen.judged)


def test_a_thought_that_never_ends_is_a_truncated_sample(trained: tuple[RunFolder, Seen], chat: Any) -> None:
    run, seen = trained
    texts = [raw(chat, sample.ids) for sample in seen.rollouts[0].judged[0].samples]
    assert len(texts) == 4
    for (_, row), rollout in zip(read_jsonl(run.path / "metrics.jsonl"), seen.rollouts, strict=False):
        samples = [sample for judged in rollout.judged for sample in judged.samples]
        written = [raw(chat, sample.ids) for sample in samples]
        cut = [CLOSE not in text or not text.endswith("<|im_end|>") for text in written]
        assert row["rollout/truncated_rate"] == pytest.approx(sum(cut) / len(cut))
        assert row["rollout/length"] == pytest.approx(sum(len(sample.ids) for sample in samples) / len(samples))
        ended_within = [sample for sample, text in zip(samples, written, strict=True) if CLOSE not in text]
        assert {(sample.text, sample.finish_reason) for sample in ended_within} == {("", "length")}
        assert any(len(sample.ids) < TOKENS for sample in ended_within)  # some ended their turn within the thought


def test_the_log_of_rollouts_shows_the_answers(trained: tuple[RunFolder, Seen]) -> None:
    run, seen = trained
    rows = [row for _, row in read_jsonl(run.path / "rollouts.jsonl")]
    shown = [judged for rollout in seen.rollouts for judged in rollout.judged[:2]]
    assert [(row["prompt"], row["response_a"], row["response_b"]) for row in rows] == [
        (context_text(j.prompt.prompt), j.samples[0].text, j.samples[1].text) for j in shown
    ]


def test_rows_of_jsft_are_without_thoughts(recipe: Recipe, thinker: Path) -> None:
    data = prepare_data(recipe.data, 0)
    rows = {}
    for thinking in ("off", "on"):
        loaded = load_model(thinker, thinking=thinking, device="cpu")
        encoder = JudgmentEncoder(load_templates("world"), loaded.chat)
        made, not_made = jsft_rows(recipe, data, loaded.chat, encoder, loaded.context)
        rows[thinking] = [row for example in made.examples for row in example]
        assert rows[thinking]
        assert not [*not_made, *made.dropped]
    assert rows["on"] == rows["off"]
    for row in rows["on"]:
        before = raw(loaded.chat, row.ids[: row.is_target.index(True)])
        assert "<think>\n\n</think>\n\n" in before[before.rfind("assistant") :]
