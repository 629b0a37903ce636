"""What a preference source says more than once: pairs, prompts, system prompts; and where it contradicts itself."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from selfjudge.data.identity import pair_keys, prompt_key, text_key, written_key
from selfjudge.records import PreferenceRecord

_KEY = np.dtype([("first", "<u8"), ("second", "<u8")])
"""A key of 16 bytes as two numbers, which numpy can sort."""

_SHOWN = 28
"""Characters of the most frequent system prompt in the table."""


class Repeats(BaseModel):
    """Counts of a source's pairs; texts are compared as a reader does (see :mod:`selfjudge.data.identity`).

    ``exact``: pairs that repeat an earlier one as it is written, under the same principle. ``near``: those that repeat
    one in another spelling. ``contradictory``: pairs whose prompt has another pair with chosen and rejected exchanged,
    under the same principle. ``prompts``: distinct ones; ``prompts_with_several``: those with more than one pair;
    ``most_pairs``: the most pairs of one prompt. ``with_system``: pairs with a system prompt; ``systems``: how many
    system prompts there are; ``common_system``: the most frequent, as it is written first, and ``common_system_pairs``
    the number of its pairs.
    """

    model_config = ConfigDict(frozen=True)

    exact: int
    near: int
    contradictory: int
    prompts: int
    prompts_with_several: int
    most_pairs: int
    with_system: int
    systems: int
    common_system: str | None
    common_system_pairs: int

    def rows(self, pairs: int) -> list[tuple[str, int, str]]:
        """Returns name, number and meaning for a table; ``pairs``: how many there are in all."""
        share = 100 * self.common_system_pairs / max(1, pairs)
        start = textwrap.shorten(self.common_system or "", _SHOWN, placeholder=" …")
        common = ("… with the same one", self.common_system_pairs, f"{share:.1f} % of all pairs: {start}")
        return [
            ("Repeated pairs", self.exact, "as they are written; each is trained on again"),
            ("… in another spelling", self.near, "spaces, line ends or Unicode forms differ"),
            ("Contradictory pairs", self.contradictory, "another pair of the prompt says the opposite"),
            ("Distinct prompts", self.prompts, "a split keeps all pairs of a prompt together"),
            ("… with several pairs", self.prompts_with_several, f"{self.most_pairs} pairs at most"),
            ("Pairs with a system prompt", self.with_system, f"distinct ones: {self.systems}"),
            *([common] if self.systems else []),
        ]


class RepeatCounter:
    """Counts repeats record by record. It keeps keys alone: 80 bytes for each record, whatever its length."""

    def __init__(self) -> None:
        """Starts without records."""
        self._written, self._pairs, self._contradicting = bytearray(), bytearray(), bytearray()
        self._prompts, self._systems = bytearray(), bytearray()
        self._count = 0
        self._with_system: list[int] = []

    def add(self, record: PreferenceRecord) -> None:
        """Takes the next record into account."""
        pair, contradicting = pair_keys(record)
        self._written += written_key(record)
        self._pairs += pair
        self._contradicting += contradicting
        self._prompts += prompt_key(record.prompt)
        if record.prompt[0].role == "system":
            self._systems += text_key(record.prompt[0].content)
            self._with_system.append(self._count)
        self._count += 1

    def counted(self, records: Sequence[PreferenceRecord]) -> Repeats:
        """Returns the counts. ``records``: all that were added, of which one at most is looked at."""
        pairs = np.unique(_keys(self._pairs))
        distinct = len(np.unique(_keys(self._written)))
        _, of_prompts = np.unique(_keys(self._prompts), return_counts=True)
        _, firsts, of_systems = np.unique(_keys(self._systems), return_index=True, return_counts=True)
        # Of equally frequent ones that which comes first.
        top = max(range(len(firsts)), key=lambda i: (of_systems[i], -firsts[i]), default=None)
        return Repeats(
            exact=self._count - distinct,
            near=distinct - len(pairs),
            contradictory=int(np.isin(_keys(self._contradicting), pairs).sum()),
            prompts=len(of_prompts),
            prompts_with_several=int((of_prompts > 1).sum()),
            most_pairs=int(of_prompts.max(initial=0)),
            with_system=len(self._with_system),
            systems=len(firsts),
            common_system=None if top is None else records[self._with_system[firsts[top]]].prompt[0].content,
            common_system_pairs=0 if top is None else int(of_systems[top]),
        )


def _keys(data: bytearray) -> npt.NDArray[np.void]:
    return np.frombuffer(bytes(data), dtype=_KEY)
