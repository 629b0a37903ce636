"""Reading the answers of OpenAI-compatible servers, which differ in how they name tokens.

The request and the answer are those of ``POST /v1/completions``. vLLM names tokens by id where it is asked to
(``token_ids``, ``token_id:123``), the llama.cpp server lists them with their ids under ``content``, and others give the
text of each token.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from selfjudge.engines.base import SamplingParams
from selfjudge.templates.encode import JudgmentPrompt

_TOKEN_ID = "token_id:"
Choice = dict[str, Any]
"""One element of an answer's ``choices``."""

# Without these, servers fill in their own defaults or those of the model's generation_config.json.
_WHOLE_DISTRIBUTION = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
_BY_ID = {"return_token_ids": True, "return_tokens_as_token_ids": True}


def sampling_request(params: SamplingParams, index: int, stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """Returns the body, less model and prompt, that draws the completions of prompt number ``index``."""
    return {
        # Greedy completions are all alike, and vLLM refuses to draw more than one.
        "n": params.n if params.temperature > 0 else 1,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_new_tokens,
        "seed": params.prompt_seed(index),
        # 0 would do for vLLM, but others take it for "none".
        "logprobs": 1,
        "extra_body": {**_WHOLE_DISTRIBUTION, **_BY_ID, "stop_token_ids": list(stop_ids)},
    }


def label_request(prompt: JudgmentPrompt, top_logprobs: int) -> dict[str, Any]:
    """Returns the body, less model and prompt, that asks for the next token's most probable candidates.

    vLLM from 2026 on gives the labels themselves however improbable they are (``logprob_token_ids``); servers that do
    not know the field give the ``top_logprobs`` most probable tokens.
    """
    labels = {"logprob_token_ids": list(prompt.label_ids)}
    return {
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": top_logprobs,
        "extra_body": {**_WHOLE_DISTRIBUTION, **_BY_ID, **labels},
    }


def sampled_tokens(choice: Choice) -> tuple[list[int], list[float] | None] | None:
    """Returns the ids of the sampled tokens and their log-probabilities, or None where the server gives no ids.

    The ids under llama.cpp's ``content`` are passed over: tokens that end within a character may be missing there.
    """
    logprobs = choice.get("logprobs") or {}
    names: list[str] = logprobs.get("tokens") or []
    ids = choice.get("token_ids")
    if ids is None and names and all(name.startswith(_TOKEN_ID) for name in names):
        ids = [_token(name) for name in names]
    if ids is None:
        return None
    values: list[float | None] = logprobs.get("token_logprobs") or []
    known = [float(v) for v in values if v is not None]
    return [int(i) for i in ids], known if known and len(known) == len(ids) else None


class StreamedChoices:
    """The choices of one streamed answer, put together from their pieces."""

    def __init__(self) -> None:
        """Begins without any."""
        self._pieces: defaultdict[int, list[Choice]] = defaultdict(list)

    def add(self, piece: Choice) -> Choice | None:
        """Takes the next piece of a choice; returns the whole choice, as unstreamed answers have it, after its last.

        What :func:`sampled_tokens` does not read of the log-probabilities is left out.
        """
        pieces = self._pieces[piece["index"]]
        pieces.append(piece)
        if not piece.get("finish_reason"):
            return None
        whole = {**piece, "text": "".join(part.get("text") or "" for part in pieces)}
        if any(part.get("token_ids") is not None for part in pieces):
            whole["token_ids"] = [token for part in pieces for token in part.get("token_ids") or ()]
        logprobs = [part.get("logprobs") or {} for part in pieces]
        names = ("tokens", "token_logprobs")
        whole["logprobs"] = {name: [value for part in logprobs for value in part.get(name) or ()] for name in names}
        return whole


def next_token_logprobs(choice: Choice) -> dict[int | str, float]:
    """Returns the log-probabilities that the server gives of the first token: by id, else by the token's text.

    Empty where the answer has none.
    """
    logprobs = choice.get("logprobs") or {}
    if content := logprobs.get("content"):
        return {t.get("id", t["token"]): float(t["logprob"]) for t in content[0].get("top_logprobs") or ()}
    positions = logprobs.get("top_logprobs") or [None]
    return {_token(name): float(value) for name, value in (positions[0] or {}).items()}


def _token(name: str) -> int | str:
    number = name.removeprefix(_TOKEN_ID)
    return int(number) if number != name and number.isdecimal() else name
