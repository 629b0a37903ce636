"""Sampling with a static cache: the same samples as with a growing one, whatever was sampled before. Runs on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from selfjudge.engines import static_decode
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.recorded import Recorded
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.engines.static_decode import StaticDecoder, can_be_static
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder

PARAMS = SamplingParams(n=3, max_new_tokens=30, seed=2, temperature=1.3, top_p=0.95)


@pytest.fixture
def chat(world_chat: ChatEncoder) -> ChatEncoder:
    return world_chat


@pytest.fixture
def model(chat: ChatEncoder, tiny_llama: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    model = tiny_llama(chat.tokenizer)
    with torch.no_grad():  # samples that end at many different lengths
        model.lm_head.weight[list(chat.stop_ids)] += 4 * model.lm_head.weight.std()
    return model


def prompts(n: int, longest: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (n,), generator=generator).tolist()
    return [torch.randint(20, 200, (length,), generator=generator).tolist() for length in lengths]


def assert_same(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    """Rounding may be another with more columns, and at a near tie draw another token: of one sample at most."""
    pairs = list(zip(chain(*found), chain(*expected), strict=True))
    same = [(f, e) for f, e in pairs if f.ids == e.ids]
    assert len(same) >= len(pairs) - 1
    for f, e in same:
        assert f.logprobs == pytest.approx(e.logprobs, abs=1e-4)
        assert f.finish_reason == e.finish_reason


def test_samples_are_those_of_the_growing_cache(
    model: LlamaForCausalLM, chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_decode, "_FLAT", 2)  # rows leave small batches too
    monkeypatch.setattr(static_decode, "_COLUMNS", 16)
    static, growing = (TransformersEngine(model, chat, static_cache=s) for s in (True, False))
    # Larger, smaller and longer than what was before, one row, other settings: nothing of it may be left over.
    for case, params in [
        (prompts(13, 40), PARAMS),
        (prompts(13, 40), PARAMS),
        (prompts(3, 9, seed=1), PARAMS),
        (prompts(5, 90, seed=2), SamplingParams(n=1, max_new_tokens=9, seed=3)),
        (prompts(1, 5, seed=3), SamplingParams(n=1, max_new_tokens=1, seed=3)),
        (prompts(4, 30, seed=4), SamplingParams(n=2, max_new_tokens=40, temperature=0)),
        (prompts(20, 40, seed=5), PARAMS),
    ]:
        assert_same(static.sample(case, params), growing.sample(case, params))


def steps(decoder: StaticDecoder, case: list[list[int]], chat: ChatEncoder, new: int = 30) -> int:
    params = SamplingParams(max_new_tokens=new)
    u = torch.rand(len(case), 1, new)
    decoder.decode(case, u, params, chat.stop_ids, 0)
    return len(decoder._steps)


def test_shapes_are_few(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    decoder = StaticDecoder(model, keep_bytes=10**9)
    assert steps(decoder, prompts(9, 40), chat) == 1
    for n, longest in ((10, 20), (16, 60), (12, 5)):  # 9 to 16 rows, up to 128 columns
        assert steps(decoder, prompts(n, longest), chat) == 1
    assert steps(decoder, prompts(8, 40), chat) == 2
    assert steps(StaticDecoder(model, keep_bytes=0), prompts(8, 40), chat) == 0  # nothing may be kept


def test_ended_rows_leave_large_batches(
    model: LlamaForCausalLM, chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_decode, "_FLAT", 4)
    rows: list[int] = []
    sampling_way(model)
    model.register_forward_pre_hook(lambda m, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    TransformersEngine(model, chat, static_cache=True).sample(prompts(16, 20), PARAMS)
    assert rows[:2] == [16, 48]  # each prompt is read once, then there are three of each
    assert rows[-1] <= 24  # half of them have ended and left


def test_what_is_kept_goes_when_memory_runs_out(
    model: LlamaForCausalLM, chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = StaticDecoder(model, keep_bytes=10**9)
    steps(decoder, prompts(9, 40), chat)
    assert decoder._state is not None

    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(static_decode, "_load", full)
    with pytest.raises(torch.OutOfMemoryError):
        steps(decoder, prompts(9, 40), chat)
    assert decoder._state is None
    assert not decoder._steps


def test_recordings_end_with_the_weights_they_were_made_of(model: LlamaForCausalLM) -> None:
    policy = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert isinstance(policy, PeftModel)
    base = policy.get_base_model()
    seen = static_decode._fingerprint(base)
    with torch.no_grad():  # an optimisation step changes weights where they are
        next(p for p in policy.parameters() if p.requires_grad).add_(1)
    assert static_decode._fingerprint(base) == seen
    with policy.disable_adapter():
        assert static_decode._fingerprint(base) != seen
    assert static_decode._fingerprint(base) == seen
    policy.merge_adapter()
    assert static_decode._fingerprint(base) != seen
    policy.unmerge_adapter()
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.clone())
    assert static_decode._fingerprint(base) != seen


def test_which_models_can_be_static(model: LlamaForCausalLM) -> None:
    assert can_be_static(model)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    window = MistralConfig(vocab_size=32, num_key_value_heads=1, sliding_window=8, **sizes)
    assert not can_be_static(MistralForCausalLM(window))
    model.set_attn_implementation("eager")
    assert not can_be_static(model)


def test_long_and_short_batches_are_not_added_up(
    model: LlamaForCausalLM, chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = static_decode._allocate

    def states(keep_bytes: int) -> list[tuple[int, int, int]]:
        decoder, found = StaticDecoder(model, keep_bytes), []
        for n, longest in ((2, 700), (64, 20)):
            case = [[20] * (longest - 1)] * n
            monkeypatch.setattr(static_decode, "_allocate", lambda *args: found.append(args[:3]) or allocate(*args))
            steps(decoder, case, chat, new=3)
        return found

    assert states(10**9) == [(2, 768, 3), (64, 768, 3)]  # one state for both
    assert states(10**6) == [(2, 768, 3), (64, 128, 3)]


def test_a_recording_that_runs_out_of_memory_is_made_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Graph:
        replays = 0

        def replay(self) -> None:
            self.replays += 1

    graph, emptied, runs, errors = Graph(), [], [], [torch.OutOfMemoryError("full")]

    def recorded(self: object) -> Graph:
        if errors:
            raise errors.pop()
        return graph

    monkeypatch.setattr(Recorded, "_recorded", recorded)
    monkeypatch.setattr(Recorded, "_try", lambda self: self._step())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    step = Recorded(lambda: runs.append(True), "1 x 128", pool="a pool")
    for _ in range(3):
        step()
    assert (len(runs), graph.replays, len(emptied)) == (1, 2, 1)
    errors += [torch.OutOfMemoryError("full")] * 2
    step = Recorded(lambda: runs.append(True), "1 x 128", pool="a pool")
    step()
    with pytest.raises(torch.OutOfMemoryError):
        step()


def test_under_autocast_keys_and_values_have_one_dtype(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    case = prompts(6, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        static, growing = (
            TransformersEngine(model, chat, static_cache=s).sample(
                case, SamplingParams(temperature=0, max_new_tokens=9)
            )
            for s in (True, False)
        )
    assert sum(a.ids == b.ids for (a,), (b,) in zip(static, growing, strict=True)) >= 5


def test_an_adapter_in_training_mode_does_not_drop_anything_out(model: LlamaForCausalLM, chat: ChatEncoder) -> None:
    policy = get_peft_model(model.eval(), LoraConfig(r=4, lora_dropout=0.5, init_lora_weights=False))
    before = [module.training for module in policy.modules()]
    assert {True, False} == set(before)
    for static in (True, False):
        engine = TransformersEngine(policy, chat, static_cache=static)
        first, second = (engine.sample(prompts(4, 20), SamplingParams(max_new_tokens=9)) for _ in range(2))
        assert first == second
        assert [module.training for module in policy.modules()] == before
    policy.train()
    engine.sample(prompts(4, 20), SamplingParams(max_new_tokens=2))
    assert all(module.training for module in policy.modules())
