"""Rendered texts to ids: the tokenizer's own ids, in which no user's text becomes a special token.

"Special" is every token that gives a chat its structure: those that the tokenizer calls special, and added tokens that
the chat template puts around turns without their being marked as special (``<｜User｜>`` of DeepSeek).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from selfjudge.errors import RowError
from selfjudge.templates.exact_cuts import NO_CUTS, Cuts, find_cuts
from selfjudge.templates.rendering import cut, unused_mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TRIED = (
    "### Response A\nOne.\n\n### Response B\n  two\n\n### Question\nWhich?",
    "Text\n\n\n# Heading one\n\n- a\n- b\n## Two\n\té 你好 🙂\n",
    "x\n### A\n### B\nx",
    "One two.\n\n" + "Three, four 5 six.  Seven\n" * 12 + "eight nine.\n\n",
)

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
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    # A token may have a name and yet no place in the vocabulary: then its id is none, or that of what is unknown.
    unknown, spelled = tokenizer.unk_token_id, tokenizer.unk_token
    specials = {text: i for text, i in named if text and i is not None and (i != unknown or text == spelled)}
    # Llama 3's headers, for one, are special tokens that have none of the names in `all_special_tokens`.
    added = {token.content: (i, token.special) for i, token in tokenizer.added_tokens_decoder.items()}
    for text, (i, special) in added.items():
        if text.strip() and (special or (text in around_turns and is_marker(text))):
            specials[text] = i
    return specials


@dataclass(frozen=True)
class _Piece:
    """A piece of a text; ``key`` is what the tokenizer gets, of whose ids the first ``skip`` are not the piece's.

    ``marked``: it stands behind two marks.
    """

    text: str
    key: str
    skip: int
    marked: bool


class StructuredTokenizer:
    """A tokenizer that knows which strings are structure.

    A text to encode comes with its mark: a character at which it is cut, and over which no token goes. So a string that
    must not become a token has a mark inside.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, specials: dict[str, int], template: str = "") -> None:
        """Takes the strings that are structure and their ids, see :func:`structure`, and the chat template's source."""
        self.tokenizer, self.specials = tokenizer, specials
        self._rust = _rust(tokenizer)
        self._own_text = "".join([template, *specials])
        # A text may well hold what the tokenizer does not know.
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
        self.structural_ids = frozenset(specials.values()) - unknown
        self.pattern = re.compile("|".join(re.escape(t) for t in sorted(specials, key=len, reverse=True)))
        self._anchor = self._find_anchor()
        self._spelled: dict[str, list[int] | None] = {}
        self._known: dict[str, list[int]] | None = None
        self._cuts = self._tried_cuts()
        self._spelled = {text: self._spell(text) for text in specials if len(text) == 1}

    def text_ids(self, text: str) -> list[int]:
        """Returns the ids of plain text: nothing added, nothing in it read as a special token."""
        mark = self.mark([text])
        (ids,) = self.encode([(self.shielded(text, mark), mark)])
        return ids

    def mark(self, texts: Iterable[str]) -> str:
        """Returns a character that neither the texts hold nor the chat template. Raises RowError if there is none."""
        return unused_mark([self._own_text, *texts])

    def shielded(self, text: str, mark: str) -> str:
        """Returns a user's text with the mark inside each string that is structure.

        Raises:
            RowError: if a token of a single character is in it that the tokenizer knows in no other way.
        """
        for character, ids in self._spelled.items():
            if ids is None and character in text:
                raise RowError(f"it holds {character!r}, which the tokenizer knows as a special token alone")
        return cut(text, self.pattern, mark)

    def encode(self, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Returns the ids of rendered texts, each with the mark of its cuts. No id goes over a cut."""
        found = self._encode_cut(texts)
        for i, ((text, mark), ids) in enumerate(zip(texts, found, strict=True)):
            if self._too_many(text, ids):
                found[i] = self._apart(text, mark)
        return found

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within, no piece of a text is tokenized twice. What is remembered ends with the block."""
        self._known = {}
        try:
            yield
        finally:
            self._known = None

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
        rows = [[*self._pieces(text, mark)] for text, mark in texts]
        known: dict[str, list[int]] = {} if self._known is None else self._known
        asked = dict.fromkeys(piece.key for row in rows for piece in row if piece.text)
        new = [key for key in asked if key not in known]
        known.update(zip(new, self._tokenize(new), strict=True))
        found = []
        for row in rows:
            ids: list[int] = []
            for piece in row:
                # Between two marks: what follows them is a single character that is no token here.
                spelled = self._spelled.get(piece.text) if piece.marked else None
                own = known[piece.key][piece.skip :] if piece.text else []
                ids += own if spelled is None else spelled
            found.append(ids)
        return found

    def _pieces(self, text: str, mark: str) -> Iterator[_Piece]:
        """Yields the pieces of a text: it is cut at its marks, and wherever else a cut changes no id."""
        anchor, previous = "", None
        for part in text.split(mark):
            marked = previous == ""
            for piece in self._cuts.pieces(part):
                yield _Piece(piece, anchor + piece, 1 if anchor else 0, marked)
                anchor, marked = self._anchor, False
            previous = part

    def _tried_cuts(self) -> Cuts:
        """Returns the cuts of this tokenizer, if they do leave the ids of a few texts as they are."""
        found = find_cuts(self.tokenizer, self._rust, self.pattern)
        whole = self._tokenize(_TRIED)
        for cuts in (found, replace(found, words=False)):
            self._cuts = cuts
            if self._encode_cut([(text, "\0") for text in _TRIED]) == whole:
                return cuts
        return NO_CUTS

    def continued(self, text: str, mark: str = "") -> list[int]:
        """Returns the ids of a rendered text that goes on after another one: nothing is put before its first word."""
        (ids,) = self.all_continued([(text, mark or self.mark([text]))])
        return ids

    def all_continued(self, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Returns :meth:`continued` of texts, each with the mark of its cuts."""
        return self._encode_cut([(mark + text, mark) for text, mark in texts])

    def _spell(self, character: str) -> list[int] | None:
        """Returns the ids of a token's single character as those of a text, or None where there are none."""
        before, both = self._tokenize(["x", f"x{character}"], split_special_tokens=True)
        ids = both[len(before) :]
        return ids if ids and both[: len(before)] == before and not {*ids} & {*self.specials.values()} else None

    def _tokenize(self, texts: Sequence[str], **options: bool) -> list[list[int]]:
        """Returns the tokenizer's ids. It gets the texts together, to encode them in parallel."""
        found: list[list[int]] = []
        for start in range(0, len(texts), _AT_ONCE):
            batch = list(texts[start : start + _AT_ONCE])
            if self._rust is not None and not options:
                _use_whole_texts(self._rust)
                found += [each.ids for each in self._rust.encode_batch_fast(batch, add_special_tokens=False)]
            else:
                found += self.tokenizer(
                    batch,
                    add_special_tokens=False,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                    verbose=False,
                    **options,
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


def _rust(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Returns the tokenizer's Rust part where it gives the ids of the whole one, else None.

    Asked directly it does not note where in the text each token stands, which takes a fifth of the time.
    """
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    as_usual = isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in ("__call__", "_encode_plus")
    )
    return tokenizer._tokenizer if as_usual and not tokenizer.split_special_tokens else None


def _use_whole_texts(rust: Any) -> None:
    """Ends truncation, padding and the splitting of special tokens, as every call of the whole tokenizer does.

    A setting that is right is left alone: another thread may be encoding.
    """
    if rust.truncation is not None:
        rust.no_truncation()
    if rust.padding is not None:
        rust.no_padding()
    if rust.encode_special_tokens:
        rust.encode_special_tokens = False
