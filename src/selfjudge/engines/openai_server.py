"""The engine of a model that is already served: any server that speaks OpenAI's ``/v1/completions``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfjudge.engines.base import Drawn, Progress, SamplingParams, read_completion
from selfjudge.engines.load import load_tokenizer
from selfjudge.engines.openai_answers import (
    Choice,
    label_request,
    next_token_logprobs,
    sampled_tokens,
    sampling_request,
)
from selfjudge.engines.openai_connection import ServerConnection, wait_for
from selfjudge.errors import EngineError
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt
from selfjudge.templates.thinking import Thinking

DEFAULT_CONCURRENCY = 32
DEFAULT_TIMEOUT = 600.0
DEFAULT_RETRIES = 2
DEFAULT_TOP_LOGPROBS = 20
"""The most that a vLLM server gives unless it was started with ``--max-logprobs``."""
_ROUNDED = 1.001
"""A probability may be a little above one, as servers calculate it in half precision."""


class OpenAIEngine:
    """Samples from and judges with a model behind vLLM, SGLang, the llama.cpp server or another such server.

    Prompts are sent as token ids, so that the served model sees exactly what it was trained on; the tokenizer must be
    the served model's. Every method raises EngineError, in one sentence, if the server cannot be reached, refuses a
    request or leaves out what is needed; the requests still under way are then cancelled.
    """

    def __init__(
        self,
        base_url: str,
        chat: ChatEncoder,
        *,
        model: str | None = None,
        api_key: str | None = None,
        max_length: int | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_RETRIES,
        top_logprobs: int = DEFAULT_TOP_LOGPROBS,
        patience: float = 0.0,
    ) -> None:
        """Asks the server which models it has.

        Args:
            base_url: such as ``http://localhost:8000/v1``.
            chat: the encoder of the served model's tokenizer.
            model: the name it is served under; by default the first that the server lists.
            api_key: by default $OPENAI_API_KEY, else ``EMPTY``.
            max_length: context length in tokens; by default what the server says, else what the tokenizer says.
            concurrency: requests under way at once.
            timeout: seconds that one request may wait for the server.
            max_retries: how often a request is repeated, with growing pauses, after a lost connection, a timeout or a
                server's passing error (408, 409, 429, 5xx).
            top_logprobs: candidates asked for at a label; no more than the server allows.
            patience: seconds that a server which is gone or answers with 5xx is waited for after its first answer.

        Raises:
            EngineError: if the server cannot be reached or does not have the model.
        """
        self.base_url = base_url
        self.chat = chat
        self._top_logprobs = top_logprobs
        self._label_texts: dict[int, str] = {}
        self._server = ServerConnection(base_url, api_key, concurrency, timeout, max_retries, patience)
        listed = wait_for(self._server.models())
        self._server.model = model or next(iter(listed))
        if self.model not in listed:
            names = ", ".join(map(repr, listed))
            raise EngineError(f"The server at {base_url} does not serve {self.model!r}: name one of {names}.")
        # vLLM says the length of its base model only, not of the adapters on it.
        said = listed[self.model] or next(filter(None, listed.values()), None)
        self._max_length = int(max_length or said or min(chat.tokenizer.model_max_length, 2**31))

    @property
    def model(self) -> str:
        """The name that the model is served under."""
        return self._server.model

    def use_adapter(self, name: str, folder: Path) -> None:
        """Samples from now on from a PEFT adapter that a vLLM server loads from a folder which it sees.

        Where the server turns out not to know it, as after a new start, it is made to load it. No name may ever stand
        for two adapters: the server remembers prefixes by it.
        """
        self._server.model, self._server.adapter = name, folder

    def load_adapter(self) -> None:
        """Has the server load the adapter in use.

        Raises:
            EngineError: if the server cannot be reached, or does not load it.
        """
        wait_for(self._server.load())

    def drop_adapter(self, name: str) -> None:
        """Has the server forget an adapter. That it does not know it, or is gone, is no error."""
        wait_for(self._server.unload(name))

    @property
    def max_length(self) -> int:
        """The context length in tokens, as given or as the server or else the tokenizer says."""
        return self._max_length

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Progress | None = None,
        drawn: Drawn | None = None,
    ) -> list[list[Completion]]:
        """Returns ``params.n`` completions per prompt, drawn with a seed of its own for each prompt.

        Where the server gives the ids it sampled (vLLM), the completions hold just those, with their log-probabilities.
        Elsewhere the ids are the text tokenised again and ``logprobs`` is None: good for judging and tournaments, not
        for training, as these need not be the tokens that the model drew.

        With ``drawn`` the answers are streamed: a message for nearly every token.
        """
        return wait_for(self.sample_async(prompts, params, progress, drawn))

    async def sample_async(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Progress | None = None,
        drawn: Drawn | None = None,
    ) -> list[list[Completion]]:
        """As :meth:`sample`. Cancelled, it drops its connections, upon which servers such as vLLM stop drawing."""
        stop_ids = self.chat.stop_ids
        bodies = [{"prompt": list(p), **sampling_request(params, i, stop_ids)} for i, p in enumerate(prompts)]

        def read(i: int, choices: list[Choice]) -> list[Completion]:
            wanted: int = bodies[i]["n"]
            if len(choices) != wanted:
                raise EngineError(
                    f"The server at {self.base_url} gave {len(choices)} of {wanted} completions for prompt {i}: use "
                    "one that knows `n`, or sample one completion per prompt."
                )
            if progress:
                progress(1)
            return [self._completion(i, prompts[i], choice) for choice in choices] * (params.n // wanted)

        def ended(i: int, choice: Choice) -> None:
            for place in range(choice["index"], params.n, bodies[i]["n"]):
                drawn(i, place, self._completion(i, prompts[i], choice))

        return await self._server.ask(bodies, read, ended if drawn else None)

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Returns [n, 2] label probabilities, from the raw logits at temperature 1. Equal prompts are asked once.

        A label that is not among the candidates the server gives counts as 0; its true probability is below that of
        the last candidate. If neither label is there, that is an error.
        """
        return wait_for(self.label_probabilities_async(prompts, progress))

    async def label_probabilities_async(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """As :meth:`label_probabilities`. Cancelled, it drops its connections."""
        unique: dict[JudgmentPrompt, list[int]] = {}
        for i, prompt in enumerate(prompts):
            unique.setdefault(prompt, []).append(i)
        distinct = list(unique)
        bodies = [{"prompt": list(p.token_ids), **label_request(p, self._top_logprobs)} for p in distinct]
        result = np.zeros((len(prompts), 2))

        def read(i: int, choices: list[Choice]) -> None:
            rows = unique[distinct[i]]
            result[rows] = self._label_pair(rows[0], distinct[i].label_ids, choices)
            if progress:
                progress(len(rows))

        await self._server.ask(bodies, read)
        return result

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Within it, the asynchronous methods share one client and its connections: for use on one event loop."""
        return self._server.connected()

    async def check(self) -> None:
        """Raises EngineError if the server does not answer, or lists no models."""
        await self._server.models()

    def reusing_prefixes(self) -> AbstractContextManager[None]:
        """The server remembers prefixes by itself, or not at all."""
        return nullcontext()

    def _completion(self, index: int, prompt: Sequence[int], choice: Choice) -> Completion:
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise EngineError(
                f"The server at {self.base_url} broke off a completion of prompt {index} ({reason!r}): look at its log."
            )
        stopped = reason == "stop"
        if sampled := sampled_tokens(choice):
            ids, logprobs = sampled
            return read_completion(self.chat, prompt, ids, stopped=stopped, logprobs=logprobs and tuple(logprobs))
        text = choice["text"]
        ids = [*self.chat.text_ids(text), *(self.chat.end_ids if stopped else ())]
        return read_completion(self.chat, prompt, ids, stopped=stopped, logprobs=None, text=text)

    def _label_pair(self, index: int, label_ids: tuple[int, int], choices: list[Choice]) -> tuple[float, float]:
        logprobs = next_token_logprobs(choices[0]) if choices else {}
        if not logprobs:
            raise EngineError(
                f"The server at {self.base_url} gave no log-probabilities for judgment prompt {index}: use one that "
                "gives them with /v1/completions, such as vLLM."
            )
        by_id = any(isinstance(token, int) for token in logprobs)
        labels = label_ids if by_id else tuple(map(self._label_text, label_ids))
        if not any(label in logprobs for label in labels):
            raise EngineError(
                f"Neither label is among the {len(logprobs)} candidates that {self.model!r} at {self.base_url} gave "
                f"for judgment prompt {index}: use a judge trained by JSFT, check that the tokenizer is the served "
                "model's, or ask for more candidates (top_logprobs in Python, --max-logprobs of vLLM)."
            )
        a, b = (math.exp(logprobs.get(label, -math.inf)) for label in labels)
        if not (a <= _ROUNDED and b <= _ROUNDED):  # nor is it true of NaN
            raise EngineError(
                f"The server at {self.base_url} gave log-probabilities for judgment prompt {index} that are none "
                f"({math.log(a) if a else a:g}, {math.log(b) if b else b:g}): look at its log."
            )
        return min(a, 1.0), min(b, 1.0)

    def _label_text(self, label_id: int) -> str:
        """Returns the text that a server without ids shows for a label; raises EngineError if other tokens share it."""
        if label_id not in self._label_texts:
            tokenizer = self.chat.tokenizer
            texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
            if texts.count(texts[label_id]) > 1:
                raise EngineError(
                    f"The server at {self.base_url} names tokens by their text, and {texts[label_id]!r} is the text of "
                    "more than one: use a server that gives token ids, such as vLLM."
                )
            self._label_texts[label_id] = texts[label_id]
        return self._label_texts[label_id]


def open_served(
    base_url: str,
    model: str,
    *,
    served_model: str | None = None,
    chat_template: str | None = None,
    thinking: Thinking = "off",
    today: date | None = None,
) -> OpenAIEngine:
    """Opens the engine of a served model whose tokenizer is that of ``model``.

    Args:
        base_url: such as ``http://localhost:8000/v1``.
        model: as :func:`selfjudge.engines.load.load_tokenizer` takes it.
        served_model: the name it is served under; by default the first that the server lists.
        chat_template: replaces the tokenizer's: ``plain`` or a Jinja file.
        thinking: whether the policy thinks before it answers.
        today: the date that the chat template writes; by default that of today.

    Raises:
        EngineError: if the server cannot be reached or does not have the model.
        ModelError: if there is no such tokenizer, or its chat template cannot think and is to.
    """
    chat = load_tokenizer(model, chat_template, thinking=thinking, today=today)
    return OpenAIEngine(base_url, chat, model=served_model)
