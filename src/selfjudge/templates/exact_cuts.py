"""Places at which a text can be cut without a change to any id, so that texts that share a piece share its ids.

A judgment shows each response twice, first and second, and a training row repeats its prompt: cut there, each is
tokenized once. Three kinds of places are used.

- Before a special token. The tokenizers library looks for these tokens first and reads what is between them apart.
- In a heading (``### Response A``): behind its ``#``, and at its end. There a cut is exact if no token of the
  vocabulary holds both characters beside it: no merge of a BPE vocabulary goes over such a place, and no path through
  a unigram one. And what is a word to a pre-tokenizer is decided by the text that follows, as long as its pattern does
  not look behind, and looks ahead for white space alone.
- In a long text between its first two words, and between its last two: so what is before and behind the text, which
  differs from one row to another, is apart from most of it. A cut there is exact under the same conditions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HEADING = re.compile(r"^#+( [^\n]{0,80}?[A-Za-z]|)$", re.MULTILINE)
# A space and a line end as they are, as byte-level BPE spells them, and as SentencePiece does.
_ACROSS = re.compile(r"#[ Ġ▁]|[A-Za-z](?:[\nĊ]|<0x0A>)")
_ACROSS_WORDS = re.compile(r"[A-Za-z][ Ġ▁]")
_BETWEEN_WORDS = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")
LONG = 256
"""Characters from which a piece is cut between words."""
# A group, one whose case does not matter, and the look ahead that leaves a word its space.
_PLAIN = re.compile(r"\(\?i?:|\(\?!\\+S\)")


@dataclass(frozen=True)
class Cuts:
    """Where texts are cut: before these special tokens, in headings, and between the outer words of long pieces."""

    before: re.Pattern[str] | None
    headings: bool
    words: bool

    def pieces(self, text: str) -> Iterator[str]:
        """Yields the pieces of a text, at least one."""
        start = 0
        for place in sorted(self._places(text)):
            if start < place < len(text):
                yield from self._outer_words_apart(text[start:place])
                start = place
        yield from self._outer_words_apart(text[start:])

    def _outer_words_apart(self, piece: str) -> Iterator[str]:
        first = _BETWEEN_WORDS.search(piece) if self.words and len(piece) >= LONG else None
        if first is None:
            yield piece
            return
        start, last = first.start(), piece.rfind(" ")
        while not _BETWEEN_WORDS.match(piece, last):
            last = piece.rfind(" ", 0, last)
        yield piece[:start]
        if last > start:
            yield piece[start:last]
        yield piece[last:]

    def _places(self, text: str) -> Iterator[int]:
        if self.before is not None:
            yield from (match.start() for match in self.before.finditer(text))
        if self.headings and "#" in text:
            yield from (place for match in _HEADING.finditer(text) if match[1] for place in match.span(1))


NO_CUTS = Cuts(None, headings=False, words=False)


def find_cuts(tokenizer: PreTrainedTokenizerBase, rust: Any, structure: re.Pattern[str]) -> Cuts:
    """Returns where texts can be cut for a tokenizer.

    Args:
        tokenizer: of the model.
        rust: the part of it in Rust, or None.
        structure: the special tokens.
    """
    if rust is None:
        return NO_CUTS
    added = tokenizer.added_tokens_decoder.values()
    # Such a token takes spaces from the text before it, or asks which character stands there.
    apart = not any(token.lstrip or token.single_word for token in added)
    plain = _is_plain(rust)
    vocabulary = tokenizer.get_vocab() if plain else ()
    return Cuts(
        structure if apart and structure.pattern else None,
        headings=plain and not any(map(_ACROSS.search, vocabulary)),
        words=plain and not any(map(_ACROSS_WORDS.search, vocabulary)),
    )


def _is_plain(rust: Any) -> bool:
    """Whether a cut over which no token goes changes no id."""
    model = rust.model
    if type(model).__name__ not in ("BPE", "Unigram"):
        return False
    if getattr(model, "continuing_subword_prefix", None) or getattr(model, "end_of_word_suffix", None):
        return False
    patterns = _PLAIN.sub("", f"{rust.normalizer}{rust.pre_tokenizer}")
    return "(?" not in patterns
