"""What the labels of a source go with, besides quality: length, position, Markdown, refusals, words about people.

That the chosen response has more of something in most pairs is no proof of bias, as it may be the better for it; but a
judge trained on the pairs can learn it in quality's place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from selfjudge.core.statistics import Rate, proportion
from selfjudge.data.swaps import names_of_men, names_of_women, words_for_men, words_for_women
from selfjudge.records import PreferenceRecord

# Headings, list items, quotes, fences and tables at the start of a line; bold text, inline code and links within it.
_MARKDOWN = re.compile(
    r"^[ \t]*(?:#{1,6} |[-*+] |\d+[.)] |> |```|\|)|\*\*[^*\n]+\*\*|`[^`\n]+`|\[[^\]\n]+\]\([^)\n]+\)", re.MULTILINE
)
_REFUSAL = re.compile(
    r"\b(?:i(?:['’]m| am) (?:(?:very|really|so|truly) )?(?:sorry|afraid|unable|not able|not comfortable)"
    r"|i (?:can(?:no|['’])t|can not|won['’]t|will not|am not going to|do(?: not|n['’]t) feel comfortable)"
    r"|i (?:must|have to) (?:decline|refuse)|i apologi[sz]e,? but|as an ai\b)",
    re.IGNORECASE,
)
_REFUSAL_WITHIN = 200
"""Characters from the start in which a refusal is looked for: later ones are mostly asides."""


def markdown(text: str) -> int:
    """Returns the number of Markdown marks."""
    return sum(1 for _ in _MARKDOWN.finditer(text))


def refuses(text: str) -> int:
    """Returns 1 where the text opens with the words of a refusal, else 0."""
    return int(_REFUSAL.search(text[:_REFUSAL_WITHIN]) is not None)


FEATURES: dict[str, Callable[[str], int]] = {
    "longer": len,
    "more Markdown": markdown,
    "refuses": refuses,
    "more words for women": words_for_women,
    "more words for men": words_for_men,
    "more names of women": names_of_women,
    "more names of men": names_of_men,
}
"""What the chosen response may have more of → its measure."""


class BiasCounter:
    """Counts record by record how often the chosen response has more of each feature, and how often they differ."""

    def __init__(self) -> None:
        """Starts without records."""
        self._more, self._differ = dict.fromkeys(FEATURES, 0), dict.fromkeys(FEATURES, 0)

    def add(self, record: PreferenceRecord) -> None:
        """Takes the next record into account."""
        for name, measure in FEATURES.items():
            a, b = measure(record.chosen), measure(record.rejected)
            self._more[name] += a > b
            self._differ[name] += a != b

    def rates(self) -> dict[str, Rate]:
        """Returns for each feature how often the chosen response has more of it, over the pairs that differ in it."""
        return {name: proportion(self._more[name], self._differ[name]) for name in FEATURES}


def first_position(rows: Iterable[dict[str, Any]]) -> Rate:
    """Returns how often A is the better one of the rows of a judge file that are labelled A or B."""
    labels = Counter(row["label"] for row in rows if row.get("label") in ("A", "B"))
    return proportion(labels["A"], labels.total())
