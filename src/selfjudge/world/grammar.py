"""The small world's language: eight topics, sixteen words each, and prompts that ask for some of them.

A prompt names a topic, how many things are wanted and one or two things that must be among them:

    Name three things of the sea, with coral and tide.

A response is a list of words: ``coral, tide, wave``. :func:`render` writes a prompt, :func:`parse` reads it back, and
:func:`every_prompt` lists them all, split by *what is asked* so that no fresh prompt is a rewording of a train one.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Literal, get_args

from selfjudge.errors import DataError

Split = Literal["train", "fresh"]

TOPICS: dict[str, tuple[str, ...]] = {
    topic: tuple(words.split())
    for topic, words in {
        "sea": "coral tide wave shell anchor whale crab reef sail foam kelp shark harbor seal dolphin oyster",
        "forest": "oak fern moss wolf owl pine deer mushroom trail bark fox squirrel acorn cedar badger log",
        "kitchen": "pan oven spoon salt knife kettle bread butter plate stove bowl flour pepper ladle soup apron",
        "garden": "rose tulip hedge spade lawn weed bee daisy fence soil rake bench pond lily snail gnome",
        "city": "tram bridge tower market street bank park museum taxi crowd square station cafe neon library subway",
        "sky": "cloud star moon sun rain comet eagle storm rainbow kite thunder planet snow wind dawn swallow",
        "farm": "cow barn tractor hay goat wheat plough hen pig field sheep stable duck corn silo orchard",
        "school": "desk pencil book chalk lesson teacher exam map ruler class essay globe bell pupil eraser quiz",
    }.items()
}
FILLERS: tuple[str, ...] = ("um", "er", "stuff", "whatever", "something", "dunno")
"""Words people fall back on; no topic has them."""

COUNTS: dict[str, int] = {"two": 2, "three": 3, "four": 4, "five": 5}
PHRASINGS: tuple[tuple[str, str, str, str], ...] = (
    # before the count, before the topic, before the first required word, at the end
    ("Name", " things of the", ", with", "."),
    ("Tell me", " things about the", ": include", "."),
    ("List", " words for the", " and mention", "."),
    ("Give me", " things from the", ", such as", "."),
)
AND = " and "
SEPARATOR = " "

FRESH_SHARE = 0.15
"""Share of all asks (topic, count, set of required words) that is held back as ``fresh``."""


@dataclass(frozen=True)
class Ask:
    """What a prompt asks for: ``count`` things of ``topic``, the words in ``required`` among them."""

    topic: str
    count: int
    required: tuple[str, ...]


def render(ask: Ask, phrasing: int = 0) -> str:
    """The prompt text of ``ask`` in one of the :data:`PHRASINGS`."""
    name = next(word for word, value in COUNTS.items() if value == ask.count)
    before_count, before_topic, before_required, end = PHRASINGS[phrasing]
    return f"{before_count} {name}{before_topic} {ask.topic}{before_required} {AND.join(ask.required)}{end}"


def parse(prompt: str) -> Ask:
    """The inverse of :func:`render`, whatever the phrasing. Raises DataError for text the grammar does not produce."""
    for pattern in _patterns():
        if match := pattern.fullmatch(prompt.strip()):
            return Ask(match["topic"], COUNTS[match["count"]], tuple(match["required"].split(AND)))
    raise DataError(
        f"not a prompt of the small world: {prompt[:80]!r}; expected a text like {render(Ask('sea', 2, ('tide',)))!r}"
    )


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    count, topic = "|".join(COUNTS), "|".join(TOPICS)
    word = "(?:" + "|".join(word for words in TOPICS.values() for word in words) + ")"
    required = f"{word}(?:{AND}{word})?"
    return tuple(
        re.compile(
            f"{re.escape(a)} (?P<count>{count}){re.escape(b)} (?P<topic>{topic}){re.escape(c)} "
            f"(?P<required>{required}){re.escape(end)}"
        )
        for a, b, c, end in PHRASINGS
    )


def split_of(ask: Ask) -> Split:
    """The split ``ask`` belongs to. The order of the required words and the phrasing play no part in it."""
    key = f"{ask.topic}/{ask.count}/{'+'.join(sorted(ask.required))}"
    return "fresh" if zlib.crc32(key.encode()) / 2**32 < FRESH_SHARE else "train"


@cache
def every_prompt(split: Split) -> tuple[str, ...]:
    """All prompts of a split in a fixed order. Together the two splits hold 32,768 distinct prompts."""
    if split not in get_args(Split):
        raise DataError(f"unknown split {split!r}: use one of {', '.join(get_args(Split))}")
    asks = (
        Ask(topic, count, required)
        for topic, words in TOPICS.items()
        for count in COUNTS.values()
        for size in (1, 2)
        for required in permutations(words, size)
    )
    return tuple(render(ask, i) for ask in asks if split_of(ask) == split for i in range(len(PHRASINGS)))


def words_of(response: str) -> list[str]:
    """The words of a response in order, lower case; punctuation and digits separate words."""
    return re.findall(r"[^\W\d_]+", response.lower())
