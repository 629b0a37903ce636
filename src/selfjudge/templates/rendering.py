"""Messages to text by the tokenizer's own chat template, with the date fixed and user text shielded.

A user's text may hold what the template uses for structure (``<|im_end|>``). Such strings get a cut mark inside, so
that no piece of text between two marks holds one; :mod:`selfjudge.templates.chat` tokenizes these pieces one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from selfjudge.errors import ModelError, RowError
from selfjudge.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters. The first that no message holds marks the cuts of a rendering.
_MARKS = [chr(code) for code in range(0xE000, 0xE400)]
_CLOCK = re.compile(r"\bstrftime_now\s*\(")
_CLOCK_AT = re.compile(r"\bstrftime_now\s*\(\s*(['\"])(.*?)\1\s*\)")
_FORMAT = re.compile(r"(['\"])([^'\"\n]*%[a-zA-Z][^'\"\n]*)\1")
_SYSTEM = "What the system says."


class ChatTemplate:
    """One tokenizer's chat template as of one day."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, today: date) -> None:
        """Takes a tokenizer that has a chat template. ``today`` is the date that the template writes."""
        self._tokenizer = tokenizer
        self.name, self.date = str(tokenizer.name_or_path), today
        self.source = str(tokenizer.get_chat_template())
        self.moves = "strftime_now" in self.source
        self.dated_source = _fixed(self.source, today) if self.moves else self.source
        self._knows_system = self._accepts_system()

    def render(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        switch: Mapping[str, Any],
        edit: Callable[[str], str] = str,
    ) -> str:
        """Returns the rendered text of a dialogue.

        Args:
            messages: a dialogue.
            generation_prompt: end with what an answer follows.
            switch: the template's own variables, such as ``enable_thinking``.
            edit: applied to each message's text first.

        Raises:
            RowError: if the template refuses these messages.
        """
        chat = [{"role": m.role, "content": edit(m.content)} for m in self._roles(messages)]
        return self.raw(chat, generation_prompt=generation_prompt, switch=switch)

    def raw(
        self, chat: Sequence[Mapping[str, str]], *, generation_prompt: bool, switch: Mapping[str, Any] | None = None
    ) -> str:
        """Returns the rendered text of messages as the template takes them. Raises RowError where it refuses them."""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(message) for message in chat],
                    chat_template=self.dated_source,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                    **(switch or {}),
                )
            )
        except Exception as e:  # whatever a template raises, or the sandbox that it runs in
            raise RowError(f"the chat template of {self.name!r} refuses it: {' '.join(str(e).split())[:200]}") from e

    def _roles(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Moves a system text into the first user turn for chat templates that know no system role.

        Where none follows, it is a user turn of its own.
        """
        if self._knows_system or not messages or messages[0].role != "system":
            return messages
        system, *rest = messages
        if not rest or rest[0].role != "user":
            return [Message(role="user", content=system.content), *rest]
        return [Message(role="user", content=f"{system.content}\n\n{rest[0].content}"), *rest[1:]]

    def _accepts_system(self) -> bool:
        probe = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "u"}]
        try:
            # Some templates refuse a system text, others leave it out.
            return _SYSTEM in self.raw(probe, generation_prompt=False)
        except RowError:
            return False


def _fixed(source: str, today: date) -> str:
    """Returns a chat template that writes ``today`` wherever it would ask the clock."""
    source = _CLOCK_AT.sub(lambda m: repr(today.strftime(m.group(2))), source)
    if not _CLOCK.search(source):
        return source
    # The format is in a variable: it is one of those that the template names.
    known = {found: today.strftime(found) for _, found in _FORMAT.findall(source)}
    macro = f"{{%- macro date_of(format) %}}{{{{- ({known!r}).get(format) or strftime_now(format) }}}}{{%- endmacro %}}"
    return macro + _CLOCK.sub("date_of(", source)


def unused_mark(texts: Iterable[str]) -> str:
    """Returns a private-use character that none of the texts holds.

    Raises:
        RowError: if they hold all of them.
    """
    found = tuple(texts)
    mark = next((c for c in _MARKS if not any(c in text for text in found)), None)
    if mark is None:
        raise RowError("its text holds every private-use character from U+E000 to U+E3FF")
    return mark


def cut(text: str, structure: re.Pattern[str], mark: str) -> str:
    """Returns the text with a mark inside each string of ``structure``, so that none of them stays whole.

    A single character cannot be cut: it gets two marks before it and one behind it.
    """
    pieces: list[str] = []
    start = 0
    match = structure.search(text)
    while match:
        # The search goes on from the cut: what follows it may be the beginning of another one.
        middle = match.start() + len(match.group()) // 2
        if len(match.group()) == 1:
            pieces += [text[start:middle], mark, mark, match.group(), mark]
            middle = match.end()
        else:
            pieces += [text[start:middle], mark]
        start = middle
        match = structure.search(text, start)
    return "".join([*pieces, text[start:]])


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelError for a tokenizer without chat template or end-of-sequence token."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no chat template: give one by "
            "--set model.chat_template=FILE.jinja, or =plain for the one that comes with this package (`judge`, "
            "`sample`, `serve` and `eval`: --chat-template)."
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path!r} has chat templates for {', '.join(tokenizer.chat_template)}, "
            "and none of them is its default: give one by --set model.chat_template=FILE.jinja."
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"The tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token: set eos_token.")
