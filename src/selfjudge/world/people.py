"""Imperfect people: they write the demonstrations of the small world and label pairs of them.

People forget what was asked for, wander off topic, repeat themselves and miscount. Each response is written with its
own degree of care, which is mostly high or low and seldom in between. When they miscount, they mostly give too little:
a judge trained on their pairs has seen few overlong responses, as judges of real models have.
"""

from __future__ import annotations

import random

from selfjudge.errors import DataError
from selfjudge.records import Message, PreferenceRecord
from selfjudge.world.grammar import FILLERS, SEPARATOR, TOPICS, Ask, Split, every_prompt, parse
from selfjudge.world.truth import label, utility

CARE = 0.5
"""Both parameters of the beta distribution of care; below 1 it is U-shaped."""

MISCOUNTS = (-2, -1, -1, -1, 1, 1, 2)
"""What a person who miscounts is off by, drawn uniformly."""


def prompts(n: int, seed: int, split: Split) -> list[str]:
    """``n`` distinct prompts of a split, drawn without replacement. The splits share nothing that is asked.

    Raises DataError for an unknown split, or when the split holds fewer than ``n`` prompts.
    """
    pool = every_prompt(split)
    if not 0 <= n <= len(pool):
        raise DataError(
            f"the small world has {len(pool)} {split} prompts, {n} were asked for: ask for at most that many"
        )
    return random.Random(f"prompts/{split}/{seed}").sample(pool, n)


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


def preference_records(n: int, seed: int) -> list[PreferenceRecord]:
    """``n`` labelled pairs of different responses to train prompts; the same ``seed`` gives the same pairs.

    Prompts repeat only once all of them have been used.
    """
    rng = random.Random(f"pairs/{seed}")
    pool = list(every_prompt("train"))
    records: list[PreferenceRecord] = []
    while len(records) < n:
        rng.shuffle(pool)
        records += [_labelled_pair(prompt, f"world-{seed}-{len(records) + i}", rng)
                    for i, prompt in enumerate(pool[: n - len(records)])]  # fmt: skip
    return records


def _labelled_pair(prompt: str, record_id: str, rng: random.Random) -> PreferenceRecord:
    ask = parse(prompt)
    a = b = respond(ask, rng)
    while b == a:
        b = respond(ask, rng)
    chosen, rejected = (a, b) if label(utility(prompt, a), utility(prompt, b), rng) else (b, a)
    return PreferenceRecord(
        id=record_id,
        prompt=(Message(role="user", content=prompt),),
        chosen=chosen,
        rejected=rejected,
        source="selfjudge.world",
    )
