"""The transformers engine: sampling and judging in process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from selfjudge.engines.base import Progress, SamplingParams
from selfjudge.engines.batching import token_budget_batches
from selfjudge.engines.load import context_length
from selfjudge.engines.responses import collate_responses, response_logprobs
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt

DEFAULT_TOKEN_BUDGET = 8192


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
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        batch_size: int | None = None,
    ) -> None:
        """Takes the model as it is.

        Args:
            model: a causal LM, or a PEFT model around one.
            chat: the encoder of its tokenizer.
            adapter: False to switch a PEFT adapter off during every call.
            token_budget: padded tokens of a batch (prompt and completion).
            batch_size: rows of a batch at most; by default the token budget alone decides.
        """
        # PEFT injects its layers into the base model, so the inner model already runs with the adapter.
        self.model: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
        self.chat = chat
        self._switched = nullcontext if adapter or self.model is model else model.disable_adapter
        self._token_budget = token_budget
        self._batch_size = batch_size

    @property
    def max_length(self) -> int:
        """The model's context length in tokens."""
        return context_length(self.model)

    def sample(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, progress: Progress | None = None
    ) -> list[list[Completion]]:
        """Returns ``params.n`` completions per prompt. The random state outside is left as it was."""
        if not prompts:
            return []
        lengths = [(len(p) + params.max_new_tokens) * params.n for p in prompts]
        rows = max(1, self._batch_size // params.n) if self._batch_size else None
        results: list[list[Completion]] = [[] for _ in prompts]
        with self._inference(), torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(params.seed)
            for batch in token_budget_batches(lengths, self._token_budget, rows):
                for i, completions in zip(batch, self._sample([prompts[i] for i in batch], params), strict=True):
                    results[i] = completions
                if progress:
                    progress(len(batch))
        return results

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Returns [n, 2] label probabilities, softmax over the whole vocabulary in float32.

        Equal prompts are computed once, so that they get equal probabilities to the last bit.
        """
        unique: dict[JudgmentPrompt, list[int]] = {}
        for i, prompt in enumerate(prompts):
            unique.setdefault(prompt, []).append(i)
        distinct = list(unique)
        result = np.zeros((len(prompts), 2))
        with self._inference():
            batches = token_budget_batches([len(p.token_ids) for p in distinct], self._token_budget, self._batch_size)
            for batch in batches:
                probabilities = self._label_probabilities([distinct[i] for i in batch])
                for i, p in zip(batch, probabilities, strict=True):
                    result[unique[distinct[i]]] = p
                if progress:
                    progress(sum(len(unique[distinct[i]]) for i in batch))
        return result

    def response_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Returns log p(response | prompt), summed over the response's tokens, for each (prompt, response)."""
        result = [0.0] * len(rows)
        with self._inference():
            for batch in token_budget_batches([len(x) + len(y) for x, y in rows], self._token_budget, self._batch_size):
                inputs = collate_responses([rows[i] for i in batch], self._pad_id)
                inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
                for i, value in zip(batch, response_logprobs(self.model, inputs).tolist(), strict=True):
                    result[i] = value
        return result

    def _sample(self, prompts: list[Sequence[int]], params: SamplingParams) -> list[list[Completion]]:
        ids, mask = left_pad(prompts, self._pad_id)
        output = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            generation_config=self._generation_config(params),
        )
        rows = output[:, ids.shape[1] :].tolist()
        completions = [self._completion(row) for row in rows]
        return [completions[i : i + params.n] for i in range(0, len(completions), params.n)]

    def _completion(self, row: list[int]) -> Completion:
        """Cuts a generated row after its first stop token; a row without one ran into the length limit."""
        end = next((i for i, token in enumerate(row) if token in self.chat.stop_ids), None)
        ids = row if end is None else row[: end + 1]
        return Completion(ids=tuple(ids), text=self.chat.decode(ids), finish_reason="length" if end is None else "stop")

    def _label_probabilities(self, prompts: list[JudgmentPrompt]) -> NDArray[np.float64]:
        ids, mask = left_pad([p.token_ids for p in prompts], self._pad_id)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        device = self.model.device
        logits = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        labels = torch.tensor([p.label_ids for p in prompts], device=logits.device)
        logprobs = logits.float().log_softmax(-1).gather(1, labels)
        return logprobs.double().exp().cpu().numpy()

    def _generation_config(self, params: SamplingParams) -> GenerationConfig:
        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": params.temperature, "top_p": params.top_p, "top_k": 0}
            if params.temperature > 0
            else {"do_sample": False}
        )
        return GenerationConfig(
            **sampling,
            num_return_sequences=params.n,
            max_new_tokens=params.max_new_tokens,
            eos_token_id=list(self.chat.stop_ids),
            pad_token_id=self._pad_id,
            use_cache=True,
        )

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Eval mode (which also keeps activation checkpointing out of generation), no gradients, no warpers of the
        model's own generation config (`generate` would fill them in), and the adapter as asked for.
        """
        model = self.model
        training, own_config = model.training, model.generation_config
        model.eval()
        model.generation_config = GenerationConfig(eos_token_id=list(self.chat.stop_ids), pad_token_id=self._pad_id)
        try:
            with torch.no_grad(), self._switched():
                yield
        finally:
            model.generation_config = own_config
            model.train(training)

    def _cuda_devices(self) -> list[torch.device]:
        return [self.model.device] if self.model.device.type == "cuda" else []

    @property
    def _pad_id(self) -> int:
        tokenizer = self.chat.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Returns ids and attention mask, both [rows, longest], padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
