"""From messages to token ids, with the special tokens of the chat template and never those of a user's text.

Rendering is the tokenizer's own chat template. The rendered string is cut at the special tokens the template put
there; the plain text between them is tokenised with special-token parsing off. For ordinary text the result equals
``tokenizer.apply_chat_template(..., tokenize=True)`` (a test holds this); for text that contains ``<|im_end|>`` and
the like, those characters stay characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
# Longer pieces are hardly ever the same twice.
_KEPT_CHARACTERS = 2000


@dataclass(frozen=True)
class TokenizedDialogue:
    """A dialogue as ids; ``is_target[i]`` says whether token i belongs to an assistant turn (its end included)."""

    ids: tuple[int, ...]
    is_target: tuple[bool, ...]


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
        self._specials = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        alternatives = "|".join(re.escape(t) for t in sorted(self._specials, key=len, reverse=True))
        self._special = re.compile(f"({alternatives})")
        self._to_mask = re.compile(f"{alternatives}|{_OPEN}")
        # Most pieces of a judgment prompt are the template's own: role names, the system text, what leads to the label.
        self._kept_ids = lru_cache(maxsize=256)(lambda text: tuple(self.text_ids(text)))
        self._system_role = self._accepts_system()
        self.stop_ids = self._stop_ids()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a prompt that an assistant turn follows."""
        return self.prefixed_ids(messages, "")

    def prefixed_ids(self, messages: Sequence[Message], prefix: str) -> list[int]:
        """Returns the ids of a prompt whose assistant turn already begins with the plain text ``prefix``."""
        rendered, masked = self._render(messages, generation_prompt=True)
        return self._ids(rendered + prefix, masked)

    def text_ids(self, text: str) -> list[int]:
        """Returns the ids of plain text: nothing added, nothing in it read as a special token."""
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(ids)

    def dialogue(self, messages: Sequence[Message]) -> TokenizedDialogue:
        """Returns a whole dialogue with its assistant turns marked as targets.

        Each turn is tokenised from where generation would have started, so the ids before a response are the very ids
        the model sees when it answers; the turn's end token is a target, what the template adds after it is not.

        Raises:
            ModelError: if the chat template rewrites earlier turns, so that a prompt is no prefix of the dialogue.
        """
        ids: list[int] = []
        is_target: list[bool] = []
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
            prompt = self._ids(before[len(done) :], masked_before)
            turn, rest = self._assistant_turn(after[len(before) :], masked_after, last=i == turns[-1])
            ids += [*prompt, *turn, *rest]
            is_target += [False] * len(prompt) + [True] * len(turn) + [False] * len(rest)
            done = after
        return TokenizedDialogue(ids=tuple(ids), is_target=tuple(is_target))

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of sampled ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _assistant_turn(self, text: str, masked: list[str], *, last: bool) -> tuple[list[int], list[int]]:
        """Splits a rendered turn into the response with its end token, and what the template adds after it."""
        content, *tail = self._special.split(text, maxsplit=1)
        response = self._ids(content if tail else content.rstrip(), masked)
        if not tail:
            return ([*response, self._eos] if last else response), []
        return [*response, self._specials[tail[0]]], ([] if last else self._ids(tail[1], masked))

    @property
    def _eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool) -> tuple[str, list[str]]:
        masked: list[str] = []

        def mask(match: re.Match[str]) -> str:
            masked.append(match.group(0))
            return f"{_OPEN}{len(masked) - 1}{_CLOSE}"

        chat = [{"role": m.role, "content": self._to_mask.sub(mask, m.content)} for m in self._roles(messages)]
        rendered = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation_prompt)
        return str(rendered), masked

    def _ids(self, rendered: str, masked: list[str]) -> list[int]:
        ids: list[int] = []
        for i, piece in enumerate(self._special.split(rendered)):
            if i % 2:
                ids.append(self._specials[piece])
            elif piece:
                text = _MASKED.sub(lambda m: masked[int(m.group(1))], piece) if masked else piece
                ids += self._kept_ids(text) if len(text) <= _KEPT_CHARACTERS else self.text_ids(text)
        return ids

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

    def _stop_ids(self) -> tuple[int, ...]:
        """Returns the ids that end an assistant turn: end of sequence, and the turn's own end where it differs."""
        probe = self.dialogue([Message(role="user", content="u"), Message(role="assistant", content="a")])
        return tuple(dict.fromkeys((self._eos, probe.ids[-1])))


def chat_template_text(name_or_path: str) -> str:
    """Returns a chat template: one shipped here by name, or a Jinja file.

    Raises:
        ModelError: if it is neither.
    """
    shipped = CHAT_TEMPLATES / f"{name_or_path}.jinja"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in CHAT_TEMPLATES.glob("*.jinja")))
        raise ModelError(
            f"There is no chat template {name_or_path!r}: use one of {names}, or the path of a Jinja file."
        )
    return path.read_text(encoding="utf-8")
