"""Imperfect people: they write the demonstrations of the small world and label pairs of them.

People forget what was asked for, wander off topic, repeat themselves and miscount. Each response is written with its
own degree of care, which is mostly high or low and seldom in between. When they miscount, they mostly give too little:
a judge trained on their pairs has seen few overlong responses, as judges of real models have.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from selfjudge.errors import DataError
from selfjudge.records import Message, PreferenceRecord
from selfjudge.world.grammar import FILLERS, SEPARATOR, TOPICS, Ask, Split, every_prompt, parse
from selfjudge.world.truth import label, utility

CARE = 0.5
"""Both parameters of the beta distribution of care; below 1 it is U-shaped."""

MISCOUNTS = (-2, -1, -1, -1, 1, 1, 2)
"""What a person who miscounts is off by, drawn uniformly."""


def prompts(n: int, seed: int, split: Split) -> list[str]:
    """``n`` distinct prompts of a split in a drawn order. The splits share no task.

    Seeds that follow one another share no prompt either while the split lasts: each takes the next ``n`` of one order.

    Raises DataError for an unknown split, or when the split holds fewer than ``n`` prompts.
    """
    pool = every_prompt(split)
    if not 0 <= n <= len(pool):
        raise DataError(
            f"the small world has {len(pool)} {split} prompts, {n} were asked for: ask for at most that many"
        )
    order = random.Random(f"prompts/{split}").sample(pool, len(pool))
    return [order[(seed * n + i) % len(order)] for i in range(n)]


def respond(ask: Ask, rng: random.Random) -> str:
    """One person's response: word after word, each with the same degree of care."""
    care = rng.betavariate(CARE, CARE)
    miscounts = rng.random() < 0.8 - 0.5 * care
    n = max(1, ask.count + (rng.choice(MISCOUNTS) if miscounts else 0))
    words: list[str] = []
    while len(words) < n:
        words.append(_next_word(ask, words, care, rng))
    return SEPARATOR.join(words)


def _next_word(ask: Ask, words: list[str], care: float, rng: random.Random) -> str:
    slips = 1.0 - care
    kind = rng.random()
    if words and kind < 0.1 * slips:
        return rng.choice(words)
    if kind < 0.25 * slips:
        return rng.choice(FILLERS)
    wanders = kind < 0.75 * slips
    topics = [name for name in TOPICS if name not in ask.topics] if wanders else ask.topics
    return rng.choice([word for word in TOPICS[rng.choice(topics)] if word not in words])


@dataclass(frozen=True)
class Unlabelled:
    """A prompt with what people wrote, in the order in which they wrote it: nobody has said what they prefer.

    ``answer`` is one person's; ``pair`` has two others, which differ.
    """

    prompt: str
    answer: str
    pair: tuple[str, str]


def unlabelled(n: int, seed: int) -> list[Unlabelled]:
    """``n`` train prompts with three responses each; the same ``seed`` gives the same text."""
    rng = random.Random(f"unlabelled/{seed}")
    found = []
    for prompt in _train_prompts(n, rng):
        ask = parse(prompt)
        found.append(Unlabelled(prompt, respond(ask, rng), _two_responses(ask, rng)))
    return found


def preference_records(n: int, seed: int) -> list[PreferenceRecord]:
    """``n`` labelled pairs of different responses to train prompts; the same ``seed`` gives the same pairs.

    Prompts repeat only once all of them have been used.
    """
    rng = random.Random(f"pairs/{seed}")
    return [_labelled_pair(prompt, f"world-{seed}-{i}", rng) for i, prompt in enumerate(_train_prompts(n, rng))]


def _train_prompts(n: int, rng: random.Random) -> list[str]:
    pool = list(every_prompt("train"))
    drawn: list[str] = []
    while len(drawn) < n:
        rng.shuffle(pool)
        drawn += pool
    return drawn[:n]


def _two_responses(ask: Ask, rng: random.Random) -> tuple[str, str]:
    a = b = respond(ask, rng)
    while b == a:
        b = respond(ask, rng)
    return a, b


def _labelled_pair(prompt: str, record_id: str, rng: random.Random) -> PreferenceRecord:
    a, b = _two_responses(parse(prompt), rng)
    chosen, rejected = (a, b) if label(utility(prompt, a), utility(prompt, b), rng) else (b, a)
    return PreferenceRecord(
        id=record_id,
        prompt=(Message(role="user", content=prompt),),
        chosen=chosen,
        rejected=rejected,
        source="selfjudge.world",
    )
