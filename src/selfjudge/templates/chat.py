"""From messages to token ids, with the special tokens of the chat template and never those of a user's text.

Rendering is the tokenizer's own chat template. The rendered string is cut at the special tokens the template put
there; the plain text between them is tokenised with special-token parsing off. For ordinary text the result equals
``tokenizer.apply_chat_template(..., tokenize=True)`` (a test holds this); for text that contains ``<|im_end|>`` and
the like, those characters stay characters.

"Special" is every token that gives a chat its structure: those that the tokenizer calls special, and added tokens that
the chat template puts around turns without their being marked as special (``<｜User｜>`` of DeepSeek).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfjudge.errors import ModelError
from selfjudge.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TEMPLATES = Path(__file__).parent / "chat"
# Marks where a special string stood in a user's text while the chat template renders. A private-use character; its
# own occurrences in the text are marked too, so that unmarking is exact.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MASKED = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
# How many texts the tokenizer gets in one call: for each of them it holds far more than ids until the call is over.
_AT_ONCE = 2048

_Rendered = tuple[str, list[str]]
"""What a chat template made of messages, and the strings whose places are marked in it."""

# Turns whose texts occur nowhere else, to see what a chat template puts around them.
_PROBE = tuple(
    Message(role=role, content=f"Probe{i}")
    for i, role in enumerate(("system", "user", "assistant", "user", "assistant", "user"))
)


def _is_marker(text: str) -> bool:
    """Whether it is more than a word and more than white space or punctuation: ``### User:``, not ``user``."""
    return any(map(str.isalnum, text)) and not all(c.isalnum() or c.isspace() for c in text)


@dataclass(frozen=True)
class TokenizedDialogue:
    """A dialogue as ids; ``is_target[i]`` says whether token i belongs to an assistant turn (its end included)."""

    ids: tuple[int, ...]
    is_target: tuple[bool, ...]


@dataclass(frozen=True)
class TurnMarkers:
    """What a chat template writes around turns in plain text, such as ``### User:`` or ``[/INST]``.

    ``lines`` stand on lines of their own, ``inline`` ones beside a turn's text. Empty where special tokens mark turns.
    """

    lines: tuple[str, ...]
    inline: tuple[str, ...]


class ChatEncoder:
    """Encodes dialogues for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises ModelError for a tokenizer without chat template or end-of-sequence token."""
        if not tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no chat template: set model.chat_template to 'plain' "
                "or to a Jinja file (for `judge` and `sample`: --chat-template)."
            )
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token: set eos_token."
            )
        self.tokenizer = tokenizer
        self._system_role = self._accepts_system()
        self._specials = self._structure()
        # A text may well hold what the tokenizer does not know.
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
        self._structural_ids = frozenset(self._specials.values()) - unknown
        alternatives = "|".join(re.escape(t) for t in sorted(self._specials, key=len, reverse=True))
        self._special = re.compile(f"({alternatives})")
        self._to_mask = re.compile(f"{alternatives}|{_OPEN}")
        self.stop_ids = self._stop_ids()
        self.markers = self._turn_markers()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a prompt that an assistant turn follows."""
        return self.prefixed_ids(messages, "")

    def prefixed_ids(self, messages: Sequence[Message], prefix: str) -> list[int]:
        """Returns the ids of a prompt whose assistant turn already begins with the plain text ``prefix``."""
        (ids,) = self.all_prefixed_ids([(messages, prefix)])
        return ids

    def all_prefixed_ids(self, prompts: Iterable[tuple[Sequence[Message], str]]) -> list[list[int]]:
        """Returns :meth:`prefixed_ids` of many prompts, which are tokenised together.

        Args:
            prompts: the messages and the prefix of each.
        """
        rendered = [(*self._render(messages, generation_prompt=True), prefix) for messages, prefix in prompts]
        return self._ids([(text + prefix, masked) for text, masked, prefix in rendered])

    def text_ids(self, text: str) -> list[int]:
        """Returns the ids of plain text: nothing added, nothing in it read as a special token."""
        (ids,) = self._all_text_ids([text])
        return ids

    def dialogue(self, messages: Sequence[Message]) -> TokenizedDialogue:
        """Returns a whole dialogue with its assistant turns marked as targets.

        Each turn is tokenised from where generation would have started, so the ids before a response are the very ids
        the model sees when it answers; the turn's end token is a target, what the template adds after it is not.

        Raises:
            ModelError: if the chat template rewrites earlier turns, so that a prompt is no prefix of the dialogue.
        """
        parts: list[_Rendered] = []  # what stands before a turn, the turn and what follows it, one after another
        ends: list[list[int]] = []
        done = ""
        turns = [i for i, m in enumerate(messages) if m.role == "assistant"]
        for i in turns:
            before, masked_before = self._render(messages[:i], generation_prompt=True)
            after, masked_after = self._render(messages[: i + 1], generation_prompt=False)
            if not before.startswith(done) or not after.startswith(before):
                raise ModelError(
                    f"The chat template of {self.tokenizer.name_or_path!r} rewrites earlier turns, so prompts are not "
                    "prefixes of dialogues: set model.chat_template to one that does not."
                )
            turn, end, rest = self._assistant_turn(after[len(before) :], last=i == turns[-1])
            parts += [(before[len(done) :], masked_before), (turn, masked_after), (rest, masked_after)]
            ends.append(end)
            done = after
        found = self._ids(parts)
        ids: list[int] = []
        is_target: list[bool] = []
        for prompt, turn_ids, end, rest_ids in zip(found[::3], found[1::3], ends, found[2::3], strict=True):
            ids += [*prompt, *turn_ids, *end, *rest_ids]
            is_target += [False] * len(prompt) + [True] * len(turn_ids + end) + [False] * len(rest_ids)
        return TokenizedDialogue(ids=tuple(ids), is_target=tuple(is_target))

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of sampled ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _assistant_turn(self, text: str, *, last: bool) -> tuple[str, list[int], str]:
        """Splits a rendered turn into the response, the id of its end token, and what the template adds after it."""
        content, *tail = self._special.split(text, maxsplit=1)
        if not tail:
            return content.rstrip(), [self._eos] if last else [], ""
        return content, [self._specials[tail[0]]], "" if last else tail[1]

    @property
    def _eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool) -> _Rendered:
        masked: list[str] = []

        def mask(match: re.Match[str]) -> str:
            masked.append(match.group(0))
            return f"{_OPEN}{len(masked) - 1}{_CLOSE}"

        chat = [{"role": m.role, "content": self._to_mask.sub(mask, m.content)} for m in self._roles(messages)]
        try:
            rendered = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation_prompt)
        except Exception as e:  # whatever a template raises, or the sandbox that it runs in
            raise ModelError(
                f"The chat template of {self.tokenizer.name_or_path!r} fails ({' '.join(str(e).split())[:200]}): set "
                "model.chat_template to one that does not."
            ) from e
        return str(rendered), masked

    def _ids(self, rendered: Iterable[_Rendered]) -> list[list[int]]:
        rows = [self._pieces(*each) for each in rendered]
        texts = list(dict.fromkeys(text for row in rows for text in row[::2] if text))
        known = {"": [], **dict(zip(texts, self._all_text_ids(texts), strict=True))}
        found: list[list[int]] = []
        for row in rows:
            ids = [*known[row[0]]]
            for special, text in zip(row[1::2], row[2::2], strict=True):
                ids.append(self._specials[special])
                ids += known[text]
            found.append(ids)
        return found

    def _pieces(self, rendered: str, masked: list[str]) -> list[str]:
        """Returns plain text, special token, plain text and so on; texts may be empty."""
        pieces = self._special.split(rendered)
        if masked:
            pieces[::2] = [_MASKED.sub(lambda m: masked[int(m.group(1))], text) for text in pieces[::2]]
        return pieces

    def _all_text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns :meth:`text_ids` of each text. The tokenizer gets them together, to encode them in parallel."""
        found: list[list[int]] = []
        for start in range(0, len(texts), _AT_ONCE):
            found += self.tokenizer(
                list(texts[start : start + _AT_ONCE]),
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
        return [self._spelt(text, ids) for text, ids in zip(texts, found, strict=True)]

    def _spelt(self, text: str, ids: list[int]) -> list[int]:
        """Returns the ids of a text, of which ``ids`` are those that the tokenizer found, without any structural id."""
        if len(text) < 2 or self._structural_ids.isdisjoint(ids):
            return ids
        # A unigram model knows `</s>` as a piece of text, and added tokens not marked as special are found in any
        # text. Cut in two until the cut goes through it, such a string is spelt.
        half = len(text) // 2
        first, second = self._all_text_ids([text[:half], text[half:]])
        return first + second

    def _roles(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Moves a system text into the first user turn for chat templates that know no system role."""
        if self._system_role or not messages or messages[0].role != "system":
            return messages
        system, first, *rest = messages
        return [Message(role=first.role, content=f"{system.content}\n\n{first.content}"), *rest]

    def _accepts_system(self) -> bool:
        text = "What the system says."
        probe = [{"role": "system", "content": text}, {"role": "user", "content": "u"}]
        try:
            # Some templates refuse a system text, others leave it out.
            return text in str(self.tokenizer.apply_chat_template(probe, tokenize=False))
        except Exception:  # Chat templates raise whatever they like; Jinja's TemplateError among others.
            return False

    def _structure(self) -> dict[str, int]:
        """Returns the tokens that give chats their structure, by their text."""
        tokenizer = self.tokenizer
        specials = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        # Llama 3's headers, for one, are special tokens that have none of the names in `all_special_tokens`.
        added = {token.content: (i, token.special) for i, token in tokenizer.added_tokens_decoder.items()}
        around_turns = self._probe(_PROBE)
        for text, (i, special) in added.items():
            if text and (special or (text in around_turns and _is_marker(text))):
                specials[text] = i
        return specials

    def _turn_markers(self) -> TurnMarkers:
        """Returns what a response could write to look like the end of its turn."""
        rendered = self._probe(_PROBE, generation_prompt=True)
        lines: dict[str, None] = {}
        inline: dict[str, None] = {}
        # What stands before the first turn is the template's own preamble.
        for border in re.split("|".join(m.content for m in _PROBE), rendered)[1:]:
            for text in self._special.split(border)[::2]:
                rows = text.split("\n")
                for i, row in enumerate(map(str.strip, rows)):
                    if _is_marker(row):
                        (lines if 0 < i < len(rows) - 1 else inline)[row] = None
        return TurnMarkers(tuple(lines), tuple(inline))

    def _probe(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """Returns a dialogue as the chat template renders it, or nothing where it refuses such a one."""
        chat = [{"role": m.role, "content": m.content} for m in self._roles(messages)]
        try:
            return str(
                self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation_prompt)
            )
        except Exception:  # as in _accepts_system
            return ""

    def _stop_ids(self) -> tuple[int, ...]:
        """Returns the ids that end an assistant turn: end of sequence, and the turn's own end where it differs."""
        probe = self.dialogue([Message(role="user", content="u"), Message(role="assistant", content="a")])
        return tuple(dict.fromkeys((self._eos, probe.ids[-1])))


def chat_template_text(name_or_path: str) -> str:
    """Returns a chat template: one shipped here by name, or a Jinja file.

    Raises:
        ModelError: if it is neither.
    """
    shipped = {path.stem: path for path in sorted(CHAT_TEMPLATES.glob("*.jinja"))}
    path = shipped.get(name_or_path, Path(name_or_path))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:  # ValueError: not UTF-8, or a path with a null byte
        raise ModelError(
            f"There is no chat template {name_or_path!r}: use one of {', '.join(shipped)}, or the path of a Jinja file."
        ) from e
