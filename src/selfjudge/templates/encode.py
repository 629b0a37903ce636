"""The one place that turns a pair into the token ids of a judgment prompt.

Training, self-training, the tournament, evaluation and serving all come through :class:`JudgmentEncoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from selfjudge.errors import RowError, TemplateError
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.refused import or_raise
from selfjudge.templates.template import (
    JudgmentTemplate,
    TemplateSet,
    context_text,
    heading_lines,
    heading_words,
    quote_headings,
)

Label = Literal["A", "B"]
Pair = tuple[tuple[Message, ...], str, str]
"""A prompt and two responses to it."""


@dataclass(frozen=True)
class JudgmentPrompt:
    """A judgment prompt up to the label position, and the ids of the labels ``A`` and ``B`` in that context."""

    token_ids: tuple[int, ...]
    label_ids: tuple[int, int]


class PrincipleEncoder:
    """Encodes judgment prompts of one principle, with its labels proven to be single tokens in context."""

    def __init__(self, template: JudgmentTemplate, chat: ChatEncoder) -> None:
        """Raises TemplateError if the labels are not single tokens after the template's prefix."""
        self.template = template
        self._chat = chat
        self._turn_lines = heading_lines({heading_words(line) for line in chat.markers.lines})
        self.label_ids = self._prove_labels()

    def prompt(self, prompt: tuple[Message, ...], first: str, second: str) -> JudgmentPrompt:
        """Returns the prompt that shows response ``first`` as A and ``second`` as B.

        The ids are those of prefix and label tokenised together, less the label: the model is asked exactly where
        training put the label. Every prompt checks that its last token is the label.

        Raises:
            TemplateError: if the label merges with the text before it.
        """
        return self.less_label(self._labelled(prompt, first, second, "A"))

    def filler(self) -> Callable[[tuple[Message, ...], str, str], tuple[Message, ...]]:
        """Returns what makes the messages of prompt, first and second response.

        It remembers every text that it has made ready for the template, so a use of it should end with the texts.
        """
        quoted, within = self.template.quoted, self._within_turn
        response = cache(lambda text: quoted(within(text)))
        context = cache(lambda turns: quoted(context_text(tuple(map(self._turn, turns)))))
        return lambda prompt, first, second: self.template.filled(context(prompt), response(first), response(second))

    def less_label(self, ids: Sequence[int]) -> JudgmentPrompt:
        """Returns the judgment prompt of the ids of prefix and label A tokenised together.

        Raises:
            TemplateError: if the label merges with the text before it.
        """
        if ids[-1] != self.label_ids[0]:
            raise TemplateError(self._complaint())
        return JudgmentPrompt(token_ids=tuple(ids[:-1]), label_ids=self.label_ids)

    def rationale_ids(self, rationale_a: str, rationale_b: str) -> list[int]:
        """Returns the ids that follow the label when a rationale is trained, the end of the turn included."""
        text = self.template.rationale_text(rationale_a, rationale_b)
        return self._chat.answer_end_ids(text)

    def _labelled(self, prompt: tuple[Message, ...], first: str, second: str, label: Label) -> list[int]:
        return self._chat.prefixed_ids(self.filler()(prompt, first, second), self.template.prefix + label)

    def _turn(self, message: Message) -> Message:
        return Message(role=message.role, content=self._within_turn(message.content))

    def _within_turn(self, text: str) -> str:
        """Returns the text without anything that the chat template itself writes, as text, to end or begin a turn."""
        text = quote_headings(text, self._turn_lines)
        for marker in self._chat.markers.inline:
            text = text.replace(marker, f"{marker[0]} {marker[1:]}")
        return text

    def _prove_labels(self) -> tuple[int, int]:
        probe = (Message(role="user", content="x"),)
        a, b = (self._labelled(probe, "y", "z", label) for label in ("A", "B"))
        if len(a) != len(b) or a[:-1] != b[:-1] or a[-1] == b[-1]:
            raise TemplateError(self._complaint())
        return a[-1], b[-1]

    def _complaint(self) -> str:
        return (
            f"The labels A and B are not single tokens after {self.template.prefix!r} (principle "
            f"{self.template.principle!r}) for the tokenizer of {self._chat.tokenizer.name_or_path!r}: "
            "change the text before {label} in the template's [assistant] section, for example end it with a space."
        )


class JudgmentEncoder:
    """Encodes pairs under every principle of a template set."""

    def __init__(self, templates: TemplateSet, chat: ChatEncoder) -> None:
        """Raises TemplateError as :class:`PrincipleEncoder` does."""
        self.templates = templates
        self.principles = {t.principle: PrincipleEncoder(t, chat) for t in templates.templates}
        self._chat = chat

    def prompts(self, pairs: Sequence[Pair]) -> list[JudgmentPrompt]:
        """Returns the judgment prompts of pairs, tokenised together: pair by pair, under each principle, both orders.

        They are those of :meth:`PrincipleEncoder.prompt`, first with the pair's responses in their order, then with
        the second shown first. There are 2 x principles for each pair.

        Raises:
            TemplateError: as :meth:`PrincipleEncoder.prompt` does.
        """
        asked = [
            (principle, prompt, *shown)
            for prompt, a, b in pairs
            for principle in self.principles
            for shown in ((a, b), (b, a))
        ]
        return or_raise(self.try_prompts(asked))

    def try_prompts(
        self, asked: Sequence[tuple[str, tuple[Message, ...], str, str]]
    ) -> list[JudgmentPrompt | RowError]:
        """Returns judgment prompts, tokenised together, with an error in the place of each that is refused.

        Args:
            asked: principle, prompt, first and second response of each.

        Raises:
            TemplateError: as :meth:`PrincipleEncoder.prompt` does.
        """
        fillers = {name: encoder.filler() for name, encoder in self.principles.items()}
        texts = (
            (fillers[name](prompt, first, second), self.principles[name].template.prefix + "A")
            for name, prompt, first, second in asked
        )
        return [
            ids if isinstance(ids, RowError) else self.principles[name].less_label(ids)
            for (name, *_), ids in zip(asked, self._chat.try_prefixed_ids(texts), strict=True)
        ]
