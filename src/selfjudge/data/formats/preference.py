"""Preference pairs: two columns of which one is the better response, under the names that TRL, Axolotl, LLaMA-Factory,
ms-swift and OpenAI give them.

Binarised UltraFeedback is one of these: the prompt as text, both sides as conversations that repeat it, and scores.
"""

from __future__ import annotations

import itertools
from typing import Any

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, make_record
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.messages import Reject, holds, user_message
from selfjudge.data.formats.pairs import NO_PROMPT, Split, Turns, join_pair, read_pair
from selfjudge.data.formats.prompt_columns import PROMPTS
from selfjudge.data.formats.scores import by_scores
from selfjudge.data.formats.suggest import text_columns

CHOSEN = ("chosen", "chosen_response", "preferred_output", "chosen_message", "chosen_messages")
REJECTED = ("rejected", "rejected_response", "non_preferred_output", "rejected_message", "rejected_messages")
CONVERSATIONS = ("messages", "conversations")
"""Where ms-swift has the prompt and the better response; the worse one is in a column of its own."""
RANKED = "output"
"""Where older files of LLaMA-Factory have both responses, the better one first."""


def _fits(data: dict[str, Any]) -> bool:
    chosen, rejected = _side(data, CHOSEN), _side(data, REJECTED)
    if rejected is not None and chosen is None:
        return any(isinstance(data.get(name), list | str) for name in CONVERSATIONS)
    return (chosen is not None and rejected is not None) or _is_ranked(data)


def _side(data: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of the columns that may hold a response."""
    return next((name for name in names if isinstance(data.get(name), str | list | dict)), None)


def _is_ranked(data: dict[str, Any]) -> bool:
    pair = data.get(RANKED)
    return isinstance(pair, list) and len(pair) == 2 and any(name in data for name in PROMPTS)


def _parse(row: Row, pairing: Pairing) -> Parsed:
    split, strength = by_scores(row, _split(row), pairing.tie_rule)
    yield make_record(row, *split, strength=strength)


def _split(row: Row) -> Split:
    chosen, rejected = _side(row.data, CHOSEN), _side(row.data, REJECTED)
    if chosen is None and rejected is None and _is_ranked(row.data):
        return join_pair(row, *(read_turns(row, side, RANKED, "assistant") for side in row.get(RANKED)))
    conversation = next((name for name in CONVERSATIONS if holds(row.data.get(name))), None)
    if chosen is None and rejected is not None and conversation is not None:
        whole = read_turns(row, row.get(conversation), conversation, "assistant")
        return join_pair(row, whole, _with_last(row, whole, rejected), alone=True)
    names = (chosen or CHOSEN[0], rejected or REJECTED[0])
    return _without_prompt(row, *names) or read_pair(row, *names)


def _with_last(row: Row, whole: Turns, rejected: str) -> Turns:
    """The conversation with the worse response: its column has it all, or only the last turn."""
    side = read_turns(row, row.get(rejected), rejected, "assistant")
    return side if len(side) > 1 else whole[:-1] + side


def _without_prompt(row: Row, chosen: str, rejected: str) -> Split | None:
    """Two plain texts that begin with their prompt, or None where a column or the sides' turns tell the prompt.

    Raises:
        Reject: there is other text in the row, which may be the prompt.
    """
    texts = row.data.get(chosen), row.data.get(rejected)
    if any(row.data.get(name) is not None for name in PROMPTS) or not all(isinstance(text, str) for text in texts):
        return None
    sides = [read_turns(row, row.get(name), name, "assistant") for name in (chosen, rejected)]
    if any([message.role for message in side] != ["assistant"] for side in sides):
        return None
    if set(text_columns(row.data)) - {chosen, rejected, "id", "source"}:
        raise Reject(NO_PROMPT)
    return split_common_prefix(sides[0][0].content, sides[1][0].content)


def lacks_prompt(data: dict[str, Any]) -> bool:
    """Whether a row has two responses and no column that is known to hold the prompt, though others may."""
    try:
        _split(Row(data, 1, 0, ""))
    except Reject as error:
        return str(error) == NO_PROMPT
    return False


def split_common_prefix(chosen: str, rejected: str) -> Split:
    """Two texts as (shared prompt as one user message, chosen, rejected): cut at the last shared white space.

    Cutting inside a word would hand half of it to the prompt; the white space at the cut belongs to neither part.

    Raises:
        Reject: the texts are equal, or share no text that ends with white space.
    """
    if chosen == rejected:
        raise Reject("identical responses")
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    shared = chosen[: sum(1 for _ in same)]
    cut = max((i for i, character in enumerate(shared) if character.isspace()), default=0)
    if not shared[:cut].strip():
        raise Reject("chosen and rejected share no prompt")
    return user_message(shared[:cut].strip()), chosen[cut:].strip(), rejected[cut:].strip()


PREFERENCE = Format("preference", ("chosen", "rejected"), _fits, _parse)
