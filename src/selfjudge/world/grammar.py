"""The small world's language: eight topics, sixteen words each, and prompts that ask for words of one or two topics.

    Name three things of the sea and the farm for Ada.

A response is a list of words: ``coral cow tide``. Who it is for does not matter; people mention it all the same.
What is asked for, three things of the sea and the farm, is a *task*. Each of the 144 tasks belongs to one split, with
all of its prompts, so that no prompt of one split is a rewording of another's. :func:`render` writes a prompt,
:func:`parse` reads it back, and :func:`every_prompt` lists those of a split.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise, permutations
from typing import Literal, get_args

from selfjudge.errors import DataError

Split = Literal["train", "tuning", "curves", "results"]
"""What a split's tasks are for: to train on, to choose settings by, to watch a training by, to report."""

TOPICS: dict[str, tuple[str, ...]] = {
    topic: tuple(words.split())
    for topic, words in {
        "sea": "coral tide wave shell anchor whale crab reef sail foam kelp shark harbor seal dolphin oyster",
        "forest": "oak fern moss wolf owl pine deer mushroom trail bark fox squirrel acorn cedar badger log",
        "kitchen": "pan oven spoon salt knife kettle bread butter plate stove bowl flour pepper ladle soup apron",
        "garden": "rose tulip hedge spade lawn weed bee daisy fence soil rake bench pond lily snail gnome",
        "sky": "cloud star moon sun rain comet eagle storm rainbow kite thunder planet snow wind dawn swallow",
        "farm": "cow barn tractor hay goat wheat plough hen pig field sheep stable duck corn silo orchard",
        "city": "bridge tower subway market square taxi statue alley museum bank lamp crowd plaza tram billboard curb",
        "music": "violin drum flute piano harp choir chord banjo trumpet cello rhythm waltz opera fiddle melody organ",
    }.items()
}
FILLERS: tuple[str, ...] = ("um", "er", "stuff", "whatever", "something", "dunno")
"""Words people fall back on; no topic has them."""

COUNTS: dict[str, int] = {"two": 2, "three": 3, "four": 4, "five": 5}
NAMES: tuple[str, ...] = (
    "Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Leo", "Mia", "Ned", "Ola", "Pia",
)  # fmt: skip
PHRASINGS: tuple[tuple[str, str, str], ...] = (
    # before the count, before the topics, before the name
    ("Name", " things of the", " for"),
    ("Tell me", " things about the", " and greet"),
    ("List", " words for the", " to help"),
    ("Give me", " things from the", " to show"),
)
AND = " and the "
SEPARATOR = " "

_ENDS: dict[Split, float] = {"train": 0.5, "tuning": 0.6, "curves": 0.7, "results": 1.0}
"""Where each split ends when the tasks of a kind (the same count, as many topics) are dealt out in a drawn order."""


@dataclass(frozen=True)
class Ask:
    """What a prompt asks for: ``count`` things of ``topics``, each of them covered, for ``name``."""

    topics: tuple[str, ...]
    count: int
    name: str


def render(ask: Ask, phrasing: int = 0) -> str:
    """The prompt text of ``ask`` in one of the :data:`PHRASINGS`."""
    count = next(word for word, value in COUNTS.items() if value == ask.count)
    before_count, before_topics, before_name = PHRASINGS[phrasing]
    return f"{before_count} {count}{before_topics} {AND.join(ask.topics)}{before_name} {ask.name}."


def parse(prompt: str) -> Ask:
    """The inverse of :func:`render`, whatever the phrasing. Raises DataError for text the grammar does not produce."""
    for pattern in _patterns():
        if match := pattern.fullmatch(prompt.strip()):
            return Ask(tuple(match["topics"].split(AND)), COUNTS[match["count"]], match["name"])
    raise DataError(
        f"not a prompt of the small world: {prompt[:80]!r}; expected a text like "
        f"{render(Ask(('sea', 'farm'), 3, 'Ada'))!r}"
    )


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    count, topic, name = "|".join(COUNTS), "|".join(TOPICS), "|".join(NAMES)
    topics = f"(?:{topic})(?:{AND}(?:{topic}))?"
    return tuple(
        re.compile(f"{a} (?P<count>{count}){b} (?P<topics>{topics}){c} (?P<name>{name})\\.") for a, b, c in PHRASINGS
    )


def task_of(ask: Ask) -> str:
    """The task of ``ask``, such as ``3 farm+sea``: name, phrasing and the order of the topics play no part in it."""
    return f"{ask.count} {'+'.join(sorted(ask.topics))}"


def split_of(ask: Ask) -> Split:
    """The split that the task of ``ask`` belongs to."""
    return _splits()[task_of(ask)]


@cache
def _splits() -> dict[str, Split]:
    """Every task's split. Each kind of task is dealt out alone, so that all splits are alike in counts and topics."""
    found: dict[str, Split] = {}
    for count in COUNTS.values():
        for size in (1, 2):
            tasks = [task_of(Ask(topics, count, NAMES[0])) for topics in combinations(TOPICS, size)]
            tasks.sort(key=lambda task: zlib.crc32(task.encode()))
            ends = [0, *(round(end * len(tasks)) for end in _ENDS.values())]
            for split, (start, end) in zip(_ENDS, pairwise(ends), strict=True):
                found.update(dict.fromkeys(tasks[start:end], split))
    return found


@cache
def every_prompt(split: Split) -> tuple[str, ...]:
    """All prompts of a split in a fixed order. Together the splits hold 16,384 distinct prompts."""
    if split not in get_args(Split):
        raise DataError(f"unknown split {split!r}: use one of {', '.join(get_args(Split))}")
    asks = (
        Ask(topics, count, name)
        for size in (1, 2)
        for topics in permutations(TOPICS, size)
        for count in COUNTS.values()
        for name in NAMES
    )
    return tuple(render(ask, i) for ask in asks if split_of(ask) == split for i in range(len(PHRASINGS)))


def words_of(response: str) -> list[str]:
    """The words of a response in order, lower case; punctuation and digits separate words."""
    return re.findall(r"[^\W\d_]+", response.lower())
