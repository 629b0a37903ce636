"""Sampling with the transformers engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.responses import collate_responses, response_logprobs
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder


@pytest.fixture
def chat(chatml_tokenizer: PreTrainedTokenizerFast) -> ChatEncoder:
    return ChatEncoder(chatml_tokenizer)


@pytest.fixture
def model(chat: ChatEncoder, tiny_llama: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    return tiny_llama(chat.tokenizer)


def prompts(chat: ChatEncoder) -> list[list[int]]:
    texts = ["Name two things.", "Why?", "And what is it that you would rather have, an owl or an oak?", "A", "B, then"]
    return [chat.prompt_ids([Message(role="user", content=text)]) for text in texts]


def greedy(model: PreTrainedModel, prompt: list[int], stop_ids: tuple[int, ...], n: int) -> tuple[int, ...]:
    """The plain loop: one row, no padding, no cache."""
    ids = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in stop_ids:
            break
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"token_budget": 60}, {"static_cache": True}])
def test_greedy_equals_the_plain_loop(
    request: pytest.FixtureRequest, chat: ChatEncoder, family: str, options: dict[str, int]
) -> None:
    model = request.getfixturevalue(family)(chat.tokenizer)
    engine = TransformersEngine(model, chat, **options)
    found = engine.sample(prompts(chat), SamplingParams(temperature=0, max_new_tokens=10))
    for prompt, (completion,) in zip(prompts(chat), found, strict=True):
        assert completion.ids == greedy(model, prompt, chat.stop_ids, 10)


def test_completions_keep_the_sampled_ids_and_say_how_they_ended(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    with torch.no_grad():  # make both stop tokens likely
        model.lm_head.weight[list(chat.stop_ids)] += 0.5 * model.lm_head.weight.std()
    params = SamplingParams(n=40, max_new_tokens=24, seed=1)
    completions = [c for row in TransformersEngine(model, chat).sample(prompts(chat), params) for c in row]
    reasons = Counter(c.finish_reason for c in completions)
    assert min(reasons["stop"], reasons["length"]) > 10  # both cases are there to look at
    ends = set()
    for c in completions:
        assert not set(c.ids[:-1]) & set(chat.stop_ids)
        assert (c.ids[-1] in chat.stop_ids) == (c.finish_reason == "stop")
        assert len(c.ids) == 24 if c.finish_reason == "length" else len(c.ids) <= 24
        assert c.text == chat.tokenizer.decode(list(c.ids), skip_special_tokens=True)
        ends |= {c.ids[-1]} & set(chat.stop_ids)
    assert ends == set(chat.stop_ids)


def test_logprobs_are_the_models_own_whoever_leaves_the_batch(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    with torch.no_grad():  # samples that end at many different lengths
        model.lm_head.weight[list(chat.stop_ids)] += 4 * model.lm_head.weight.std()
    params = SamplingParams(n=6, max_new_tokens=24, seed=1, temperature=1.5, top_p=0.97)
    engine = TransformersEngine(model, chat)
    found = engine.sample(prompts(chat), params)
    lengths = [len(c.ids) for row in found for c in row]
    assert len(set(lengths)) > 8
    assert sorted(lengths)[len(lengths) // 2] < 24  # half of them left, so the batch was made smaller
    for prompt, row in zip(prompts(chat), found, strict=True):
        for c in row:
            with torch.no_grad():
                alone = model(torch.tensor([prompt + list(c.ids)]), use_cache=False).logits[0].log_softmax(-1)
            expected = [float(alone[len(prompt) - 1 + i, token]) for i, token in enumerate(c.ids)]
            assert c.logprobs == pytest.approx(expected, abs=1e-3)
    alone = TransformersEngine(model, chat, batch_size=1).sample(prompts(chat), params)
    assert [[c.ids for c in row] for row in alone] == [[c.ids for c in row] for row in found]


def test_the_seed_decides_and_the_random_state_outside_does_not(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    engine = TransformersEngine(model, chat)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = engine.sample(prompts(chat), SamplingParams(n=3, max_new_tokens=6, seed=5))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert engine.sample(prompts(chat), SamplingParams(n=3, max_new_tokens=6, seed=5)) == first
    assert engine.sample(prompts(chat), SamplingParams(n=3, max_new_tokens=6, seed=6)) != first
    assert [len(row) for row in first] == [3] * 5
    assert all(len({c.ids for c in row}) == 3 for row in first)
    assert engine.sample([], SamplingParams()) == []


def first_tokens(engine: TransformersEngine, prompt: list[int], **params: float) -> Counter[int]:
    rows = engine.sample([prompt], SamplingParams(n=4000, max_new_tokens=1, **params))
    return Counter(c.ids[0] for c in rows[0])


def total_variation(counts: Counter[int], p: torch.Tensor) -> float:
    n = sum(counts.values())
    return 0.5 * sum(abs(counts[i] / n - float(q)) for i, q in enumerate(p))


def noise(p: torch.Tensor) -> float:
    """The expected total variation of 4000 draws from ``p``: half the sum of mean absolute binomial deviations."""
    return 0.5 * float((p * (1 - p) / 4000).sqrt().sum()) * (2 / torch.pi) ** 0.5


def test_samples_follow_the_models_own_distribution(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    prompt = prompts(chat)[0]
    # Whatever a model folder brings along must not shape the samples; nor transformers' own top_k = 50.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.2, top_p=0.3, min_p=0.9, repetition_penalty=3.0
    )
    own = model.generation_config
    with torch.no_grad():
        model.lm_head.weight *= 0.9  # a flat distribution over hundreds of tokens
        logits = model(torch.tensor([prompt])).logits[0, -1]
    engine = TransformersEngine(model, chat)
    p = logits.softmax(-1)
    counts = first_tokens(engine, prompt)
    assert len(counts) > 200
    assert total_variation(counts, p) < 1.2 * noise(p)
    # At temperature 4 it is the distribution of a quarter of the logits, which is another one.
    hot, flat = first_tokens(engine, prompt, temperature=4.0), (logits / 4).softmax(-1)
    assert total_variation(hot, flat) < 1.2 * noise(flat) < 0.8 * total_variation(hot, p)
    # top_p 0.5: the smallest set of most likely tokens that holds half of the mass, and nothing else.
    order = p.sort(descending=True)
    kept = int((order.values.cumsum(-1) < 0.5).sum()) + 1
    nucleus = first_tokens(engine, prompt, top_p=0.5)
    assert set(nucleus) <= set(order.indices[:kept].tolist())
    assert len(nucleus) > 0.8 * kept
    assert model.generation_config is own


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_left_as_it_was(model: LlamaForCausalLM, chat: ChatEncoder, training: bool) -> None:
    model.train(training)
    engine = TransformersEngine(model, chat)
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    engine.sample(prompts(chat), SamplingParams(max_new_tokens=2))
    engine.response_logprobs([([5, 6], [7])])
    assert set(seen) == {False}  # dropout would make a judge of moods
    assert model.training is training


def test_response_logprobs_in_the_order_of_the_rows(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    rows = [([5, 6, 7], [8, 9]), ([5], [6, 7, 8, 9, 10]), ([9, 8, 7, 6, 5, 4], [3])]
    expected = []
    for prompt, response in rows:
        with torch.no_grad():
            logp = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        expected.append(sum(float(logp[len(prompt) - 1 + i, t]) for i, t in enumerate(response)))
    for options in ({}, {"batch_size": 1}, {"token_budget": 12}):
        assert TransformersEngine(model, chat, **options).response_logprobs(rows) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("values", [{"n": 0}, {"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}])
def test_impossible_parameters(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="impossible sampling parameters"):
        SamplingParams(**values)


def test_two_systems_with_seeds_of_their_own_are_independent(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    engine, n = TransformersEngine(model, chat), 4000
    prompt = prompts(chat)[0]
    params = SamplingParams(n=n, max_new_tokens=1, temperature=0.3, seed=3)

    def drawn(name: str) -> list[int]:
        return [c.ids[0] for c in engine.sample([prompt], params.seeded_for(name))[0]]

    with torch.no_grad():
        p = (model(torch.tensor([prompt])).logits[0, -1] / params.temperature).double().softmax(-1)
    expected = float((p * p).sum())  # two independent draws from p are equal so often
    assert 0.02 < expected < 0.9
    same = sum(a == b for a, b in zip(drawn("a"), drawn("b"), strict=True)) / n
    assert same == pytest.approx(expected, abs=5 * (expected * (1 - expected) / n) ** 0.5)
    assert drawn("a") == drawn("a")


def test_a_batch_of_logprobs_is_that_of_the_same_batch_in_training(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    rows = [([5, 6, 7], [8, 9]), ([5], [6, 7, 8, 9, 10]), ([9, 8, 7, 6, 5, 4], [3])]
    engine = TransformersEngine(model, chat)
    engine.batch_logprobs(rows[:1])  # tries the model's head, once
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True)
    found = engine.batch_logprobs(rows)
    assert shapes == [(3, 7)]  # one forward, in this order
    trained = response_logprobs(model, collate_responses(rows, int(chat.tokenizer.pad_token_id)))
    assert found == trained.tolist()
    assert engine.batch_logprobs([]) == []
    assert found == pytest.approx(engine.response_logprobs(rows), abs=1e-4)
    shapes.clear()
    small = TransformersEngine(model, chat, token_budget=12)
    assert small.batch_logprobs(rows) == pytest.approx(found, abs=1e-4)
    assert len(shapes) > 1  # too large for the budget: as memory allows


def test_a_batch_that_does_not_fit_the_memory_is_divided(
    model: LlamaForCausalLM, chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [([5, 6, 7], [8, 9]), ([5], [6, 7, 8, 9, 10])]
    engine = TransformersEngine(model, chat)
    expected = engine.response_logprobs(rows)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr("selfjudge.engines.hf.response_logprobs", full)
        patch.setattr(engine, "response_logprobs", lambda given: [float(len(given))])
        assert engine.batch_logprobs(rows) == [2.0]
    assert engine.batch_logprobs(rows) == pytest.approx(expected, abs=1e-4)
