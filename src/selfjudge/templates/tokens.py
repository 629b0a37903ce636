"""Rendered texts to ids: the tokenizer's own ids, in which no user's text becomes a special token.

"Special" is every token that gives a chat its structure: those that the tokenizer calls special, and added tokens that
the chat template puts around turns without their being marked as special (``<｜User｜>`` of DeepSeek).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfjudge.templates.rendering import cut, unused_mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How many texts the tokenizer gets in one call: for each of them it holds far more than ids until the call is over.
_AT_ONCE = 2048


def is_marker(text: str) -> bool:
    """Whether it is more than a word and more than white space or punctuation: ``### User:``, not ``user``."""
    return any(map(str.isalnum, text)) and not all(c.isalnum() or c.isspace() for c in text)


def structure(tokenizer: PreTrainedTokenizerBase, around_turns: str) -> dict[str, int]:
    """Returns the tokens that give chats their structure, by their text.

    Args:
        tokenizer: of the model.
        around_turns: what the chat template writes around turns.
    """
    specials = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    # Llama 3's headers, for one, are special tokens that have none of the names in `all_special_tokens`.
    added = {token.content: (i, token.special) for i, token in tokenizer.added_tokens_decoder.items()}
    for text, (i, special) in added.items():
        if text and (special or (text in around_turns and is_marker(text))):
            specials[text] = i
    return specials


class StructuredTokenizer:
    """A tokenizer that knows which strings are structure.

    A text to encode comes with its mark: a character at which it is cut, and over which no token goes. So a string that
    must not become a token has a mark inside.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, specials: dict[str, int]) -> None:
        """Takes the strings that are structure and their ids, see :func:`structure`."""
        self.tokenizer, self.specials = tokenizer, specials
        # A text may well hold what the tokenizer does not know.
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
        self.structural_ids = frozenset(specials.values()) - unknown
        self.pattern = re.compile("|".join(re.escape(t) for t in sorted(specials, key=len, reverse=True)))
        self._anchor = self._find_anchor()

    def text_ids(self, text: str) -> list[int]:
        """Returns the ids of plain text: nothing added, nothing in it read as a special token."""
        mark = unused_mark([text])
        (ids,) = self.encode([(self.shielded(text, mark), mark)])
        return ids

    def shielded(self, text: str, mark: str) -> str:
        """Returns a user's text with the mark inside each string that is structure."""
        return cut(text, self.pattern, mark)

    def encode(self, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Returns the ids of rendered texts, each with the mark of its cuts. No id goes over a cut."""
        found = self._encode_cut(texts)
        for i, ((text, mark), ids) in enumerate(zip(texts, found, strict=True)):
            if self._too_many(text, ids):
                found[i] = self._apart(text, mark)
        return found

    def _too_many(self, text: str, ids: Sequence[int]) -> bool:
        """Whether the tokenizer finds structure where no such string stands, as in ``＜/s＞`` after NFKC."""
        return sum(map(self.structural_ids.__contains__, ids)) > sum(1 for _ in self.pattern.finditer(text))

    def _apart(self, text: str, mark: str) -> list[int]:
        """Returns the ids of a text that is cut in two until the cuts go through what the tokenizer finds too many."""
        place = len(text) // 2
        for match in self.pattern.finditer(text):
            if match.start() < place < match.end():
                place = match.start() or match.end()
        halves = [text[:place], mark + text[place:]]
        if not all(half.strip(mark) for half in halves):
            return self._encode_cut([(text, mark)])[0]
        pairs = zip(halves, self._encode_cut([(half, mark) for half in halves]), strict=True)
        return [i for half, ids in pairs for i in (self._apart(half, mark) if self._too_many(half, ids) else ids)]

    def _encode_cut(self, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
        rows = [text.split(mark) for text, mark in texts]
        pieces = [[row[0], *(self._anchor + piece for piece in row[1:])] for row in rows]
        distinct = list(dict.fromkeys(piece for row in pieces for piece in row if piece))
        known = {"": [], **dict(zip(distinct, self._tokenize(distinct), strict=True))}
        skip = 1 if self._anchor else 0
        return [[*known[row[0]], *(i for piece in row[1:] for i in known[piece][skip:])] for row in pieces]

    def continued(self, text: str, mark: str = "\ue000") -> list[int]:
        """Returns the ids of a rendered text that goes on after another one: nothing is put before its first word."""
        (ids,) = self._encode_cut([(mark + text, mark)])
        return ids

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the tokenizer's ids. It gets the texts together, to encode them in parallel."""
        found: list[list[int]] = []
        for start in range(0, len(texts), _AT_ONCE):
            found += self.tokenizer(
                list(texts[start : start + _AT_ONCE]),
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
        return found

    def _find_anchor(self) -> str:
        """Returns a token whose text can stand before another text without a change to that text's ids.

        SentencePiece puts a space before the first word of a text, but not before what follows a special token.
        """
        for token in (self.tokenizer.eos_token, *self.specials):
            if self._tokenize([token])[0] == [self.specials.get(token)]:
                spaced = self._tokenize([f"{token} x", f"{token}x"])
                if spaced[0] != spaced[1]:  # it does not swallow a space
                    return str(token)
        return ""
