"""When two texts, prompts or pairs are the same to a reader, however they are spelled.

Rows are told apart by their place, never by their ``id``: several rows may share one. Texts are compared as
:func:`folded`; a key is a digest of them, so that millions fit in memory. No two texts that differ are known to share
one: of a billion texts, two share a key with a probability below 2e-21.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from selfjudge.records import Message, PreferenceRecord

KEY_BYTES = 16

T = TypeVar("T")


def folded(text: str) -> str:
    """Returns a text as it is compared: in Unicode's form NFC, each run of white space one space, none at the ends.

    Line ends are white space, whatever the system that wrote them.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def text_key(text: str) -> bytes:
    """Returns the key of a text: equal for texts that a reader would call identical."""
    return _digest([folded(text)])


def prompt_key(messages: Sequence[Message]) -> bytes:
    """Returns the key of a prompt: its roles and folded texts, in their order."""
    return _digest([part for message in messages for part in (message.role, folded(message.content))])


def pair_key(record: PreferenceRecord) -> bytes:
    """Returns the key of a pair: prompt, chosen and rejected response, and the principle they are compared under."""
    return pair_keys(record)[0]


def pair_keys(record: PreferenceRecord) -> tuple[bytes, bytes]:
    """Returns the keys of a pair and of the pair that contradicts it, with chosen and rejected exchanged."""
    prompt, chosen, rejected = prompt_key(record.prompt), text_key(record.chosen), text_key(record.rejected)
    return (
        _digest([prompt, chosen, rejected, record.principle]),
        _digest([prompt, rejected, chosen, record.principle]),
    )


def answer_key(record: PreferenceRecord) -> bytes:
    """Returns the key of a prompt with its chosen response."""
    return _digest([prompt_key(record.prompt), text_key(record.chosen)])


def written_key(record: PreferenceRecord) -> bytes:
    """Returns the key of a pair as it is written: no text is folded."""
    prompt = [part for message in record.prompt for part in (message.role, message.content)]
    return _digest([*prompt, record.chosen, record.rejected, record.principle])


def first_of_each(items: Iterable[T], key: Callable[[T], bytes]) -> Iterator[T]:
    """Yields the first item of each key, in order, as it is written."""
    seen: set[bytes] = set()
    for item in items:
        found = key(item)
        if found not in seen:
            seen.add(found)
            yield item


def _digest(parts: Iterable[str | bytes]) -> bytes:
    """Returns the digest of parts, each with its length, so that no two lists of parts are one text."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()
