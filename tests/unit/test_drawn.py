"""Completions are told one by one as they end, and are those of a call in which nobody is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import pytest
import torch
from served_model import ServedModel, served_models
from transformers import LlamaForCausalLM

from selfjudge.engines import static_decode
from selfjudge.engines.base import Engine, SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.openai_answers import StreamedChoices
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.errors import EngineError
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder

PARAMS = SamplingParams(n=5, max_new_tokens=20, seed=3, temperature=1.3)
PROMPTS = [[25, 30, 41], [33], [50, 51, 52, 53, 54, 55, 56]]
Places = list[tuple[int, int]]


@pytest.fixture
def model(world_chat: ChatEncoder, tiny_llama: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    model = tiny_llama(world_chat.tokenizer)
    with torch.no_grad():  # samples that end at many different lengths, and some that do not
        model.lm_head.weight[list(world_chat.stop_ids)] += 2 * model.lm_head.weight.std()
    return model


@pytest.fixture
def serve(model: LlamaForCausalLM, world_chat: ChatEncoder) -> Iterator[Callable[..., ServedModel]]:
    with served_models(model, world_chat) as serve:
        yield serve


def tell(engine: Engine, params: SamplingParams = PARAMS) -> tuple[Places, list[list[Completion]]]:
    """Samples and returns the places in the order in which they were told, each told once and as it was returned."""
    told: dict[tuple[int, int], Completion] = {}

    def drawn(prompt: int, place: int, completion: Completion) -> None:
        assert (prompt, place) not in told
        told[prompt, place] = completion

    found = engine.sample(PROMPTS, params, drawn=drawn)
    assert told == {(i, j): completion for i, row in enumerate(found) for j, completion in enumerate(row)}
    return list(told), found


def test_they_come_in_the_order_in_which_they_end(model: LlamaForCausalLM, world_chat: ChatEncoder) -> None:
    engine = TransformersEngine(model, world_chat, static_cache=False)
    order, found = tell(engine)
    assert found == engine.sample(PROMPTS, PARAMS)
    assert {c.finish_reason for c in chain(*found)} == {"stop", "length"}
    lengths = [len(found[prompt][place].ids) for prompt, place in order]
    assert lengths == sorted(lengths)  # all of them are one batch
    assert order != sorted(order)


@pytest.mark.parametrize("static", [False, True])
def test_none_waits_for_the_others(model: LlamaForCausalLM, world_chat: ChatEncoder, static: bool) -> None:
    forwards = 0

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    sampling_way(model)
    hook = model.register_forward_pre_hook(count)
    late: list[int] = []
    engine = TransformersEngine(model, world_chat, static_cache=static)
    engine.sample(PROMPTS, PARAMS, drawn=lambda i, j, completion: late.append(forwards - len(completion.ids)))
    hook.remove()
    # The prompt is read once and gives the first token; each token after it is one more forward.
    assert len(late) == 15
    if static:  # looks for ended rows now and then only
        assert 0 < max(late) < static_decode._LOOK_EVERY
        assert min(late) >= 0
    else:
        assert set(late) == {0}


@pytest.mark.parametrize("options", [{"static_cache": True}, {"token_budget": 60}, {"batch_size": 5}])
def test_neither_a_static_cache_nor_batches_change_what_is_told(
    model: LlamaForCausalLM, world_chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]
) -> None:
    monkeypatch.setattr(static_decode, "_FLAT", 4)  # ended rows leave
    engine = TransformersEngine(model, world_chat, **options)
    for params in (PARAMS, SamplingParams(n=2, max_new_tokens=1), SamplingParams(n=3, max_new_tokens=9, temperature=0)):
        _, found = tell(engine, params)
        assert found == engine.sample(PROMPTS, params)


def test_what_is_drawn_again_is_told_again_and_the_last_stands(
    model: LlamaForCausalLM, world_chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(model, world_chat, static_cache=False)
    decode, calls = engine._decode, 0

    def runs_out_once(prompts: object, u: torch.Tensor, *rest: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            return decode(prompts, u, *rest)
        decode(prompts, 1 - u, *rest)  # other completions
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine, "_decode", runs_out_once)
    told: list[tuple[tuple[int, int], Completion]] = []
    found = engine.sample(PROMPTS, PARAMS, drawn=lambda i, j, completion: told.append(((i, j), completion)))
    assert len(told) == 30
    assert dict(told[:15]) != dict(told)
    assert dict(told) == {(i, j): completion for i, row in enumerate(found) for j, completion in enumerate(row)}


@pytest.mark.parametrize("mode", ["vllm", "old vllm", "llama.cpp", "text"])
def test_a_servers_stream_gives_what_its_answer_gives(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder, mode: str
) -> None:
    served = serve(mode)
    engine = OpenAIEngine(served.url, world_chat)
    order, found = tell(engine)
    assert {bool(body.get("stream")) for body in served.requests} == {True}
    expected = engine.sample(PROMPTS, PARAMS)
    assert not any(body.get("stream") for body in served.requests[len(PROMPTS) :])
    assert found == expected
    first = [place for prompt, place in order if prompt == 0]
    assert sorted(first) == [0, 1, 2, 3, 4]
    if mode == "vllm":  # elsewhere pieces are not tokens
        assert first == sorted(first, key=lambda place: (len(found[0][place].ids), place))


def test_a_servers_greedy_completion_is_told_for_all_of_its_places(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder
) -> None:
    params = SamplingParams(n=3, temperature=0, max_new_tokens=4)
    order, found = tell(OpenAIEngine(serve().url, world_chat), params)
    assert {place for prompt, place in order if prompt == 1} == {0, 1, 2}
    assert found[1][0] == found[1][2]


@pytest.mark.parametrize(
    ("mode", "stream", "message"),
    [
        ("vllm", "breaks", r"broke off its answer to prompt \d"),
        ("vllm", "fails", r"broke off its answer to prompt \d \(out of memory\): look at its log"),
        ("vllm", "ends", r"gave 1 of 5 completions"),
        ("one completion", "goes on", r"gave 1 of 5 completions"),
        ("aborts", "goes on", r"broke off a completion of prompt \d \('abort'\)"),
        ("web page", "goes on", r"gave 0 of 5 completions"),
    ],
)
def test_a_stream_that_does_not_come_to_its_end_is_an_error(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder, mode: str, stream: str, message: str
) -> None:
    engine = OpenAIEngine(serve(mode, stream=stream).url, world_chat, max_retries=0)
    with pytest.raises(EngineError, match=message) as error:
        engine.sample(PROMPTS, PARAMS, drawn=lambda *_: None)
    assert str(error.value).endswith(".")


def test_a_refused_stream_is_told_as_a_refused_answer(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder
) -> None:
    served = serve(failures=[(400, {"error": {"message": "too long"}})] * 3)
    with pytest.raises(EngineError, match=r"refused prompt \d .* with 400 \(too long\): shorten the prompt"):
        OpenAIEngine(served.url, world_chat, max_retries=0).sample(PROMPTS, PARAMS, drawn=lambda *_: None)


def test_pieces_of_choices_come_together_whatever_they_leave_out() -> None:
    streamed = StreamedChoices()
    assert streamed.add({"index": 1, "text": "a", "token_ids": [1], "finish_reason": None}) is None
    assert streamed.add({"index": 0, "text": "x", "finish_reason": "stop"}) == {
        "index": 0, "text": "x", "finish_reason": "stop", "logprobs": {"tokens": [], "token_logprobs": []},
    }  # fmt: skip
    assert streamed.add({"index": 1, "text": None, "token_ids": None, "finish_reason": ""}) is None
    last = {"index": 1, "text": "b", "token_ids": [2, 3], "finish_reason": "length",
            "logprobs": {"tokens": ["b"], "token_logprobs": [-1.0]}}  # fmt: skip
    assert streamed.add(last) == {
        "index": 1, "text": "ab", "token_ids": [1, 2, 3], "finish_reason": "length",
        "logprobs": {"tokens": ["b"], "token_logprobs": [-1.0]},
    }  # fmt: skip
