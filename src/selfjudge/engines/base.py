"""What every engine can do. Judge and tournament know this protocol and nothing of what is behind it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt

Progress = Callable[[int], None]
"""Called with the number of prompts just finished."""
Drawn = Callable[[int, int, Completion], None]
"""Called with a completion that has just ended, after the place of its prompt and its own place among the prompt's.

Where a call has to be repeated (memory ran out) it comes again: the last stands, and is what the engine returns.
"""


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn. ``temperature`` 0 is greedy; ``top_p`` 1 keeps the whole distribution.

    ``max_new_tokens`` counts the end-of-turn token. The same ``seed`` and calls give the same completions.
    ``places``: of the call's prompts among all that are drawn with the seed, where other processes draw the rest; by
    default 0, 1, 2 and so on. A prompt's samples depend on the seed and its place alone.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    places: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for values outside their range."""
        if self.n < 1 or self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"impossible sampling parameters: {self}")

    def prompt_seed(self, index: int, bits: int = 31) -> int:
        """Returns the seed of the samples of a call's prompt number ``index``; see :func:`prompt_seed`."""
        return prompt_seed(self.seed, index if self.places is None else self.places[index], bits)

    def seeded_for(self, name: str) -> SamplingParams:
        """Returns the same settings with a seed of ``name``'s own, drawn from this one.

        Two systems that are compared need it: with the same random numbers they give the same answer more often than
        two independent samples do, and who wins between them is another figure.
        """
        return replace(self, seed=random.Random(f"{self.seed}/{name}").getrandbits(31))


def prompt_seed(seed: int, index: int, bits: int = 31) -> int:
    """Returns the seed of a prompt's own samples, 0 <= seed < 2^bits.

    Drawn and not ``seed + index``: vLLM seeds the n completions of a prompt by counting up.
    """
    return random.Random(f"{seed}:{index}").getrandbits(bits)


def read_completion(
    chat: ChatEncoder,
    prompt: Sequence[int],
    ids: Sequence[int],
    *,
    stopped: bool,
    logprobs: tuple[float, ...] | None,
    text: str | None = None,
) -> Completion:
    """Returns the completion that sampled ids are.

    Args:
        chat: the encoder of the model's tokenizer.
        prompt: the ids before it.
        ids: as sampled, what ended it included.
        stopped: whether it ended by itself, and not at its length limit.
        logprobs: of each token.
        text: where the text is known, and ``ids`` are made from it.
    """
    reading = chat.read(ids, prompt) if text is None else chat.read_text(text, prompt)
    return Completion(
        ids=tuple(ids),
        text=reading.text,
        finish_reason="stop" if stopped and reading.complete else "length",
        logprobs=logprobs,
        reasoning_content=reading.reasoning,
    )


class Engine(Protocol):
    """A model that can be sampled from and asked for label probabilities."""

    @property
    def max_length(self) -> int:
        """The most tokens, prompt and completion together, that the model can take."""
        ...

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Progress | None = None,
        drawn: Drawn | None = None,
    ) -> list[list[Completion]]:
        """Returns ``params.n`` completions for each prompt (token ids), in the order of the prompts.

        With ``drawn`` each is told when it has ended, so in another order; the completions are the same.
        """
        ...

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Returns [n, 2]: the next-token probabilities of each prompt's labels, from raw logits."""
        ...

    def reusing_prefixes(self) -> AbstractContextManager[int | None]:
        """Within it, judging may go on from what earlier calls computed: the weights must not change meanwhile.

        Gives the tokens that can be remembered at a time; None where the caller need not care.
        """
        ...
