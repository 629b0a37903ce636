"""Which way of sampling is right for a model: tried once on a few tokens, before its first sample."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import should_reduce_batch_size
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfjudge.engines.eval_mode import EvalMode
from selfjudge.engines.own_rope import own_rope
from selfjudge.engines.stepwise import TOGETHER, WAYS, SamplingWay, StepwiseBatch
from selfjudge.errors import ModelError

_PROMPTS = (3, 11)
"""Tokens of the two prompts."""
_SAMPLES = 2
_NEW = 3
"""Tokens that each sample goes on for."""
_LEAVES = 1
"""The row that leaves the batch after its first new token."""
_RULED_OUT = -1e4
"""Logits from here on down are those of tokens that a model rules out."""

_logger = logging.getLogger(__name__)
_FOUND: WeakKeyDictionary[PreTrainedModel, SamplingWay] = WeakKeyDictionary()


def sampling_way(model: PreTrainedModel | PeftModel) -> SamplingWay:
    """Returns the quickest way of sampling in which every row of a batch gets the logits it gets alone.

    The first call for a model tries it, with some ten forwards of a few tokens; a way other than the usual one is
    logged as a warning then. Nothing of it stays: neither in the model nor in the random state.

    Raises:
        ModelError: if there is none, or the model does not run.
    """
    lm: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    if lm not in _FOUND:
        devices = [lm.device] if lm.device.type == "cuda" else []
        with torch.random.fork_rng(devices), EvalMode(lm).in_use(), torch.no_grad(), _as_it_was(lm):
            _FOUND[lm] = _tried(lm)
        if _FOUND[lm] is not TOGETHER:
            _logger.warning("%s is sampled %s.", type(lm).__name__, _FOUND[lm].description)
    return _FOUND[lm]


def _tried(model: PreTrainedModel) -> SamplingWay:
    name = type(model).__name__
    rows = _rows(model)
    try:
        alone = torch.cat([_given(model, [row]) for row in rows])
        beside = _given(model, rows)
    except Exception as e:
        if should_reduce_batch_size(e):
            raise
        raise ModelError(f"{name} does not run: {' '.join(str(e).split())[:300]}") from e
    tolerance = max(0.01, torch.finfo(model.dtype).eps ** 0.5)
    noise = _distance(beside, alone)
    if not noise <= 3 * tolerance:
        raise ModelError(
            f"{name} cannot be used: what it makes of a text depends on the texts beside it or on what comes after it."
        )
    for way in WAYS:
        if _is_right(model, way, rows, alone, tolerance + 2 * noise):
            return way
    raise ModelError(f"{name} cannot be sampled from: token by token it gives other logits than for a whole text.")


def _is_right(
    model: PreTrainedModel, way: SamplingWay, rows: Sequence[Sequence[int]], alone: Tensor, tolerance: float
) -> bool:
    """Returns whether a way gives ``alone``, [rows, tokens, vocab], for rows that are a prompt and its new tokens."""
    together = range(len(rows))
    batches = [together] if way.mixed else [together[:_SAMPLES], together[_SAMPLES:]]
    try:
        found = [part for batch in batches for part in _stepped(model, way, [rows[i] for i in batch], alone, batch)]
    except Exception as e:
        if should_reduce_batch_size(e):
            raise
        _logger.debug("sampling %s: %s: %s", way.description, type(e).__name__, e)
        return False
    return bool(torch.tensor(found).mean() <= tolerance)


def _stepped(
    model: PreTrainedModel, way: SamplingWay, rows: Sequence[Sequence[int]], alone: Tensor, places: Sequence[int]
) -> Iterator[float]:
    """Yields how far the logits of each step are from those at ``places`` of ``alone``."""
    new = torch.tensor([row[-_NEW:] for row in rows], device=model.device)
    going = torch.tensor(places, device=model.device)
    batch, held = StepwiseBatch(model, way, [row[:-_NEW] for row in rows[::_SAMPLES]], _SAMPLES, 0), _held(model)
    yield _distance(batch.first(), alone[going, 0])
    if way is TOGETHER and any(held.get(place) is not tensor for place, tensor in _held(model).items()):
        yield float("inf")  # rows that leave would stay in there
    for step in range(_NEW):
        yield _distance(batch.next(new[:, step]), alone[going, step + 1])
        if step == 0 and way.mixed:
            stay = torch.tensor([i for i in range(len(rows)) if i != _LEAVES], device=model.device)
            batch.keep(stay)
            new, going = new[stay], going[stay]


def _rows(model: PreTrainedModel) -> list[list[int]]:
    """Returns ids of two prompts of unlike length, each twice, with new tokens that differ."""
    vocab = model.config.get_text_config().vocab_size
    prompts = [[(7 * length + 3 * i) % vocab for i in range(length)] for length in _PROMPTS]
    return [
        [*prompt, *((11 * row + 5 * i + 4) % vocab for i in range(_NEW))]
        for row, prompt in enumerate(prompt for prompt in prompts for _ in range(_SAMPLES))
    ]


def _given(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Returns the logits of whole rows, filled up on the right, without a cache, from each one's first new token on."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=model.device)
    with own_rope(model).of(torch.tensor([[len(row)] for row in rows])):
        logits = model(input_ids=ids, use_cache=False).logits.float()
    return torch.stack([logits[i, len(row) - _NEW - 1 : len(row)] for i, row in enumerate(rows)])


def _distance(found: Tensor, expected: Tensor) -> float:
    """Returns the mean over positions of how far logits are from others, as a share of these others' spread."""
    found, expected = found.float(), expected.float()
    seen = expected > _RULED_OUT
    centre = expected.where(seen, 0).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
    apart, spread = ((t - u).where(seen, 0).square().sum(-1) for t, u in ((found, expected), (expected, centre)))
    return float((apart / (spread + torch.finfo(torch.float32).tiny)).sqrt().mean())


def _held(model: nn.Module) -> dict[tuple[nn.Module, str], Tensor]:
    """Returns the tensors that modules have as plain attributes, where some models keep what a cache is for."""
    modules = model.modules()
    return {(m, name): value for m in modules for name, value in vars(m).items() if isinstance(value, Tensor)}


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Takes back what forwards leave in a model's modules: states, positions, frequencies."""
    before: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = [
        (module, dict(module.__dict__), dict(module._buffers)) for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            for name in module.__dict__.keys() - attributes.keys():
                del module.__dict__[name]
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
