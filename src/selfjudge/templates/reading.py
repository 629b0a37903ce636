"""What a sample of the policy says: its answer, and the thought before it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from selfjudge.templates.rendering import cut, unused_mark
from selfjudge.templates.thinking import ThoughtMarks
from selfjudge.templates.tokens import StructuredTokenizer
from selfjudge.templates.turn_form import TurnForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reading:
    """What a sample says. ``reasoning``: its thought, if any. ``complete`` is False where the thought never ends."""

    text: str
    reasoning: str | None = None
    complete: bool = True


class SampleReader:
    """Reads the samples of one policy."""

    def __init__(
        self,
        tokens: StructuredTokenizer,
        form: TurnForm,
        marks: ThoughtMarks | None,
        thinks: str,
        end_ids: Sequence[int],
        stop_ids: Sequence[int],
    ) -> None:
        """Takes what stands around answers.

        Args:
            tokens: of the model.
            form: what its chat template writes around an answer.
            marks: what stands around a thought.
            thinks: what follows a question in the prompt of a policy that thinks.
            end_ids: what follows an answer.
            stop_ids: the ids that end a sample.
        """
        self._tokenizer: PreTrainedTokenizerBase = tokens.tokenizer
        self._pattern = tokens.pattern
        self._structure = {i: text for text, i in tokens.specials.items() if i in tokens.structural_ids}
        self._form, self._marks = form, marks
        self._end_ids, self._stop_ids = tuple(end_ids), frozenset(stop_ids)
        # Text may stand before the first token of an end: a line break, which may be a part of the answer's last token.
        self._end_text = tokens.pattern.split(form.end, maxsplit=1)[0]
        first = next((n for n, i in enumerate(self._end_ids) if i in tokens.structural_ids), 0)
        self._end_core = self._end_ids[first:]
        # The ends of prompts that leave a thought open, or have what stands before an answer.
        self._open_end = (
            tokens.continued(thinks[thinks.rfind(marks.open.strip()) :]) if marks and marks.opens(thinks) else []
        )
        self._lead_end = tokens.continued(form.lead)

    def read(self, ids: Sequence[int], prompt: Sequence[int]) -> Reading:
        """Returns what a sample says: the answer without what ends it, and the thought before it.

        Args:
            ids: as sampled.
            prompt: the ids before it, which may leave a thought open.
        """
        body, ended = self._without_end(ids)
        if self._marks is None:
            reading, start = Reading(""), 0
        else:
            mark = unused_mark([self._raw(body)])
            reading, start = self._split(self._marked(body, mark), prompt)
            reading = replace(reading, reasoning=reading.reasoning and reading.reasoning.replace(mark, ""))
            if start:
                body = body[bisect_left(range(len(body)), start, key=lambda n: len(self._marked(body[:n], mark))) :]
        if not reading.complete:
            return reading
        text = self._decoded(body)
        text = text.removesuffix(self._end_text) if ended else text
        return replace(reading, text=self._without_space(text, after_thought=start > 0))

    def read_text(self, text: str, prompt: Sequence[int]) -> Reading:
        """Returns :meth:`read` of a sample that is known as text alone."""
        # The server's end tokens are gone from it, but not the words that stand between them.
        text = text.removesuffix(self._decoded(self._end_ids))
        reading, start = self._split(text, prompt)
        answer = self._without_space(text[start:], after_thought=start > 0)
        return replace(reading, text=answer) if reading.complete else reading

    def _without_end(self, ids: Sequence[int]) -> tuple[list[int], bool]:
        """Returns a sample without the end of its turn, and whether it has that end, in full or in part."""
        core = self._end_core
        for length in range(len(core), 0, -1):
            if tuple(ids[len(ids) - length :]) == core[:length]:
                return list(ids[: len(ids) - length]), True
        body = list(ids)
        if body and body[-1] in self._stop_ids:
            # It may stop with another token where a part of its turn's end is already there.
            return self._without_end(body[:-1])[0], False
        return body, False

    def _without_space(self, text: str, *, after_thought: bool) -> str:
        """Returns an answer without the white space that the template puts before it."""
        return text.lstrip() if after_thought else text.removeprefix(self._form.space)

    def _split(self, raw: str, prompt: Sequence[int]) -> tuple[Reading, int]:
        """Returns the thought of a sample's text, and where the answer begins."""
        if self._marks is None:
            return Reading(""), 0
        opening, closing = self._marks.open.strip(), self._marks.close.strip()
        indent = len(raw) - len(raw.lstrip())
        if not self._ends(prompt, self._open_end) and not raw.startswith(opening, indent):
            lead = "" if self._ends(prompt, self._lead_end) else self._form.lead.strip()
            return Reading(""), indent + len(lead) if lead and raw.startswith(lead, indent) else 0
        thought, closed, _ = raw.partition(closing)
        reading = Reading("", thought.strip().removeprefix(opening).strip() or None, complete=bool(closed))
        return reading, len(thought) + len(closing)

    def _ends(self, prompt: Sequence[int], ids: Sequence[int]) -> bool:
        """Returns whether a prompt ends as these ids do. Their first letters may be in a token of what is before."""
        end = self._raw(ids).strip()
        return bool(end) and self._raw(prompt[-len(ids) - 4 :]).rstrip().endswith(end)

    def _marked(self, ids: Sequence[int], mark: str) -> str:
        """Returns the text of ids, with the mark in what looks like structure and is none."""
        found, start = "", 0
        for n, i in enumerate(ids):
            if i in self._structure:
                found += cut(self._raw(ids[start:n]), self._pattern, mark) + self._structure[i]
                start = n + 1
        return found + cut(self._raw(ids[start:]), self._pattern, mark)

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _raw(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
