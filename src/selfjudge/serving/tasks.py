"""From the body of a request to the tasks it sets, with all limits checked before any work is done."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from selfjudge.engines.base import SamplingParams
from selfjudge.errors import RowError
from selfjudge.judge import as_messages
from selfjudge.records import Comparison, Message, check_prompt
from selfjudge.serving.backend import Backend
from selfjudge.serving.contest import Task
from selfjudge.serving.errors import ApiError
from selfjudge.serving.requests import ChatMessage, ChatRequest, CompletionFields, CompletionRequest, JudgeRequest
from selfjudge.serving.settings import ServeSettings

_COMPLETION_TOKENS = 16
"""What OpenAI's API draws for ``/v1/completions`` at most, where the request does not say."""


@dataclass(frozen=True)
class TaskMaker:
    """Makes tasks for a backend, within the limits of the settings. Long texts take a while: call it in a thread."""

    backend: Backend
    settings: ServeSettings

    def chat(self, body: ChatRequest) -> Task:
        """Returns the task of a dialogue.

        Raises:
            ApiError: 400, if it does not end with the user, is too long, or asks for more than the server gives.
        """
        prompt = messages(body.messages, "messages")
        ids = self._chat_ids(prompt)
        wanted = body.max_completion_tokens or body.max_tokens
        return self._task(body, prompt, ids, wanted, 1)

    def completions(self, body: CompletionRequest) -> list[Task]:
        """Returns one task for each prompt; the judge sees a prompt as what a user says.

        Raises:
            ApiError: as :meth:`chat`.
        """
        tasks = []
        prompts = body.prompts()
        for given in prompts:
            ids = self._text_ids(given) if isinstance(given, str) else given
            text = given if isinstance(given, str) else self._text(given)
            prompt = _checked(as_messages(text), "prompt")
            tasks.append(self._task(body, prompt, ids, body.max_tokens or _COMPLETION_TOKENS, len(prompts)))
        return tasks

    def _task(
        self, body: CompletionFields, prompt: tuple[Message, ...], ids: Sequence[int], wanted: int | None, prompts: int
    ) -> Task:
        n, candidates = self._counts(body, prompts)
        temperature = 1.0 if body.temperature is None else body.temperature
        judged = candidates > 1 and temperature > 0
        params = SamplingParams(
            # Greedy candidates are all alike.
            n=candidates if judged else n,
            temperature=temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            max_new_tokens=self._tokens(wanted, self._room(prompt, len(ids), judged)),
            seed=random.getrandbits(31) if body.seed is None else body.seed % 2**31,
        )
        return Task(prompt, tuple(ids), params, body.seed is not None, body.stops(), judged, bool(body.stream))

    def _counts(self, body: CompletionFields, prompts: int) -> tuple[int, int]:
        """Returns how many answers and how many candidates each prompt gets."""
        n = body.n or 1
        candidates = body.n_candidates or max(n, self.settings.n)
        if n > candidates:
            raise ApiError(400, f"n is {n}, but n_candidates only {candidates}.", "invalid_value", "n")
        if candidates * prompts > self.settings.max_candidates:
            each = f" for each of {prompts} prompts" if prompts > 1 else ""
            raise ApiError(
                400,
                f"{candidates} candidates{each} are too many: this server draws at most "
                f"{self.settings.max_candidates} for a request.",
                "too_many_candidates",
                "n" if body.n_candidates is None and n > 1 else "n_candidates",
            )
        return n, candidates

    def _room(self, prompt: tuple[Message, ...], length: int, judged: bool) -> int:
        """Returns how many tokens a candidate may have: it must fit the policy, and two of them the judge."""
        room = self.backend.max_length - length
        return min(room, self.backend.judge.room(prompt)) if judged else room

    def _tokens(self, wanted: int | None, room: int) -> int:
        if room < 1 or (wanted or 1) > room:
            raise ApiError(
                400,
                f"The prompt leaves room for {max(room, 0)} tokens of an answer (two candidates must fit the judge): "
                "shorten it, or lower max_tokens.",
                "context_length_exceeded",
            )
        return wanted or min(self.settings.max_new_tokens, room)

    def _chat_ids(self, prompt: tuple[Message, ...]) -> list[int]:
        try:
            return self.backend.chat.prompt_ids(prompt)
        except RowError as e:
            raise ApiError(
                400, f"The model's chat template refuses the messages: {e.__cause__}.", "invalid_value", "messages"
            ) from e

    def _text_ids(self, text: str) -> list[int]:
        tokenizer = self.backend.chat.tokenizer
        ids = self.backend.chat.text_ids(text)
        # What the tokenizer puts before every text, such as <s>; nothing within the text is read as special.
        added = tokenizer.encode("", split_special_tokens=True, verbose=False)
        return [*added[:1], *ids] if added[:1] == [tokenizer.bos_token_id] else ids

    def _text(self, ids: list[int]) -> str:
        if not all(0 <= i < len(self.backend.chat.tokenizer) for i in ids):
            raise ApiError(400, "prompt: there is no such token.", "invalid_value", "prompt")
        return self.backend.chat.decode(ids)


def comparisons(body: JudgeRequest) -> list[Comparison]:
    """Returns the pairs of a request.

    Raises:
        ApiError: 400, for a prompt that does not end with the user.
    """
    return [
        Comparison(
            id=str(i) if pair.id is None else pair.id,
            prompt=_checked(as_messages(pair.prompt), f"pairs.{i}.prompt")
            if isinstance(pair.prompt, str)
            else messages(pair.prompt, f"pairs.{i}.prompt"),
            response_a=pair.response_a,
            response_b=pair.response_b,
        )
        for i, pair in enumerate(body.pairs)
    ]


def messages(sent: Sequence[ChatMessage], param: str) -> tuple[Message, ...]:
    """Returns a dialogue as the package has it.

    Raises:
        ApiError: 400, unless it ends with the user.
    """
    return _checked(
        tuple(Message(role="system" if m.role == "developer" else m.role, content=m.text()) for m in sent), param
    )


def _checked(prompt: tuple[Message, ...], param: str) -> tuple[Message, ...]:
    try:
        check_prompt(prompt)
    except ValueError as e:
        raise ApiError(400, f"{param}: {e}.", "invalid_value", param) from e
    return prompt
