"""Imperfect people: they write the demonstrations of the small world and label pairs of them.

People forget what was asked for, wander off topic, repeat themselves and miscount. Each response is written with its
own degree of care. When they miscount, they mostly give too little and are never far over: a judge trained on their
pairs has seen few overlong responses, as judges of real models have.
"""

from __future__ import annotations

import random

from selfjudge.errors import DataError
from selfjudge.records import Message, PreferenceRecord
from selfjudge.world.grammar import FILLERS, SEPARATOR, TOPICS, Ask, Split, every_prompt, parse
from selfjudge.world.truth import label, utility

MISCOUNTS = (-2, -1, -1, -1, 1, 1)
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
    """One person's response: the required words they remember first, then whatever comes to mind."""
    care = rng.random()
    remembered = [word for word in ask.required if rng.random() < 0.3 + 0.65 * care]
    miscounts = rng.random() < 0.8 - 0.5 * care
    n = max(1, ask.count + (rng.choice(MISCOUNTS) if miscounts else 0))
    words = remembered[:n]
    while len(words) < n:
        words.append(_next_word(ask, words, care, rng))
    return " " + SEPARATOR.join(words)


def _next_word(ask: Ask, words: list[str], care: float, rng: random.Random) -> str:
    carelessness = 1.0 - care
    if words and rng.random() < 0.4 * carelessness:
        return rng.choice(words)
    if rng.random() < 0.3 * carelessness:
        return rng.choice(FILLERS)
    wanders = rng.random() < 0.3 * carelessness
    topic = rng.choice([name for name in TOPICS if name != ask.topic]) if wanders else ask.topic
    return rng.choice([word for word in TOPICS[topic] if word not in words])


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
