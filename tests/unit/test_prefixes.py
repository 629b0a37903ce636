"""Shared beginnings: what is borrowed from whom, and that nothing but time changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    Lfm2Config,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from selfjudge.engines.causal_lm import cache_bytes, can_share
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.packed_forward import PackedForward, can_pack
from selfjudge.engines.padded_forward import PaddedForward
from selfjudge.engines.prefix_forward import Counts, PrefixForward
from selfjudge.engines.prefixes import MIN_SHARED, Ids, Task, common_prefix, waves, worthwhile
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt

HEAD = tuple(range(20))
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def padded(model: PreTrainedModel) -> PaddedForward:
    return PaddedForward(model, pad_id=0, busy=0)


both_forwards = pytest.mark.parametrize("of", [padded, PackedForward])


def test_one_for_all_then_one_for_each_prompt_then_the_rest() -> None:
    p, q = (*HEAD, 50, *range(30)), (*HEAD, 51, *range(30))
    a, b, c, d = (*p, 60), (*p, 61), (*p, 62), (*q, 60)
    assert waves([c, d, a, b]) == [
        [Task(a, None, 0)],
        [Task(b, a, 51), Task(c, a, 51), Task(d, a, 20)],
    ]
    e = (*q, 61)
    assert waves([d, e, a])[2] == [Task(e, d, 51)]


def test_short_beginnings_are_computed_again_and_the_last_token_always() -> None:
    short = HEAD[: MIN_SHARED - 1]
    assert waves([(*short, 90), (*short, 91)]) == [[Task((*short, 90), None, 0), Task((*short, 91), None, 0)]]
    # A sequence that goes on from another, and one that is known already, in full.
    assert waves([HEAD, (*HEAD, 7)]) == [[Task(HEAD, None, 0)], [Task((*HEAD, 7), HEAD, 20)]]
    assert waves([HEAD], [(*HEAD, 7)]) == [[Task(HEAD, (*HEAD, 7), 19)]]


def test_what_is_done_lends_in_the_first_wave() -> None:
    a, b = (*HEAD, 60, 61), (*HEAD, 60, 62)
    assert waves([b], [a]) == [[Task(b, a, 21)]]
    # The neighbour of the same call shares more than what is done.
    assert waves([a, b], [(*HEAD, 70)]) == [[Task(a, (*HEAD, 70), 20)], [Task(b, a, 21)]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_every_task_borrows_the_most_there_is_from_what_is_done_before_it(seed: int) -> None:
    rng = random.Random(seed)

    def tree(n: int) -> list[Ids]:
        stems = [HEAD, (*HEAD, *[5] * 20), (*HEAD, *[6] * 18), ()]
        return list({(*rng.choice(stems), *rng.choices(range(3), k=rng.randrange(1, 25))) for _ in range(n)})

    sequences, done = tree(14), tree(4)
    planned = waves(sequences, done)
    assert sorted(task.sequence for wave in planned for task in wave) == sorted(sequences)
    before = set(done)
    for number, wave in enumerate(planned):
        for task in wave:
            assert (task.lender is None) == (task.shared == 0)
            assert 0 <= task.shared < len(task.sequence)
            if task.lender is not None:
                assert task.lender in before
                assert task.lender[: task.shared] == task.sequence[: task.shared]
        before |= {task.sequence for task in wave}
        assert wave, number
    # Nothing longer could have been borrowed from a sequence sorted before it, or from what was done.
    for task in (task for wave in planned for task in wave):
        lenders = [*done, *(s for s in sequences if s < task.sequence)]
        best = max((min(common_prefix(s, task.sequence), len(task.sequence) - 1) for s in lenders), default=0)
        assert task.shared == (best if best >= MIN_SHARED else 0)


def alone(model: PreTrainedModel, sequences: list[Ids], tokens: list[tuple[int, ...]]) -> Tensor:
    rows = [model(torch.tensor([s]), use_cache=False).logits[0, -1].log_softmax(-1) for s in sequences]
    return torch.stack([row[list(t)] for row, t in zip(rows, tokens, strict=True)])


def some_sequences(vocabulary: int) -> list[Ids]:
    rng = random.Random(3)

    def words(n: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(n)]

    head, found = words(17), set()
    for _ in range(6):
        prompt = words(rng.randrange(3, 40))
        found |= {(*head, *prompt, *words(rng.randrange(1, 30))) for _ in range(rng.randrange(1, 6))}
    return sorted(found)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize(("budget", "max_rows"), [(4096, None), (100, None), (4096, 2), (1, None)])
@both_forwards
def test_borrowed_beginnings_change_nothing(
    request: pytest.FixtureRequest,
    family: str,
    budget: int,
    max_rows: int | None,
    of: Callable[[PreTrainedModel], PaddedForward | PackedForward],
    chatml_tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = request.getfixturevalue(family)(chatml_tokenizer).eval()
    sequences = some_sequences(model.config.vocab_size)
    tokens = [(i % 7, 7 + i % 5, 30) for i in range(len(sequences))]
    with torch.no_grad():
        expected = alone(model, sequences, tokens)
        whole = PrefixForward(of(model), share=False)
        torch.testing.assert_close(whole.logprobs(sequences, tokens, budget, max_rows), expected, atol=1e-4, rtol=0)
        forward = PrefixForward(of(model), share=True)
        torch.testing.assert_close(forward.logprobs(sequences, tokens, budget, max_rows), expected, atol=1e-4, rtol=0)
        with forward.remembering(10**6):
            first = forward.logprobs(sequences[::2], tokens[::2], budget, max_rows)
            second = forward.logprobs(sequences[1::2], tokens[1::2], budget, max_rows)
        torch.testing.assert_close(first, expected[::2], atol=1e-4, rtol=0)
        torch.testing.assert_close(second, expected[1::2], atol=1e-4, rtol=0)


def count_tokens(model: PreTrainedModel) -> list[int]:
    computed: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return computed


@both_forwards
def test_tokens_are_really_saved_and_forgotten(
    of: Callable[[PreTrainedModel], PaddedForward | PackedForward],
    chatml_tokenizer: PreTrainedTokenizerFast,
    tiny_llama: Callable[..., LlamaForCausalLM],
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()
    prompt = tuple(range(5, 45))
    pair = [(*prompt, 50, 51), (*prompt, 60, 61)]
    later = (*prompt, 50, 52)
    computed = count_tokens(model)
    forward = PrefixForward(of(model), share=True)
    with torch.no_grad():
        with forward.remembering(1000):
            forward.logprobs(pair, [(1,), (1,)], 4096, None)
            assert sum(computed) == 42 + 2
            forward.logprobs([later], [(1,)], 4096, None)
            assert sum(computed) == 42 + 2 + 1
        forward.logprobs([later], [(1,)], 4096, None)
        assert sum(computed) == 42 + 2 + 1 + 42
        # What does not fit is forgotten, the oldest first.
        with forward.remembering(42):
            forward.logprobs(pair, [(1,), (1,)], 4096, None)
            assert list(forward._memory) == [pair[1]]
        PrefixForward(of(model), share=False).logprobs(pair, [(1,), (1,)], 4096, None)
    assert computed[-1] == 84


@pytest.mark.parametrize(("of", "padding"), [(padded, 7), (PackedForward, 0)])
def test_counts_are_what_the_model_was_given(
    of: Callable[[PreTrainedModel], PaddedForward | PackedForward],
    padding: int,
    chatml_tokenizer: PreTrainedTokenizerFast,
    tiny_llama: Callable[..., LlamaForCausalLM],
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()
    prompt = tuple(range(5, 45))
    sequences = [(*prompt, 50, 51), (*prompt, 60), (*prompt, 61, *range(7))]
    computed = count_tokens(model)
    forward = PrefixForward(of(model), share=True)
    with torch.no_grad():
        forward.logprobs(sequences, [(1,)] * 3, 4096, None)
    # One whole, then the rests of 1 and 8 tokens in one batch.
    assert forward.counts == Counts(asked=42 + 41 + 48, computed=42 + 1 + 8, padded=42 + 1 + 8 + padding)
    assert forward.counts.padded == sum(computed)
    assert forward.counts.prefix_reuse == pytest.approx(80 / 131)
    assert forward.counts.padding_share == pytest.approx(padding / (51 + padding))


def test_a_change_of_the_weights_shows_in_the_next_call(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer)
    engine = TransformersEngine(model, ChatEncoder(chatml_tokenizer))
    prompts = [JudgmentPrompt((*range(5, 40), i), (30, 31)) for i in range(4)]
    before = engine.label_probabilities(prompts)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(3)
    after = engine.label_probabilities(prompts)
    fresh = TransformersEngine(model, ChatEncoder(chatml_tokenizer), share_prefixes=False).label_probabilities(prompts)
    assert abs(after - before).max() > 1e-3
    assert after == pytest.approx(fresh, abs=1e-5)


def test_only_layers_that_keep_every_token_can_lend(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer)
    assert can_share(model)
    config = model.config
    assert cache_bytes(model) == 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert can_pack(model)
    config.sliding_window = 16
    assert not can_share(model)
    assert not can_pack(model)
    eager = tiny_llama(chatml_tokenizer)
    eager.set_attn_implementation("eager")
    assert can_share(eager)
    assert not can_pack(eager)


def test_a_packed_batch_leaves_the_model_as_it_was(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()
    ids = torch.tensor([[5, 6, 7], [8, 9, 0]])
    with torch.no_grad():
        before = model(ids, attention_mask=ids.ne(0)).logits
        PrefixForward(PackedForward(model), share=True).logprobs([(5, 6), (7,)], [(1,), (1,)], 4096, None)
        after = model(ids, attention_mask=ids.ne(0)).logits
    assert torch.equal(before, after)


def test_packed_batches_are_as_large_as_asked(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()
    computed = count_tokens(model)
    with torch.no_grad():
        PrefixForward(PackedForward(model), share=False).logprobs([(i,) * 9 for i in range(7)], [(1,)] * 7, 30, None)
        assert computed == [27, 27, 9]
        PrefixForward(PackedForward(model), share=False).logprobs([(i,) * 9 for i in range(7)], [(1,)] * 7, 30, 2)
    assert computed[3:] == [18, 18, 18, 9]


def test_out_of_memory_halves_the_budget_and_goes_on(
    chatml_tokenizer: PreTrainedTokenizerFast,
    tiny_llama: Callable[..., LlamaForCausalLM],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_llama(chatml_tokenizer)
    chat = ChatEncoder(chatml_tokenizer)
    prompts = [JudgmentPrompt((i, *range(5, 29), i), (30, 31)) for i in range(12)]
    expected = TransformersEngine(model, chat).label_probabilities(prompts)

    def out_of_memory(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        if kwargs["input_ids"].shape[0] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = model.register_forward_pre_hook(out_of_memory, with_kwargs=True)
    engine = TransformersEngine(model, chat, token_budget=1000, packed=False)
    assert engine.label_probabilities(prompts) == pytest.approx(expected, abs=1e-5)
    assert engine.token_budget == 78  # 12 rows of 26, then 6, then 3
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["Out of memory"] * 2
    caplog.clear()
    engine.label_probabilities(prompts)
    assert not caplog.records
    handle.remove()
    model.register_forward_pre_hook(lambda *args: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        engine.label_probabilities(prompts)


def test_a_wave_that_saves_too_little_joins_the_one_before() -> None:
    p, q = (*HEAD, 50, *range(30)), (*HEAD, 51, *range(30))
    a, b, c, d = (*p, 60), (*p, 61), (*q, 60), (*q, 61)
    planned = waves([a, b, c, d])
    assert planned == [[Task(a, None, 0)], [Task(b, a, 51), Task(c, a, 20)], [Task(d, c, 51)]]
    assert worthwhile(planned, [], 51) == planned  # they save 71 and 51, and 52, 33 and 1 are computed
    # The last saves 51: it joins the second, and what it borrowed there it computes.
    assert worthwhile(planned, [], 52) == [[Task(a, None, 0)], [Task(b, a, 51), Task(c, a, 20), Task(d, None, 0)]]
    assert worthwhile(planned, [], 1000) == [[Task(s, None, 0) for s in (a, b, c, d)]]
    # Half of what is left to compute is too little as well.
    long = [(*HEAD, i, *range(11)) for i in range(9)]  # 160 are saved; 32 and 8 x 12 are computed
    assert worthwhile(waves(long), [], 1) == waves(long)
    longer = [(*HEAD, i, *range(31)) for i in range(9)]  # 160 are saved; 52 and 8 x 32 are computed
    assert worthwhile(waves(longer), [], 1) == waves(longer)
    longest = [(*HEAD, i, *range(33)) for i in range(9)]  # 160 are saved; 54 and 8 x 34 are computed
    assert worthwhile(waves(longest), [], 1) == [[Task(s, None, 0) for s in longest]]
    assert worthwhile(waves(longest), [], 0) == waves(longest)
    # What is known already still lends.
    known = (*HEAD, 70)
    again = waves([a, b], [known])
    assert worthwhile(again, [known], 1000) == [[Task(a, known, 20), Task(b, known, 20)]]


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.operations += 1
        return func(*args, **(kwargs or {}))


def test_what_is_borrowed_is_gathered_for_all_rows_at_once(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()

    def operations(rows: int) -> int:
        forward = PrefixForward(padded(model), share=True)
        stem = tuple(range(5, 45))
        with torch.no_grad(), Count() as count:
            forward.logprobs([stem, *((*stem, i, 7) for i in range(rows))], [(1,)] * (rows + 1), 10**6, None)
        return count.operations

    assert operations(40) == operations(4)


def test_only_what_another_borrows_is_kept(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()
    kept: list[list[int]] = []

    class Watched(PaddedForward):
        def run(self, tasks, tokens, computed, keep):  # type: ignore[no-untyped-def]
            logprobs, found = super().run(tasks, tokens, computed, keep)
            kept.append([pool.pool.tokens.shape[0] for pool in found.values()])
            return logprobs, found

    stem = tuple(range(5, 45))
    forward = PrefixForward(Watched(model, 0, 0), share=True)
    with torch.no_grad():
        forward.logprobs([(*stem, 50, *range(30)), (*stem, 51, 9)], [(1,)] * 2, 10**6, None)
    assert kept == [[40], []]  # of 71 tokens those that the other begins with; nobody borrows from that


def test_a_model_with_other_attention_gets_a_mask_that_it_knows(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer).eval()
    sequences = some_sequences(model.config.vocab_size)
    tokens = [(1, 2)] * len(sequences)
    with torch.no_grad():
        expected = alone(model, sequences, tokens)
        model.set_attn_implementation("eager")
        found = PrefixForward(padded(model), share=True).logprobs(sequences, tokens, 4096, None)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        Lfm2Config(layer_types=["conv", "full_attention"], **SMALL),
        MistralConfig(sliding_window=8, **SMALL),
        FalconH1Config(mamba_d_ssm=32, mamba_n_heads=2, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=8, **SMALL),
    ],
)
@torch.no_grad()
def test_models_whose_layers_cannot_lend_are_computed_whole(config: PreTrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert not can_share(model)
    sequences = some_sequences(config.vocab_size)
    tokens = [(1, 2)] * len(sequences)
    found = PrefixForward(padded(model), share=can_share(model)).logprobs(sequences, tokens, 4096, None)
    torch.testing.assert_close(found, alone(model, sequences, tokens), atol=1e-4, rtol=0)


@both_forwards
def test_what_is_remembered_holds_no_more_than_is_allowed(
    of: Callable[[PreTrainedModel], PaddedForward | PackedForward],
    chatml_tokenizer: PreTrainedTokenizerFast,
    tiny_llama: Callable[..., LlamaForCausalLM],
) -> None:
    """One sequence of a batch keeps alive what its whole batch computed."""
    model = tiny_llama(chatml_tokenizer).eval()
    forward = PrefixForward(of(model), share=True)
    with torch.no_grad(), forward.remembering(300):
        for turn in range(6):
            asked = [(turn, i, *range(40)) for i in range(5)]  # 210 tokens in a batch
            forward.logprobs(asked, [(1,)] * 5, 4096, None)
            held = dict(forward._forward.held(kept) for kept in forward._memory.values())
            assert 0 < sum(held.values()) <= 300
            assert set(forward._memory) == set(asked)  # the latest
