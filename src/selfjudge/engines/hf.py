"""The transformers engine: sampling and judging in process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from selfjudge.core.logprobs import chunk_length, token_kl
from selfjudge.engines.adapters import AdapterSwitch
from selfjudge.engines.base import Drawn, Progress, SamplingParams, read_completion
from selfjudge.engines.batching import same_length_batches, token_budget_batches, total_budget_batches
from selfjudge.engines.causal_lm import cache_bytes, on_device
from selfjudge.engines.decode import Sampled, decode, uniforms
from selfjudge.engines.eval_mode import EvalMode
from selfjudge.engines.fast_kernels import FastKernels
from selfjudge.engines.judging_way import judging_way
from selfjudge.engines.load import context_length
from selfjudge.engines.own_rope import own_rope
from selfjudge.engines.packed_forward import PackedForward
from selfjudge.engines.padded_forward import PaddedForward
from selfjudge.engines.prefix_forward import Counts, PrefixForward
from selfjudge.engines.responses import collate_responses, response_logprobs, response_sums
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.engines.static_decode import StaticDecoder, can_be_static
from selfjudge.engines.target_logprobs import target_logits
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt

_GROUP = 4
"""Batches of judgments that are planned together."""

Batches = Callable[[Sequence[int], int], list[list[int]]]

_logger = logging.getLogger(__name__)


class TransformersEngine:
    """Samples from and judges with a transformers model that is already on its device.

    With ``adapter=False`` a PEFT model is used with its adapter switched off: the base weights, which after JSFT are
    the frozen judge and reference.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        chat: ChatEncoder,
        *,
        adapter: bool = True,
        token_budget: int | None = None,
        batch_size: int | None = None,
        share_prefixes: bool = True,
        static_cache: bool | None = None,
        packed: bool | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Takes the model as it is.

        Args:
            model: a causal LM, or a PEFT model around one.
            chat: the encoder of its tokenizer.
            adapter: False to switch a PEFT adapter off during every call.
            token_budget: padded tokens of a batch (prompt and completion). By default 8192 on a CPU and 65536 on an
                accelerator. Where memory runs out it is halved, for good.
            batch_size: rows of a batch at most; by default the token budget alone decides.
            share_prefixes: compute what judgment prompts have in common once, where the model's layers allow it.
            static_cache: sample with fixed shapes, on a GPU from recorded CUDA graphs. By default there, where the
                model's layers allow it.
            packed: judge without padding, a sequence after another. By default on a CPU, where the model's layers allow
                it.
            autocast: dtype of the autocast for log-probabilities and KL of responses: that of the policy's training.
        """
        # PEFT injects its layers into the base model, so the inner model already runs with the adapter.
        self.model: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
        self.chat = chat
        self.token_budget = token_budget or (8192 if self.model.device.type == "cpu" else 65536)
        self._within = _within(model, self.model, adapter=adapter)
        self._batch_size = batch_size
        self._autocast = autocast
        self._busy = _busy_tokens(self.model)
        self._asked = (packed, share_prefixes)
        if static_cache is None:
            static_cache = self.model.device.type == "cuda" and can_be_static(self.model)
        static = StaticDecoder(self.model, self._remembered_bytes() // 2) if static_cache else None
        self._decode = static.decode if static else partial(decode, self.model)

    @cached_property
    def _shares(self) -> bool:
        """Whether judgments share what they have in common."""
        return self._asked[1] and judging_way(self.model).shares

    @cached_property
    def _prefixes(self) -> PrefixForward:
        packed = self._asked[0]
        if packed is None:
            packed = self.model.device.type == "cpu" and judging_way(self.model).packed
        forward = PackedForward(self.model) if packed else PaddedForward(self.model, self._pad_id, self._busy)
        return PrefixForward(forward, share=self._shares, border=own_rope(self.model).border)

    @property
    def max_length(self) -> int:
        """The model's context length in tokens."""
        return context_length(self.model)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Progress | None = None,
        drawn: Drawn | None = None,
    ) -> list[list[Completion]]:
        """Returns ``params.n`` completions per prompt; ``drawn`` is told of each as its row of the batch ends.

        The randomness of a prompt's samples depends on the seed and the prompt's place in the call, not on its batch.

        Raises:
            ModelError: if no way of sampling is right for the model, see :func:`sampling_way`.
        """
        results: list[list[Completion]] = [[] for _ in prompts]

        def run(batch: list[int]) -> None:
            def ended(row: int, sample: Sampled) -> None:
                drawn(batch[row // params.n], row % params.n, self._completion(prompts[batch[row // params.n]], sample))

            u = torch.stack([uniforms(params, i) for i in batch])
            asked = [prompts[i] for i in batch]
            found = self._decode(asked, u, params, self.chat.stop_ids, self._pad_id, ended if drawn else None)
            for i, samples in zip(batch, found, strict=True):
                results[i] = [self._completion(prompts[i], sample) for sample in samples]
            if progress:
                progress(len(batch))

        lengths = [(len(p) + params.max_new_tokens) * params.n for p in prompts]
        rows = max(1, self._batch_size // params.n) if self._batch_size else None
        with self._inference():
            batches = token_budget_batches if sampling_way(self.model).mixed else same_length_batches
            self._in_batches(lengths, run, partial(batches, max_rows=rows))
        return results

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Returns [n, 2] label probabilities, softmax over the whole vocabulary in float32.

        Equal prompts are computed once, so that they get equal probabilities to the last bit.
        """
        places: dict[JudgmentPrompt, list[int]] = {}
        for i, prompt in enumerate(prompts):
            places.setdefault(prompt, []).append(i)
        # Sorted, so that what begins alike is in the same batch.
        distinct = sorted(places, key=lambda prompt: prompt.token_ids)
        result = np.zeros((len(prompts), 2))

        def run(batch: list[int]) -> None:
            asked = [distinct[i] for i in batch]
            logprobs = self._prefixes.logprobs(
                [p.token_ids for p in asked], [p.label_ids for p in asked], self.token_budget, self._batch_size
            )
            for prompt, p in zip(asked, logprobs.double().exp().numpy(), strict=True):
                result[places[prompt]] = p
            if progress:
                progress(sum(len(places[prompt]) for prompt in asked))

        with self._inference():
            # Keys and values stay while a group is computed; the more of it, the more rows of a length there are.
            self._in_batches(
                [len(p.token_ids) for p in distinct], run, lambda n, budget: total_budget_batches(n, _GROUP * budget)
            )
        return result

    @contextmanager
    def reusing_prefixes(self) -> Iterator[int | None]:
        """Within it, judging goes on from what earlier judgments computed; the weights must not change meanwhile."""
        if not self._shares:
            yield None
            return
        with self._inference():
            tokens = self._remembered_bytes() // cache_bytes(self.model)
        with self._prefixes.remembering(tokens):
            yield tokens

    def counts(self) -> Counts:
        """Returns counts of tokens that begin at nothing, and to which judging adds from now on."""
        self._prefixes.counts = Counts()
        return self._prefixes.counts

    def response_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Returns log p(response | prompt), summed over the response's tokens, for each (prompt, response)."""
        result = [0.0] * len(rows)

        def run(batch: list[int]) -> None:
            values = response_logprobs(self.model, self._collated([rows[i] for i in batch]))
            for i, value in zip(batch, values.tolist(), strict=True):
                result[i] = value

        batches = partial(token_budget_batches, max_rows=self._batch_size, busy=self._busy)
        with self._inference(), self._as_trained():
            self._in_batches([len(x) + len(y) for x, y in rows], run, batches)
        return result

    def batch_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Returns :meth:`response_logprobs` from one batch of the rows in their order, where the token budget allows.

        Rounding depends on what a batch is made of: so these are the log-probs of a training on the same batch.
        """
        if rows and len(rows) * max(len(x) + len(y) for x, y in rows) <= self.token_budget:
            try:
                with self._inference(), self._as_trained():
                    return [float(value) for value in response_logprobs(self.model, self._collated(rows)).tolist()]
            except RuntimeError as e:
                if not should_reduce_batch_size(e):
                    raise
            clear_device_cache(garbage_collection=True)
        return self.response_logprobs(rows)

    def response_kl(
        self, reference: TransformersEngine, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[float]:
        """Returns the KL to ``reference`` along each response of (prompt, response), in nats.

        That is the sum over the response's tokens of the exact KL between both models' distributions of that token, at
        temperature 1 and over the whole vocabulary (:func:`selfjudge.core.logprobs.token_kl`). Its mean over responses
        sampled from this model is an unbiased estimate of KL(model || reference) per response. It takes one forward of
        each model; a batch is so small that its responses' logits in float32 take about ``CHUNK_BYTES``.

        Args:
            reference: on the same device, with the same tokenizer; the same model with its adapter switched off, or
                another one. Equal weights give exactly 0.
            rows: (prompt, response) as token ids.
        """
        result = [0.0] * len(rows)
        chunk = chunk_length(self.model.config.get_text_config().vocab_size)

        def run(batch: list[int]) -> None:
            inputs = self._collated([rows[i] for i in batch])
            both = []
            for engine in (self, reference):
                with engine._inference(), engine._as_trained():
                    logits = target_logits(engine.model, {"input_ids": inputs["input_ids"]}, inputs["targets"])
                # token_kl works with four tensors of the size of its logits in float32.
                both.append(logits.split(max(1, chunk // 4)))
            kl = torch.cat([token_kl(*parts) for parts in zip(*both, strict=True)])
            for i, value in zip(batch, response_sums(kl, inputs["response_mask"]).tolist(), strict=True):
                result[i] = value

        fitting = max(1, chunk // max((len(response) for _, response in rows), default=1))
        most = min(fitting, self._batch_size or fitting)
        self._in_batches([len(x) + len(y) for x, y in rows], run, partial(token_budget_batches, max_rows=most))
        return result

    def _collated(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, torch.Tensor]:
        inputs = collate_responses(rows, self._pad_id)
        return {name: on_device(tensor, self.model.device) for name, tensor in inputs.items()}

    def _remembered_bytes(self) -> int:
        """Keys and values may take a tenth of an accelerator's memory, or 2 GiB of a CPU's."""
        if self.model.device.type != "cuda":
            return 2 * 2**30
        return torch.cuda.get_device_properties(self.model.device).total_memory // 10

    def _in_batches(self, lengths: Sequence[int], run: Callable[[list[int]], None], batches: Batches) -> None:
        """Calls ``run`` with the indices of each batch; where memory runs out, goes on with half the budget."""
        todo = batches(lengths, self.token_budget)
        while todo:
            batch = todo[0]
            try:
                run(batch)
                todo = todo[1:]
                continue
            except RuntimeError as e:
                if len(batch) == 1 or not should_reduce_batch_size(e):
                    raise
            # Outside the except clause: the exception holds on to the tensors of the failed batch.
            clear_device_cache(garbage_collection=True)
            self.token_budget = max(1, min(self.token_budget, len(batch) * max(lengths[i] for i in batch)) // 2)
            _logger.warning(
                "Out of memory: going on with batches of %d tokens (token_budget sets them).", self.token_budget
            )
            left = [i for batch in todo for i in batch]
            todo = [[left[i] for i in batch] for batch in batches([lengths[i] for i in left], self.token_budget)]

    def _completion(self, prompt: Sequence[int], sample: Sampled) -> Completion:
        """A sample without a stop token ran into the length limit."""
        stopped = sample.ids[-1] in self.chat.stop_ids
        return read_completion(self.chat, prompt, sample.ids, stopped=stopped, logprobs=tuple(sample.logprobs))

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with ExitStack() as stack:
            for context in self._within:
                stack.enter_context(context())
            yield

    def _as_trained(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.model.device.type, self._autocast) if self._autocast else nullcontext()

    @property
    def _pad_id(self) -> int:
        tokenizer = self.chat.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def _within(
    model: PreTrainedModel | PeftModel, base: PreTrainedModel, *, adapter: bool
) -> list[Callable[[], AbstractContextManager[Any]]]:
    """Returns what inference takes place within.

    The model's device, on which streams and recordings are made; eval mode, which also keeps activation checkpointing
    out of generation; no gradients; the adapter as asked for; and a GPU's faster kernels.
    """
    contexts: list[Callable[[], AbstractContextManager[Any]]] = [EvalMode(base).in_use, torch.no_grad]
    if base.device.type == "cuda":
        contexts.insert(0, partial(torch.cuda.device, base.device))
    if isinstance(model, PeftModel) and not adapter:
        contexts.append(AdapterSwitch(model).off)
    return [*contexts, FastKernels(base).in_use]


def _busy_tokens(model: PreTrainedModel) -> int:
    """Returns the tokens of a forward that keep the device busy: a few rows on a CPU.

    On an accelerator launching a forward's kernels takes some 25 ms. In that time a large one computes on 5e12 to 3e13
    parameters times tokens, the more the larger the model.
    """
    if model.device.type == "cpu":
        return 256
    return int(min(16384, max(2048, 5e12 / model.num_parameters())))
