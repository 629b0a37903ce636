"""The true preference of the small world, in closed form.

    utility =  ON_TOPIC   * share of the response's words that belong to a topic asked for
             + COVERAGE   * share of the topics asked for that have a word in it
             - REPETITION * share of the response's words that repeat an earlier one
             - AMOUNT     * |words given - words asked for| / words asked for, at most AMOUNT_CAP

An empty response has no words: shares of its words are 0. Length is not an attribute by itself; one word too many
costs as much as one too few. Nothing in the training loop may import this module but to draw people's labels.
"""

from __future__ import annotations

import math
import random

from selfjudge.world.grammar import TOPICS, parse, words_of

ON_TOPIC = 1.0
COVERAGE = 0.5
REPETITION = 1.0
AMOUNT = 1.0
AMOUNT_CAP = 2.0

CLEAR_DIFFERENCE = 0.5
"""From this utility difference on, two responses count as clearly different."""

TEMPERATURE = 0.4
"""Noise of people's labels, in units of utility; see :func:`label`."""


def utility(prompt: str, response: str) -> float:
    """The true utility of ``response`` to ``prompt``, at most 1.5 (ON_TOPIC + COVERAGE), higher is better.

    Raises DataError when ``prompt`` is not a prompt of the grammar. Any text is a valid response.
    """
    ask = parse(prompt)
    words = words_of(response)
    n = len(words)
    asked = [set(TOPICS[topic]) for topic in ask.topics]
    on_topic = sum(any(word in topic for topic in asked) for word in words) / n if n else 0.0
    repeated = 1.0 - len(set(words)) / n if n else 0.0
    covered = sum(not topic.isdisjoint(words) for topic in asked) / len(asked)
    amount = min(abs(n - ask.count) / ask.count, AMOUNT_CAP)
    return ON_TOPIC * on_topic + COVERAGE * covered - REPETITION * repeated - AMOUNT * amount


def clearly_different(u_a: float, u_b: float) -> bool:
    """Whether two utilities lie at least :data:`CLEAR_DIFFERENCE` apart (up to rounding)."""
    return abs(u_a - u_b) >= CLEAR_DIFFERENCE - 1e-9


def label(u_a: float, u_b: float, rng: random.Random) -> bool:
    """Whether a person prefers a: a Bradley-Terry draw with P(a) = sigmoid((u_a - u_b) / TEMPERATURE).

    Over pairs of two people's responses about a fifth of the labels go against the truth.
    """
    return rng.random() < 1.0 / (1.0 + math.exp(-(u_a - u_b) / TEMPERATURE))
