"""The published algorithm that we time against gives the results that ours gives; the clocks are right."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
import torch

from selfjudge.benchmarks.figures import figures
from selfjudge.benchmarks.inputs import (
    generated_candidates,
    generated_comparisons,
    generated_prompts,
    prompt_ids,
    random_model,
)
from selfjudge.benchmarks.measure import Side, alternate, ceiling_tokens_per_second, copy_bandwidth, peak_memory, ratio
from selfjudge.benchmarks.published import PublishedJudge, published_tournament
from selfjudge.benchmarks.sampling import endless
from selfjudge.benchmarks.task import Settings, Task
from selfjudge.benchmarks.tasks import TASKS, make_task
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel
from selfjudge.errors import DataError, ModelError
from selfjudge.judge import Judge
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.tournament import play


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    model = random_model("tiny", "cpu", torch.float32)
    with torch.no_grad():  # two layers are enough to compare by, and labels that have some mass
        model.model.model.layers = model.model.model.layers[:2]
        model.model.config.num_hidden_layers = 2
        for weight in model.model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)
    return model


@pytest.fixture(scope="module")
def encoder(loaded: LoadedModel) -> JudgmentEncoder:
    return JudgmentEncoder(load_templates("world"), loaded.chat)


def test_both_judges_give_the_same_probabilities(loaded: LoadedModel, encoder: JudgmentEncoder) -> None:
    pairs = generated_comparisons(11)
    verdicts = Judge(TransformersEngine(loaded.model, loaded.chat), encoder).judge(pairs)
    ours = [[[v.p.AB.A, v.p.AB.B], [v.p.BA.A, v.p.BA.B]] for v in verdicts]
    theirs = PublishedJudge(loaded.model, encoder, loaded.chat).probabilities(pairs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert np.ptp(np.log(theirs)) > 0.5


def test_both_tournaments_have_the_same_winners(loaded: LoadedModel, encoder: JudgmentEncoder) -> None:
    prompts, candidates = generated_prompts(3), generated_candidates(3, 7)
    brackets = play(Judge(TransformersEngine(loaded.model, loaded.chat), encoder), prompts, candidates, seed=4)
    theirs = published_tournament(PublishedJudge(loaded.model, encoder, loaded.chat), prompts, candidates, 4)
    assert [b.winner for b in brackets] == theirs


def test_texts_vary_in_length_as_real_ones_do() -> None:
    words = [len(p[0].content.split()) for p in generated_prompts(400)]
    assert 85 < median(words) < 115
    assert mean(words) > 1.3 * median(words)
    assert max(words) <= 800
    assert 0.8 < np.log(words).std() < 1.1
    assert generated_comparisons(3) == generated_comparisons(3)


def test_a_sampled_response_has_about_as_many_tokens_when_it_is_read_again(loaded: LoadedModel) -> None:
    chat, vocabulary = loaded.chat, loaded.model.config.vocab_size
    assert len(chat.tokenizer) == vocabulary
    again = [len(chat.text_ids(chat.decode(row))) for row in torch.randint(0, vocabulary, (50, 128)).tolist()]
    assert 128 <= mean(again) < 170  # single bytes join the word before them, which is then spelt in bytes


def test_sides_take_turns_and_the_first_turn_does_not_count() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        time.sleep(0.08)

    def quick() -> None:
        calls.append("quick")
        time.sleep(0.02)

    measured = alternate({"ours": quick, "published": slow}, repeats=3)
    assert calls == ["quick", "slow"] * 4
    assert [len(side.seconds) for side in measured.values()] == [3, 3]
    assert 3 < ratio(measured["ours"], measured["published"]) < 5
    assert 3 < measured["published"].first / measured["ours"].first < 5
    assert ratio(Side([1, 2, 4]), Side([3, 4, 20])) == 3  # of 3, 2 and 5


def test_memory_is_measured_on_a_gpu_alone() -> None:
    with peak_memory() as peak:
        torch.ones(2**20, device="cuda" if torch.cuda.is_available() else "cpu")
    assert peak == ([4 * 2**20] if torch.cuda.is_available() else [])


def test_ceilings_are_those_of_this_machine(loaded: LoadedModel) -> None:
    assert 10 < ceiling_tokens_per_second(loaded.model, 64, tokens=256) < 10**9
    assert 10**8 < copy_bandwidth(torch.device("cpu"), 2**24) < 10**13


AMOUNTS = {"judge": 2, "tournament": 2, "scaling": 2, "sample": 2 * 2 * 3, "step": 1}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_runs_on_both_sides(name: str, loaded: LoadedModel, tmp_path: Path) -> None:
    task = make_task(name, copy.deepcopy(loaded), Settings(2, "world", tmp_path, candidates=3, new_tokens=3))
    task.ours()
    task.other()
    if name != "jsft":  # its tokens are those of its rows, see test_benchmarks_training.py
        assert task.amount == AMOUNTS[name]
    assert task.other_name == ("fourfold" if name == "scaling" else "published")
    for name, share in task.details().items():
        assert name.endswith("seconds") or 0 <= share < 1, name


def test_shares_are_those_of_our_last_turn(loaded: LoadedModel, tmp_path: Path) -> None:
    task = make_task("scaling", loaded, Settings(2, "world", tmp_path, candidates=4))
    task.ours()
    shares = task.details()
    assert shares["prefix_reuse"] > 0.3  # a prompt is read once for its three matches, in both orders
    task.ours()
    task.other()
    assert task.details() == shares


def test_samples_of_ours_have_their_full_length(loaded: LoadedModel) -> None:
    chat = endless(loaded)
    params = SamplingParams(n=2, max_new_tokens=9)
    model = copy.deepcopy(loaded.model)
    with torch.no_grad():
        model.lm_head.weight[loaded.chat.stop_ids[0]] *= 100  # an end is drawn again and again
    for encoder, lengths in ((loaded.chat, {1, 2, 3, 4, 5, 6, 7, 8, 9}), (chat, {9})):
        samples = TransformersEngine(model, encoder).sample(prompt_ids(chat, 6), params)
        found = {len(s.ids) for pair in samples for s in pair}
        assert found <= lengths
        assert (found == {9}) == (encoder is chat)


def test_figures(loaded: LoadedModel) -> None:
    def task(**other: Any) -> Task:
        return Task(loaded.model, "things", 6, lambda: None, lambda: None, 50, 50, **other)

    sides = {"ours": Side([1.0, 2.0, 3.0], first=4.0), "published": Side([2.0, 8.0, 9.0], first=20.0)}
    found = figures(task(details=lambda: {"padding_share": 0.25}), sides)
    assert found["unit"] == "things/s"
    assert (found["ours"], found["published"], found["ratio"]) == (3, 6 / 8, 3)
    assert found["first_turn_ratio"] == 5
    assert found["padding_share"] == 0.25
    assert "peak_memory_gib" not in found
    assert figures(task(new_tokens=10**6), sides)["share_of_ceiling"] > 10 * found["share_of_ceiling"]
    assert "ratio" not in figures(task(), {"ours": sides["ours"]})
    weights = sum(p.numel() * 4 for p in loaded.model.parameters())
    sides = {"ours": Side([1.0], [weights], 1.0), "fourfold": Side([4.0], [3 * weights], 4.0)}
    found = figures(task(other_name="fourfold"), sides)
    assert (found["ratio"], found["peak_memory_ratio"]) == (4, 0.5)
    assert found["peak_memory_gib"] == pytest.approx(2 * weights / 2**30)


def test_unknown_names_are_told(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no benchmark 'nap'"):
        make_task("nap", loaded, Settings(2, "world", tmp_path))
    with pytest.raises(ModelError, match="no shape '9b'"):
        random_model("9b", "cpu", torch.float32)
