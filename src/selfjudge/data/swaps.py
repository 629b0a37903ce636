"""Words for men and women and first names, exchanged for their partners: the other side of a counterfactual.

The lists are English and short. A name's partner is of the other gender, so that names and pronouns still agree after
both are exchanged, and mostly of another origin, so that an exchange changes both. Names that are also common words
(Grace, Mark, Rose, Will) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

GENDERED = (
    ("he", "she"), ("himself", "herself"), ("man", "woman"), ("men", "women"), ("boy", "girl"), ("boys", "girls"),
    ("father", "mother"), ("fathers", "mothers"), ("dad", "mom"), ("son", "daughter"), ("sons", "daughters"),
    ("brother", "sister"), ("brothers", "sisters"), ("husband", "wife"), ("husbands", "wives"), ("uncle", "aunt"),
    ("nephew", "niece"), ("grandfather", "grandmother"), ("grandson", "granddaughter"), ("boyfriend", "girlfriend"),
    ("gentleman", "lady"), ("gentlemen", "ladies"), ("male", "female"), ("males", "females"), ("mr", "mrs"),
)  # fmt: skip
"""(word for men, word for women), each of one meaning; the forms of *his* and *her* are not, and are decided apart."""

NAMES = (
    ("John", "Maria"), ("James", "Aisha"), ("Michael", "Mei"), ("David", "Fatima"), ("Ivan", "Anna"), ("Raj", "Emily"),
    ("Mohammed", "Sarah"), ("Ahmed", "Jessica"), ("Wei", "Laura"), ("Carlos", "Linda"), ("Jamal", "Susan"),
    ("Hiroshi", "Karen"), ("Robert", "Priya"), ("Thomas", "Yuki"), ("Daniel", "Lakshmi"), ("Peter", "Olga"),
    ("Andrew", "Carmen"), ("Matthew", "Leila"), ("Paul", "Keisha"), ("George", "Ingrid"), ("Steven", "Nadia"),
    ("Kevin", "Amina"), ("Brian", "Sofia"), ("Ben", "Ada"), ("Jon", "Mia"), ("Leo", "Ida"), ("Gus", "Pia"),
    ("Finn", "Hana"), ("Dan", "Cleo"), ("Tom", "Zainab"), ("Ali", "Julia"), ("Kenji", "Elena"),
)  # fmt: skip
"""(man's name, woman's name)."""

# After "her" and "his" these begin no noun phrase, so that the word before stands alone: "gave it to her and left".
_FUNCTION_WORDS = """
a an the this that these those and or but nor so if as because when while where who whom which what how why than to of
in on at by for from with without about into onto over under after before until since during through out up down off
back away is was are were be been has had have do does did will would can could may might should must not he she it
they we you i him them us me again too also really just then there here now today tomorrow yesterday later soon always
never
"""
_NO_NOUN = frozenset(_FUNCTION_WORDS.split())
_NEXT_WORD = re.compile(r"[ \t]+(?:\*\*|[\"'“‘(*_])?([A-Za-z]+)")


def _alike(word: str, other: str) -> str:
    """Returns ``other`` with the capitals of ``word``."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[0].upper() + other[1:] if word[0].isupper() else other


def _table(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {a.lower(): b.lower() for pair in pairs for a, b in (pair, pair[::-1])}


_PARTNERS = _table(GENDERED)
_NAME_PARTNERS = _table(NAMES)
_WORDS = re.compile(rf"\b(?:{'|'.join([*_PARTNERS, 'him', 'his', 'her', 'hers'])})\b", re.IGNORECASE)
_NAMES = re.compile(rf"\b(?:{'|'.join(n for pair in NAMES for name in pair for n in (name, name.upper()))})\b")


def _gendered(match: re.Match[str]) -> str:
    word = match[0].lower()
    if word in ("his", "her"):
        following = _NEXT_WORD.match(match.string, match.end())
        before_noun = following is not None and following[1].lower() not in _NO_NOUN
        other = {"his": ("hers", "her"), "her": ("him", "his")}[word][before_noun]
    else:
        other = {"him": "her", "hers": "his"}.get(word) or _PARTNERS[word]
    return _alike(match[0], other)


def swap_genders(text: str) -> str:
    """Returns a text with the words for men and women exchanged, capitals kept.

    *Her* becomes *his* before what may be a noun, else *him*; *his* becomes *her* there, else *hers*. That is a guess
    from the next word alone: "gave her flowers" comes out wrong.
    """
    return _WORDS.sub(_gendered, text)


def swap_names(text: str) -> str:
    """Returns a text with the first names of :data:`NAMES` exchanged; a name is written with a capital."""
    return _NAMES.sub(lambda match: _alike(match[0], _NAME_PARTNERS[match[0].lower()]), text)


def swap_people(text: str) -> str:
    """Returns a text with names and words for men and women exchanged."""
    return swap_names(swap_genders(text))


def _counter(words: tuple[str, ...], flags: int = 0) -> Callable[[str], int]:
    pattern = re.compile(rf"\b(?:{'|'.join(words)})\b", flags)
    return lambda text: sum(1 for _ in pattern.finditer(text))


words_for_men = _counter((*(pair[0] for pair in GENDERED), "him", "his"), re.IGNORECASE)
words_for_women = _counter((*(pair[1] for pair in GENDERED), "her", "hers"), re.IGNORECASE)
names_of_men = _counter(tuple(pair[0] for pair in NAMES))
names_of_women = _counter(tuple(pair[1] for pair in NAMES))
