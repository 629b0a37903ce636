"""From messages to token ids and back, with the special tokens of the chat template and never those of a user's text.

Rendering is the tokenizer's own chat template, and ids are the tokenizer's own of the rendered text: for ordinary text
they equal ``tokenizer.apply_chat_template(..., tokenize=True)`` (a test holds this). For text that contains
``<|im_end|>`` and the like, those characters stay characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from selfjudge.errors import DataError, ModelError, RowError
from selfjudge.records import Message
from selfjudge.templates.dialogue import TokenizedDialogue, Turn, merged
from selfjudge.templates.reading import Reading, SampleReader
from selfjudge.templates.refused import or_error, or_raise
from selfjudge.templates.rendering import ChatTemplate, check_template
from selfjudge.templates.thinking import Thinking, switches, thought_marks
from selfjudge.templates.tokens import StructuredTokenizer, structure
from selfjudge.templates.turn_form import find_form
from selfjudge.templates.turn_markers import turn_markers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Turns whose texts occur nowhere else, to see what a chat template puts around them.
_PROBE = tuple(
    Message(role=role, content=f"Probe{i}")
    for i, role in enumerate(("system", "user", "assistant", "user", "assistant", "user"))
)


class ChatEncoder:
    """Encodes dialogues for one tokenizer, and reads its samples."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        thinking: Thinking = "off",
        eos_ids: Sequence[int] = (),
        today: date | None = None,
    ) -> None:
        """Finds out what the chat template writes around turns.

        Args:
            tokenizer: with a chat template and an end-of-sequence token.
            thinking: whether the policy thinks before it answers. Judgments and training rows never do.
            eos_ids: what ends a sample besides, as in the model's generation config.
            today: the date that the chat template writes where it asks for one; by default that of today.

        Raises:
            ModelError: if the chat template is missing, cannot render a question and its answer, or cannot think.
        """
        check_template(tokenizer)
        self.tokenizer = tokenizer
        self.thinking = thinking
        self.template = ChatTemplate(tokenizer, today or date.today())
        self.switches = switches(self.template)
        self.thought_marks = thought_marks(self.template, self.switches)
        if thinking == "on" and self.thought_marks is None:
            raise ModelError(
                f"The chat template of {self.template.name!r} knows no thoughts: set model.thinking to off "
                "(on the command line: --thinking off)."
            )
        marks = self.thought_marks
        around_turns = [self._probe(switch) + self._probe(switch, answered=True) for switch in self.switches.values()]
        around_turns += [marks.open, marks.close] if marks else []
        specials = structure(tokenizer, "".join(around_turns))
        self.tokens = StructuredTokenizer(tokenizer, specials, self.template.source)
        pattern = self.tokens.pattern
        stops = [text for text, i in self.tokens.specials.items() if i in (self._eos, *eos_ids)]
        self.form = find_form(self.template, self.switches["off"], marks, pattern, stops, tokenizer.bos_token)
        self.end_ids = tuple(self.tokens.continued(self.form.end)) if self.form.end else (self._eos,)
        self.stops = self._find_stops(eos_ids)
        self.stop_ids = tuple(self.stops)
        thinks = self._prompt(_PROBE[1:2], self.tokens.mark(()), "on").rpartition(_PROBE[1].content)[2]
        self._reader = SampleReader(self.tokens, self.form, marks, thinks, self.end_ids, self.stop_ids)
        # What stands before the first turn is the template's own preamble.
        around = re.split("|".join(m.content for m in _PROBE), self._probe(self.switches["off"]))[1:]
        self.markers = turn_markers(around, pattern)

    @property
    def switch(self) -> dict[str, Any]:
        """The chat template's own variables with which the policy thinks, or does not."""
        return self.switches[self.thinking]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a prompt that an answer of the policy follows, or its thought.

        Raises:
            RowError: if the chat template refuses the messages.
        """
        return or_raise(self.try_prompt_ids([messages]))[0]

    def named_prompt_ids(self, prompts: Iterable[tuple[str, Sequence[Message]]]) -> list[list[int]]:
        """Returns :meth:`prompt_ids` of many prompts.

        Args:
            prompts: the id and the messages of each.

        Raises:
            DataError: if the chat template refuses one; it is named.
        """
        found = []
        for name, messages in prompts:
            try:
                found.append(self.prompt_ids(messages))
            except RowError as e:
                raise DataError(f"Prompt {name!r}: {e}: remove it, or set another --chat-template.") from e
        return found

    def prefixed_ids(self, messages: Sequence[Message], prefix: str) -> list[int]:
        """Returns the ids of a prompt whose answer already begins with the plain text ``prefix``, without a thought.

        Raises:
            RowError: if the chat template refuses the messages.
        """
        (ids,) = self.all_prefixed_ids([(messages, prefix)])
        return ids

    def all_prefixed_ids(self, prompts: Iterable[tuple[Sequence[Message], str]]) -> list[list[int]]:
        """Returns :meth:`prefixed_ids` of many prompts, which are tokenized together.

        Args:
            prompts: the messages and the prefix of each.

        Raises:
            RowError: if the chat template refuses the messages of one.
        """
        return or_raise(self.try_prefixed_ids(prompts))

    def try_prefixed_ids(self, prompts: Iterable[tuple[Sequence[Message], str]]) -> list[list[int] | RowError]:
        """Returns :meth:`all_prefixed_ids`, with its error in the place of each prompt that is refused."""
        return self._all_ids(
            [(messages, self.form.space + prefix if prefix else "", "off") for messages, prefix in prompts]
        )

    def try_prompt_ids(self, prompts: Iterable[Sequence[Message]]) -> list[list[int] | RowError]:
        """Returns :meth:`prompt_ids` of many, tokenized together, with its error in the place of each refused one."""
        return self._all_ids([(messages, "", self.thinking) for messages in prompts])

    def text_ids(self, text: str) -> list[int]:
        """Returns the ids of plain text: nothing added, nothing in it read as a special token."""
        return self.tokens.text_ids(text)

    def answer_end_ids(self, text: str) -> list[int]:
        """Returns the ids of the rest of an answer, and of what ends its turn."""
        mark = self.tokens.mark([text])
        rest = self.tokens.continued(self.tokens.shielded(text, mark), mark)
        return [*rest, *self.end_ids]

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Returns each assistant turn of a dialogue as it would be generated, without a thought.

        Its prompt is what the chat template makes of the messages before it. Its answer is tokenized behind that
        prompt, as the chat template would write it. What the assistant says before all else answers no prompt: it is
        no turn.

        Raises:
            RowError: if the chat template refuses the messages.
        """
        return or_raise(self.all_turns([messages]))[0]

    def all_turns(self, dialogues: Iterable[Sequence[Message]]) -> list[list[Turn] | RowError]:
        """Returns :meth:`turns` of many dialogues, which are tokenized together; its error for one that is refused."""
        rendered = [or_error(partial(self._rendered_turns, messages)) for messages in dialogues]
        texts = [text for turns in rendered if not isinstance(turns, RowError) for text in turns]
        prompts = [(prompt, mark) for prompt, _, mark in texts]
        ids = self.tokens.encode([*prompts, *((prompt + answer, mark) for prompt, answer, mark in texts)])
        pairs = [*zip(ids, ids[len(texts) :], strict=False)]
        # Where the answer's first token takes a character of the prompt, it is tokenized apart.
        apart = [i for i, (prompt, whole) in enumerate(pairs) if whole[: len(prompt)] != prompt]
        alone = dict(zip(apart, self.tokens.all_continued([texts[i][1:] for i in apart]), strict=True))
        ends = [] if self.form.end else [self._eos]
        made = (
            Turn(prompt, [*(alone[i] if i in alone else whole[len(prompt) :]), *ends])
            for i, (prompt, whole) in enumerate(pairs)
        )
        return [turns if isinstance(turns, RowError) else [next(made) for _ in turns] for turns in rendered]

    def _rendered_turns(self, messages: Sequence[Message]) -> list[tuple[str, str, str]]:
        """Returns prompt, answer and the mark of their cuts for each assistant turn."""
        mark = self.tokens.mark(message.content for message in messages)
        asked = [i for i, message in enumerate(messages) if message.role == "assistant" and i]
        prompts = [(i, self._prompt(messages[:i], mark, "off")) for i in asked]
        return [
            (prompt, self.form.answer(self.tokens.shielded(messages[i].content, mark)), mark)
            for i, prompt in prompts
            if prompt
        ]

    def dialogues(self, messages: Sequence[Message]) -> list[TokenizedDialogue]:
        """Returns a whole dialogue with its assistant turns marked as targets, in as few rows as can be.

        A turn goes on with the row of the turn before it where its prompt begins with that row. Where the chat template
        rewrites earlier turns (most thinking models drop their thoughts) it is a row of its own.

        Raises:
            RowError: if the chat template refuses the messages.
        """
        return or_raise(self.all_dialogues([messages]))[0]

    def all_dialogues(self, dialogues: Iterable[Sequence[Message]]) -> list[list[TokenizedDialogue] | RowError]:
        """Returns :meth:`dialogues` of many, which are tokenized together; its error for one that is refused."""
        return [turns if isinstance(turns, RowError) else merged(turns) for turns in self.all_turns(dialogues)]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def read(self, ids: Sequence[int], prompt: Sequence[int]) -> Reading:
        """Returns what a sample of the policy says: the answer without what ends it, and the thought before it.

        Args:
            ids: as sampled.
            prompt: the ids before it, which may leave a thought open.
        """
        return self._reader.read(ids, prompt)

    def read_text(self, text: str, prompt: Sequence[int]) -> Reading:
        """Returns :meth:`read` of a sample that is known as text alone."""
        return self._reader.read_text(text, prompt)

    @property
    def _eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def _prompt(self, messages: Sequence[Message], mark: str, thinking: Thinking) -> str:
        """Returns the text that an answer follows, or a thought. Raises RowError where the template refuses it."""
        edit = partial(self.tokens.shielded, mark=mark)
        switch = self.switches[thinking]
        text = self.template.render(messages, generation_prompt=True, switch=switch, edit=edit)
        return text + self.form.lead if thinking == "off" else text

    def _all_ids(self, prompts: Iterable[tuple[Sequence[Message], str, Thinking]]) -> list[list[int] | RowError]:
        def text(messages: Sequence[Message], prefix: str, thinking: Thinking) -> tuple[str, str]:
            mark = self.tokens.mark(message.content for message in messages)
            return self._prompt(messages, mark, thinking) + prefix, mark

        texts = [or_error(partial(text, *asked)) for asked in prompts]
        ids = iter(self.tokens.encode([each for each in texts if not isinstance(each, RowError)]))
        return [each if isinstance(each, RowError) else next(ids) for each in texts]

    def _probe(self, switch: Mapping[str, Any], *, answered: bool = False) -> str:
        """Returns a dialogue as the chat template renders it: as long a one as it takes.

        It ends with what an answer follows, or, ``answered``, with an answer.
        """
        dialogues = (_PROBE[:5], _PROBE[1:3]) if answered else (_PROBE, _PROBE[1:4], _PROBE[1:2])
        for messages in dialogues:
            try:
                return self.template.render(messages, generation_prompt=not answered, switch=switch)
            except RowError:
                continue
        return ""

    def _find_stops(self, eos_ids: Sequence[int]) -> dict[int, str]:
        """Returns the ids that end a sample, and where each comes from."""
        sources: dict[int, list[str]] = {}
        for i, source in (
            (self._eos, "the tokenizer's end token"),
            (self.end_ids[-1], "what follows an answer in the chat template"),
            *((i, "generation_config.eos_token_id") for i in eos_ids),
        ):
            sources.setdefault(i, []).append(source)
        return {i: ", ".join(found) for i, found in sources.items()}
