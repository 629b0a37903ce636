"""Several answers to each prompt, each with a score of its quality."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfjudge.data.formats import Reject, Row
from selfjudge.data.formats.base import own_id
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.messages import check_turns, clean_text
from selfjudge.data.formats.numbers import to_number
from selfjudge.data.formats.prompt_columns import in_context
from selfjudge.data.raw import Source, origin_of, position_word, read_rows, source_name
from selfjudge.errors import DataError
from selfjudge.records import Comparison, Message

SCORE_COLUMNS = ("score", "gpt4turbo_winrate_vs_gpt35turbo")


@dataclass(frozen=True)
class Candidates:
    """The answers to one prompt: text, score, and where it is known the log-probability under the model (nats)."""

    id: str
    prompt: tuple[Message, ...]
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    logprobs: tuple[float, ...] | None = None

    def shuffled(self, seed: int) -> Candidates:
        """Returns the same answers in an order drawn by the seed and the prompt's id."""
        return self._at(random.Random(f"{seed}:{self.id}").sample(range(len(self.texts)), len(self.texts)))

    def first(self, n: int) -> Candidates:
        """Returns the first n answers."""
        return self._at(range(n))

    def pair(self, a: int, b: int) -> Comparison:
        """Returns two of the answers as a pair to be judged."""
        return Comparison(
            id=f"{self.id}:{a}-{b}", prompt=self.prompt, response_a=self.texts[a], response_b=self.texts[b]
        )

    def _at(self, places: Sequence[int]) -> Candidates:
        def at(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[i] for i in places)

        logprobs = None if self.logprobs is None else at(self.logprobs)
        return Candidates(self.id, self.prompt, at(self.texts), at(self.scores), logprobs)


def load_candidates(path: Source, limit: int | None = None) -> tuple[Candidates, ...]:
    """The scored answers of a file or of rows from Python, in one of three formats.

    ``candidates`` (texts) with ``scores``; ``samples`` of ``response`` with ``score`` or
    ``gpt4turbo_winrate_vs_gpt35turbo``, those without a score left out; or ``best`` and ``losers`` (RMB), which score
    1 and 0.

    Raises:
        DataError: the file cannot be read or is empty, or a row is malformed (it is named).
    """
    found = []
    origin = origin_of(path)
    name = source_name(origin)
    for index, (line, data) in enumerate(read_rows(path, limit=limit)):
        try:
            texts, scores = _scored(data)
            row = Row(data, line, index, name)
            prompt = in_context(row, read_turns(row, row.column("prompt"), "prompt", "user"))
            check_turns(prompt)
            found.append(Candidates(own_id(data) or str(index), prompt, texts, scores))
        except Reject as error:
            raise DataError(f"{origin}, {position_word(origin)} {line}: {error}; correct or remove this row.") from None
    if not found:
        raise DataError(f"{origin}: there is no row in it; check the file.")
    return tuple(found)


def _scored(data: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    if "candidates" in data:
        pairs: list[tuple[Any, Any]] = list(zip(_list(data, "candidates"), _list(data, "scores"), strict=False))
        if len(data["candidates"]) != len(data["scores"]):
            raise Reject("candidates and scores differ in number")
    elif "samples" in data:
        samples = [sample for sample in _list(data, "samples") if isinstance(sample, dict)]
        pairs = [(sample.get("response"), _score(sample)) for sample in samples]
        pairs = [(text, score) for text, score in pairs if score is not None]
    elif "best" in data:
        answers = [data["best"], *_list(data, "losers")]
        if not all(isinstance(answer, dict) for answer in answers):
            raise Reject("best and losers are not objects")
        pairs = [(answer.get("response"), float(i == 0)) for i, answer in enumerate(answers)]
    else:
        raise Reject("none of the columns candidates, samples, best")
    scores = [number for _, score in pairs if (number := to_number(score)) is not None]
    if not pairs or len(scores) < len(pairs):
        raise Reject("a score is not a number, or there is none")
    return tuple(clean_text(text, "a candidate") for text, _ in pairs), tuple(scores)


def _score(sample: dict[str, Any]) -> Any:
    return next((sample[name] for name in SCORE_COLUMNS if sample.get(name) is not None), None)


def _list(data: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(data.get(name), list):
        raise Reject(f"{name} is not a list")
    return list(data[name])
