"""A tournament that is called as transformers' text-generation pipeline is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.errors import DataError
from selfjudge.judge import Judge, as_messages
from selfjudge.records import Message, check_prompt
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.tournament import Answer, self_reject

Chat = Sequence[dict[str, str]]
"""Turns of a dialogue, as ``{"role": ..., "content": ...}``."""


class TournamentSampler:
    """Answers prompts by tournaments among a model's own candidates.

    Called and answering as ``transformers.pipeline("text-generation")``. One thing differs: a text is what a user says
    and goes through the chat template, as everywhere in this package; the pipeline continues it as it is.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        n: int = 8,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 0.9,
        seed: int = 0,
        templates: str | Path | None = None,
        **load: Any,
    ) -> None:
        """Loads the model. With ``adapter`` the adapted model is sampled and the model without it judges.

        Args:
            model: Hub id, model folder, run folder or .gguf file.
            n: candidates of an answer.
            max_new_tokens: tokens of a candidate at most.
            temperature: as in SamplingParams; 0 is greedy, one candidate and no tournament.
            top_p: as in SamplingParams.
            seed: of samples and brackets; the same calls give the same answers.
            templates: the judge's, a name or folder; by default those the model was trained with, else ``general``.
            load: what else :func:`selfjudge.engines.load.load_model` takes, such as ``adapter``, ``dtype``, ``device``,
                ``thinking``.

        Raises:
            ModelError: if the model cannot be loaded.
            TemplateError: if the templates cannot be used with it.
        """
        loaded = load_model(model, **load)
        self._chat = loaded.chat
        self._policy = TransformersEngine(loaded.model, loaded.chat)
        base = TransformersEngine(loaded.model, loaded.chat, adapter=False)
        self._judge = Judge(base, JudgmentEncoder(load_templates(templates or loaded.templates), loaded.chat))
        self._params = SamplingParams(n, temperature, top_p, max_new_tokens, seed)

    def __call__(
        self,
        text_inputs: str | Chat | Sequence[str] | Sequence[Chat],
        *,
        return_full_text: bool = True,
        num_return_sequences: int = 1,
        do_sample: bool = True,
        return_bracket: bool = False,
        **sampling: Any,
    ) -> list[Any]:
        """Returns the winners: ``[{"generated_text": ...}]``, for a list of inputs a list of such lists.

        Where the model thought first (``thinking="on"``), the text is what follows, and ``reasoning_content`` beside it
        the thought.

        Args:
            text_inputs: a text or a dialogue that ends with the user, or a list of either.
            return_full_text: put the prompt before the answer: the text, or the messages, to which the answer is a
                new turn. Without it the answer's text alone.
            num_return_sequences: the best so many candidates, in the order of their placing.
            do_sample: False is greedy, as temperature 0.
            return_bracket: add ``candidates``, the texts as drawn, and ``bracket``, a :class:`Bracket`.
            sampling: for this call, in place of what the sampler was made with: n, max_new_tokens, temperature, top_p,
                seed.

        Raises:
            DataError: for what is no prompt, or leaves no room for two candidates in the judge's context.
            ValueError: if there are fewer candidates than ``num_return_sequences``.
        """
        params = replace(self._params, **sampling)
        if not do_sample or params.temperature == 0:
            params = replace(params, temperature=0, n=1)  # greedy candidates are all alike
        if not 1 <= num_return_sequences <= params.n:
            raise ValueError(f"num_return_sequences is {num_return_sequences}, but {params.n} candidates are drawn")
        single = isinstance(text_inputs, str) or not isinstance(text_inputs, Sequence) or _is_chat(text_inputs)
        inputs: list[Any] = [text_inputs] if single else list(text_inputs)
        prompts = [_prompt(i, given) for i, given in enumerate(inputs)]
        for i, prompt in enumerate(prompts):
            self._check_room(i, prompt, params)
        answers = self_reject(self._policy, self._chat, self._judge, prompts, params)
        rows = [
            [_row(given, answer, place, return_full_text, return_bracket) for place in answer.placing]
            for given, answer in zip(inputs, answers, strict=True)
        ]
        best = [row[:num_return_sequences] for row in rows]
        return best[0] if single else best

    def _check_room(self, index: int, prompt: tuple[Message, ...], params: SamplingParams) -> None:
        """Raises DataError before anything is sampled, as the whole call would be lost."""
        room = self._policy.max_length - len(self._chat.prompt_ids(prompt))
        if params.n > 1:
            room = min(room, self._judge.room(prompt))
        if params.max_new_tokens > room:
            raise DataError(
                f"Input {index} leaves room for {max(room, 0)} tokens of an answer (two must fit the judge), "
                f"not for {params.max_new_tokens}: shorten it, or lower max_new_tokens."
            )


def _is_chat(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str) and bool(given) and isinstance(given[0], dict)


def _prompt(index: int, given: Any) -> tuple[Message, ...]:
    if not isinstance(given, str) and not _is_chat(given):
        raise DataError(f"Input {index} is neither a text nor messages: give one of them, or a list of either.")
    try:
        prompt = as_messages(given if isinstance(given, str) else [Message.model_validate(turn) for turn in given])
        check_prompt(prompt)
    except ValidationError as e:
        where = ".".join(map(str, e.errors()[0]["loc"]))
        raise DataError(
            f"Input {index} has a message whose {where} is not as it should be: {e.errors()[0]['msg']}."
        ) from e
    except ValueError as e:
        raise DataError(f"Input {index}: {e}.") from e
    return prompt


def _row(given: Any, answer: Answer, place: int, full: bool, bracket: bool) -> dict[str, Any]:
    text: Any = answer.candidates[place]
    if full:
        text = given + text if isinstance(given, str) else [*given, {"role": "assistant", "content": text}]
    row = {"generated_text": text}
    if answer.thoughts[place] is not None:
        row["reasoning_content"] = answer.thoughts[place]
    return row | ({"candidates": answer.candidates, "bracket": answer.bracket} if bracket else {})
