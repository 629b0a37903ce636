"""The vLLM engine: one running vLLM holds the base weights, and a LoRA adapter on them is the policy."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selfjudge.engines.adapter_load import refuse_merged, refuse_other_files
from selfjudge.engines.base import Drawn, Progress, SamplingParams, read_completion
from selfjudge.engines.load import DtypeName, adapter_folder, default_device, resolve_model, torch_dtype
from selfjudge.errors import MissingExtraError, ModelError
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes that vLLM makes room for; an adapter of any smaller rank fits in."""


class VllmCore:
    """A running vLLM, shared by the engines on it. It works in processes of its own until :meth:`close`.

    At most one adapter is loaded at a time. Weights can be handed over between the calls of its engines only.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        lora_rank: int | None = None,
        dtype: DtypeName = "auto",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
    ) -> None:
        """Starts vLLM, which takes from seconds to a minute.

        Args:
            model: model folder, run folder of ours, .gguf file (converted) or Hub id.
            lora_rank: the largest rank an adapter may have; None leaves no room for adapters.
            dtype: of weights and adapters; ``auto`` is bfloat16 on a GPU and float32 on a CPU.
            max_model_len: tokens of prompt and completion at most; by default the model's context.
            gpu_memory_utilization: share (0..1) of the device's memory that vLLM may take, a CPU's included. There
                the environment variable VLLM_CPU_KVCACHE_SPACE (GiB) replaces it.
            enforce_eager: True skips compilation: starts sooner, samples slower.

        Raises:
            MissingExtraError: if vLLM is not installed.
            ModelError: if the model is not there, or vLLM does not start with it.
        """
        if find_spec("vllm") is None:
            raise MissingExtraError("The vLLM engine", "vllm")
        if str(model) == BUILTIN_WORLD:
            raise ModelError(f"vLLM loads models from folders and {BUILTIN_WORLD} is in none: train it first.")
        self._base = resolve_model(model)
        self._llm = _start(
            self._base,
            dtype=torch_dtype(dtype, torch.device(default_device())),
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
            enforce_eager=enforce_eager,
            **({} if lora_rank is None else {"enable_lora": True, "max_loras": 1, "max_lora_rank": _room(lora_rank)}),
        )
        self._adapter: Any = None
        self._hand_overs = 0

    @property
    def max_length(self) -> int:
        """The most tokens, prompt and completion together."""
        return int(self._llm.model_config.max_model_len)

    @property
    def version(self) -> str:
        """vLLM's version."""
        from vllm import __version__

        return str(__version__)

    def load_adapter(self, path: str | Path) -> None:
        """Makes a PEFT adapter the policy in place of the one before. Its folder is not needed afterwards.

        Args:
            path: the adapter's folder, or a run folder.

        Raises:
            ModelError: if there is no adapter, it was trained on another model, or vLLM cannot use it (its rank, a
                module that vLLM has no LoRA for).
        """
        folder = adapter_folder(Path(path))
        refuse_merged(self._base, folder)
        if Path(self._base).is_dir():
            refuse_other_files(Path(self._base), folder)
        from vllm.lora.request import LoRARequest

        self._hand_overs += 1
        # The worker knows an adapter by its id, the prefix cache by its name and path: one that shares any of them
        # with an earlier adapter would run on that one's weights or keys and values.
        request = LoRARequest(f"policy-{self._hand_overs}", self._hand_overs, str(folder.resolve()))
        self._drop_adapter()
        try:
            self._llm.llm_engine.add_lora(request)
        except Exception as e:  # what the worker raised arrives as a bare Exception
            raise ModelError(f"vLLM cannot use the adapter {folder}: {' '.join(str(e).split())[:300]}") from e
        self._adapter = request
        self._forget_prefixes()

    def load_weights(self, folder: str | Path) -> None:
        """Replaces all weights by those of another model of the same shape; a loaded adapter is dropped.

        Args:
            folder: the model's folder (config.json and safetensors).

        Raises:
            ModelError: if there is no model.
        """
        path = resolve_model(folder)
        self._drop_adapter()
        self._llm.collective_rpc("hand_over_weights", args=(path,))
        self._forget_prefixes()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[Any],
        *,
        adapter: bool,
        ended: Callable[[int, Any], None],
    ) -> list[Any]:
        """Returns vLLM's RequestOutput for each prompt (token ids) under its ``vllm.SamplingParams``.

        Args:
            prompts: token ids.
            params: one for each prompt.
            adapter: True to run with the loaded adapter, if there is one; False for the weights without.
            ended: called with the place of a finished prompt and its RequestOutput.
        """
        if not prompts:
            return []
        engine = self._llm.llm_engine
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        lora = self._adapter if adapter else None
        ids = self._llm.enqueue(requests, list(params), lora_request=lora, use_tqdm=False)
        first = int(ids[0].partition("-")[0])  # they count up; vLLM adds a random part to its own name of a request
        finished: dict[int, Any] = {}
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        place = int(output.request_id) - first
                        finished[place] = output
                        ended(place, output)
        except BaseException:  # Ctrl-C as well: the next call must not meet what this one left
            engine.abort_request(ids, internal=True)
            raise
        return [finished[place] for place in sorted(finished)]

    def close(self) -> None:
        """Ends vLLM and its processes; nothing of it can be used afterwards."""
        self._llm.llm_engine.engine_core.shutdown()

    def _forget_prefixes(self) -> None:
        """Empties the prefix cache: its keys and values are those of other weights now."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("weights were handed over while vLLM was still at work on a request")

    def _drop_adapter(self) -> None:
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None


class VllmEngine:
    """Samples and judges with a running vLLM.

    With ``adapter=False`` it is the weights without the adapter: the frozen judge beside the policy.
    """

    def __init__(self, core: VllmCore, chat: ChatEncoder, *, adapter: bool = True) -> None:
        """Takes a running vLLM and the encoder of its model's tokenizer."""
        self.core = core
        self.chat = chat
        self._adapter = adapter

    @property
    def max_length(self) -> int:
        """The most tokens, prompt and completion together."""
        return self.core.max_length

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Progress | None = None,
        drawn: Drawn | None = None,
    ) -> list[list[Completion]]:
        """Returns ``params.n`` completions per prompt, with the log-probabilities of their tokens.

        The same seed and calls give the same completions as far as floating point does: what is left in the prefix
        cache decides how vLLM cuts its batches. With ``drawn`` each completion is a request of its own, as vLLM hands
        those of one request over together.
        """
        # Greedy completions are all alike, and vLLM refuses to draw more than one.
        n = params.n if params.temperature > 0 else 1
        parts = n if drawn else 1
        seeds = [params.prompt_seed(i) + part for i in range(len(prompts)) for part in range(parts)]
        requests = [self._request(params, n // parts, seed) for seed in seeds]
        missing = [parts] * len(prompts)

        def ended(place: int, output: Any) -> None:
            i, part = divmod(place, parts)
            missing[i] -= 1
            if progress and not missing[i]:
                progress(1)
            for copy in range(part, params.n, n) if drawn else ():
                drawn(i, copy, self._completion(prompts[i], output.outputs[0]))

        asked = [prompt for prompt in prompts for _ in range(parts)]
        outputs = self.core.generate(asked, requests, adapter=self._adapter, ended=ended)
        found = [
            self._completion(prompt, one)
            for prompt, output in zip(asked, outputs, strict=True)
            for one in output.outputs
        ]
        return [found[i * n : (i + 1) * n] * (params.n // n) for i in range(len(prompts))]

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Returns [n, 2] label probabilities, softmax over the whole vocabulary in float32.

        Equal prompts are computed once, so that they get equal probabilities to the last bit.
        """
        from vllm import SamplingParams as VllmParams

        distinct = list(dict.fromkeys(prompts))
        requests = [
            VllmParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(p.label_ids), **_plain_ids())
            for p in distinct
        ]
        ids = [p.token_ids for p in distinct]
        outputs = self.core.generate(ids, requests, adapter=self._adapter, ended=lambda *_: progress and progress(1))
        if progress and len(prompts) > len(distinct):
            progress(len(prompts) - len(distinct))
        found: dict[JudgmentPrompt, list[float]] = {}
        for prompt, output in zip(distinct, outputs, strict=True):
            logprobs = output.outputs[0].logprobs[0]
            found[prompt] = [logprobs[label].logprob for label in prompt.label_ids]
        return np.exp(np.array([found[p] for p in prompts], dtype=np.float64).reshape(-1, 2))

    def reusing_prefixes(self) -> AbstractContextManager[None]:
        """vLLM's prefix cache is always on, and emptied with every hand-over."""
        return nullcontext()

    def _request(self, params: SamplingParams, n: int, seed: int) -> Any:
        """Returns vLLM's parameters that draw ``n`` completions."""
        from vllm import SamplingParams as VllmParams

        return VllmParams(
            n=n,
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=params.max_new_tokens,
            seed=seed,
            stop_token_ids=list(self.chat.stop_ids),
            logprobs=0,  # of the sampled token alone
            **_plain_ids(),
        )

    def _completion(self, prompt: Sequence[int], output: Any) -> Completion:
        ids = tuple(output.token_ids)
        logprobs = tuple(step[token].logprob for step, token in zip(output.logprobs, ids, strict=True))
        return read_completion(self.chat, prompt, ids, stopped=output.finish_reason == "stop", logprobs=logprobs)


def _start(folder: str, **options: Any) -> Any:
    """Returns a running ``vllm.LLM``."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM

    try:
        return LLM(
            folder,
            enable_prefix_caching=True,
            load_format="safetensors",
            trust_remote_code=False,
            generation_config="vllm",  # not the model's own, whose warpers nobody asked for
            logprobs_mode="raw_logprobs",
            worker_extension_cls="selfjudge.engines.vllm_worker.WeightHandOver",
            **options,
        )
    except (ValueError, RuntimeError, OSError) as e:
        raise ModelError(f"vLLM does not start with {folder!r}: {' '.join(str(e).split())[:300]}") from e


def _room(rank: int) -> int:
    """Returns the smallest size vLLM knows that an adapter of this rank fits in."""
    fitting = [size for size in _LORA_RANKS if size >= rank]
    if not fitting:
        raise ModelError(f"vLLM takes LoRA adapters up to rank {_LORA_RANKS[-1]}, not {rank}.")
    return fitting[0]


def _plain_ids() -> dict[str, Any]:
    """Settings of every request: ids out, not text, and no stop but those that are asked for."""
    return {"detokenize": False, "ignore_eos": True}
