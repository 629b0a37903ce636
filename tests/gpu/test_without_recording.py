"""What cannot be recorded, or does not fit into memory, is still sampled, and leaves the device usable.

Last of all, in the order of file names: where one of these fails, the device may be in no state for other tests.
"""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import torch
from gpu.tiny import DEVICE, flat, grouped_query_model, needs_device, on_gpu, share_equal

from selfjudge.benchmarks.inputs import prompt_ids, random_model
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel

needs_device()

PARAMS = SamplingParams(n=2, temperature=1, top_p=0.9, max_new_tokens=24, seed=5)


def prompts_of(loaded: LoadedModel, n: int) -> list[list[int]]:
    return [list(ids) for ids in prompt_ids(loaded.chat, n)]


def test_a_batch_that_does_not_fit_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    loaded = grouped_query_model()
    prompts = prompts_of(loaded, 24)
    expected = flat(TransformersEngine(loaded.model, loaded.chat, static_cache=False).sample(prompts, PARAMS))
    engine = TransformersEngine(loaded.model, loaded.chat, static_cache=True)
    before, rows = engine.token_budget, []

    def full(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        rows.append(len(kwargs["input_ids"]))
        if rows[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    handle = loaded.model.register_forward_pre_hook(full, with_kwargs=True)
    with caplog.at_level(logging.WARNING, logger="selfjudge"):
        found = flat(engine.sample(prompts, PARAMS))
    handle.remove()
    assert any("Out of memory" in r.getMessage() for r in caplog.records)
    assert engine.token_budget < before
    assert max(rows) > 8 >= rows[-1]
    assert share_equal(found, expected) >= 0.9


@on_gpu
def test_a_step_that_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    loaded = grouped_query_model()
    prompts = prompts_of(loaded, 12)
    expected = flat(TransformersEngine(loaded.model, loaded.chat, static_cache=False).sample(prompts, PARAMS))
    engine = TransformersEngine(loaded.model, loaded.chat, static_cache=True)
    stream = torch.cuda.current_stream()

    def wait(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] == 1:  # as a model does whose step depends on values
            kwargs["input_ids"].sum().item()

    handle = loaded.model.register_forward_pre_hook(wait, with_kwargs=True)
    with caplog.at_level(logging.INFO, logger="selfjudge"):
        found = [flat(engine.sample(prompts, PARAMS)) for _ in range(2)]
    handle.remove()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert all(share_equal(f, expected) >= 0.9 for f in found)
    usable(stream)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="selfjudge"):
        later = TransformersEngine(loaded.model, loaded.chat, static_cache=True)
        found_later = flat(later.sample(prompts[:3], PARAMS))
    assert share_equal(found_later, expected[:6]) >= 0.9
    assert any("Recorded sampling" in r.getMessage() for r in caplog.records)
    usable(stream)


def usable(stream: torch.cuda.Stream) -> None:
    """The same stream as before is the current one, and memory that is given back can be had again."""
    assert torch.cuda.current_stream() == stream
    assert not torch.cuda.is_current_stream_capturing()
    before = torch.cuda.memory_allocated()
    large = torch.ones(2**24, device=DEVICE)
    assert float(large.sum()) == 2**24
    del large
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


@on_gpu
def test_sampling_goes_on_where_memory_runs_out() -> None:
    loaded = random_model("tiny", DEVICE, torch.float32)
    prompts = prompts_of(loaded, 64)
    params = SamplingParams(n=8, temperature=0, max_new_tokens=16)
    expected = flat(TransformersEngine(loaded.model, loaded.chat, token_budget=8192).sample(prompts, params))
    engine = TransformersEngine(loaded.model, loaded.chat, static_cache=True)
    before = engine.token_budget
    gc.collect()
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + 600 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = flat(engine.sample(prompts, params))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert engine.token_budget < before
    assert share_equal(found, expected) >= 0.9
