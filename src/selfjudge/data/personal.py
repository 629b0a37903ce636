"""Personal data in text: Presidio's pattern recognisers, keys, and names where a spaCy pipeline is installed.

The patterns are checked where there is something to check: cards by Luhn's sum, IBANs modulo 97, wallet addresses by
their hash, domains by the public suffix list that ships with tldextract. Nothing is fetched.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from selfjudge.errors import DataError, MissingExtraError

KINDS = ("EMAIL", "PHONE", "CARD", "IBAN", "IP", "SSN", "CRYPTO", "KEY")
"""What is always looked for; names (``NAME``) need a pipeline."""

MIN_SCORE = 0.4
"""Of Presidio: below it are its weakest patterns, such as any nine digits for a US social security number."""

KEYS = {
    "OpenAI, Anthropic and alike": r"\bsk-(?=[\w-]*\d)[\w-]{20,}",
    "Stripe": r"\b[spr]k_(?:live|test)_\w{10,}",
    "AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}",
    "GitLab": r"\bglpat-[\w-]{20,}",
    "Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "Google": r"\bAIza[\w-]{35}",
    "Slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "JSON web token": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
    "private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s]*)",
    "name and password in a URL": r"(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",
}

# Turns of a transcript in one text are no names, and no name goes across them.
_TURN = re.compile(r"(?:\A\s*|\n\n)(?:Human|Assistant):")
_PHONE_WORD = re.compile(r"\b(?:phone|tel|telephone|cell|mobile|call|fax|sms|whatsapp)\b[^\n]{0,20}\Z", re.IGNORECASE)
_DECIMAL = re.compile(r"\d\.\Z")


@dataclass(frozen=True)
class Found:
    """Personal data in a text: its kind, and ``text[start:end]``."""

    kind: str
    start: int
    end: int


class Finder:
    """Finds personal data in texts.

    ``names``: the pipeline that names are found with, or None where there is none.
    """

    def __init__(self, names: str | None = None) -> None:
        """Takes a spaCy pipeline that recognises persons: the name of an installed one, or its folder.

        Raises:
            MissingExtraError: the extra ``privacy`` is not installed.
            DataError: the pipeline cannot be loaded, or knows no persons.
        """
        self.names = names
        self._recognizers = _recognizers()
        self._persons = _pipeline(names) if names else None

    def find(self, text: str) -> list[Found]:
        """Returns what is found, by its start; of two that overlap the key, then the surer, then the longer."""
        results = [
            r for recognizer in self._recognizers for r in recognizer.analyze(text, recognizer.supported_entities)
        ]
        results = [r for r in results if r.score >= MIN_SCORE and _plausible(r.entity_type, text, r.start, r.end)]
        results.sort(key=lambda r: (r.entity_type != "KEY", -r.score, r.start - r.end))
        spans = [Found(r.entity_type, r.start, r.end) for r in results]
        if self._persons is not None:
            spans += _person_spans(self._persons, text)
        kept: list[Found] = []
        for span in spans:
            if all(span.end <= other.start or span.start >= other.end for other in kept):
                kept.append(span)
        return sorted(kept, key=lambda span: span.start)


def installed_names() -> str | None:
    """Returns the spaCy pipeline to find names with: of the installed ones the first English one, else the first."""
    found = {point.name for point in entry_points(group="spacy_models")}  # as spaCy itself finds them
    return min(found, key=lambda name: (not name.startswith("en_"), name), default=None)


@cache
def _recognizers() -> tuple[Any, ...]:
    try:
        from presidio_analyzer import Pattern, PatternRecognizer
        from presidio_analyzer.predefined_recognizers import (
            CreditCardRecognizer,
            CryptoRecognizer,
            EmailRecognizer,
            IbanRecognizer,
            IpRecognizer,
            PhoneRecognizer,
            UsSsnRecognizer,
        )
        from tldextract import TLDExtract
    except ImportError as error:
        raise MissingExtraError("Finding personal data", "privacy") from error

    domains = TLDExtract(suffix_list_urls=(), cache_dir=None)  # else the list is fetched on first use

    class OfflineEmailRecognizer(EmailRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).fqdn)

    keys = [Pattern(name, regex, 1.0) for name, regex in KEYS.items()]
    return (
        OfflineEmailRecognizer(supported_entity="EMAIL"),
        PhoneRecognizer(supported_entity="PHONE"),
        CreditCardRecognizer(supported_entity="CARD"),
        IbanRecognizer(supported_entity="IBAN"),
        IpRecognizer(supported_entity="IP"),
        UsSsnRecognizer(supported_entity="SSN"),
        CryptoRecognizer(supported_entity="CRYPTO"),
        PatternRecognizer(supported_entity="KEY", patterns=keys, global_regex_flags=0),
    )


def _plausible(kind: str, text: str, start: int, end: int) -> bool:
    """Whether a match is more than a number that looks like it."""
    value = text[start:end]
    if kind in ("PHONE", "CARD") and _DECIMAL.search(text, max(0, start - 2), start):
        return False  # the digits after a decimal point
    if kind == "PHONE":
        return _written_as_phone(value, text[max(0, start - 40) : start])
    if kind == "IP":
        address = ipaddress.ip_interface(value.partition("%")[0]).ip
        return not (address.is_loopback or address.is_unspecified)
    return True


def _written_as_phone(value: str, before: str) -> bool:
    """Whether digits have the marks of a phone number: any nine of them may be a number of anything."""
    groups = re.findall(r"\d+", value)
    if sum(map(len, groups)) < 9 or re.fullmatch(r"\d*\.\d+", value):
        return False
    if before.endswith("/") or ("/" in value and not value.startswith("0")):
        return False  # a part of an address on the Web, or two dates
    if value.startswith(("+", "(+")):
        return True
    if len(groups) > 1:
        return len(groups) <= 5 and all(len(group) > 1 or group == "1" for group in groups) and "[" not in value
    return value.startswith("0") or bool(_PHONE_WORD.search(before))


def _pipeline(name: str) -> Callable[[str], Any]:
    import spacy

    try:
        nlp = spacy.load(name)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"The spaCy pipeline {name!r} could not be loaded ({reason}); install one, or name none."
        ) from None
    nlp.max_length = sys.maxsize  # the limit is there for memory; rows are what they are
    return nlp


def _person_spans(nlp: Callable[[str], Any], text: str) -> Iterator[Found]:
    for start, end in _between_turns(text):
        for entity in nlp(text[start:end]).ents:
            # A name does not go over a line's end, whatever the pipeline says.
            first = entity.text.split("\n")[0].rstrip()
            if entity.label_ in ("PERSON", "PER") and any(c.isalpha() for c in first):
                yield Found("NAME", start + entity.start_char, start + entity.start_char + len(first))


def _between_turns(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for turn in _TURN.finditer(text):
        yield start, turn.start()
        start = turn.end()
    yield start, len(text)
