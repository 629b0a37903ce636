"""The frame of a judgment prompt, and the check that no text changes it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from hostile_texts import TOKENIZERS

from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, PrincipleEncoder
from selfjudge.templates.template import load_templates, shipped_sets

PLAIN_PROMPT = (Message(role="user", content="Name two things."),)


@cache
def encoders(name: str) -> dict[str, PrincipleEncoder]:
    """One principle of every shipped set, by the set's name."""
    chat = ChatEncoder(TOKENIZERS[name]())
    loaded = {each: JudgmentEncoder(load_templates(each), chat).principles for each in shipped_sets()}
    return {each: next(iter(principles.values())) for each, principles in loaded.items()}


@dataclass(frozen=True)
class Frame:
    """What every prompt of a principle has to have.

    ``opening``: the ids from what ends the user's turn to the label. ``headings``: the words of the template's own
    lines that tell prompt and responses apart. ``opening_with_break``: the opening with the line breaks before it.
    """

    structure: Counter[int]
    opening: tuple[int, ...]
    opening_with_break: tuple[int, ...]
    headings: tuple[str, ...]


@cache
def frame(encoder: PrincipleEncoder) -> Frame:
    chat = encoder._chat
    benign = encoder.prompt(PLAIN_PROMPT, "x", "y").token_ids
    turn = [{"role": "user", "content": "q"}]
    rendered = chat.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ending = rendered.rpartition("q")[2].split("\n")[0].strip() or rendered.rpartition("q")[2].strip()
    # The shortest end of the ids that has the whole of it.
    start = next(
        i for i in range(len(benign) - 1, -1, -1)
        if ending in chat.tokenizer.decode(benign[i:], skip_special_tokens=False)
    )  # fmt: skip
    broken = start
    while broken and not chat.tokenizer.decode(benign[broken - 1 : start]).strip(" \n"):
        broken -= 1
    literal = (re.sub(r"\{\w+\}", "", line) for line in encoder.template.user.splitlines())
    headings = tuple(line for line in literal if 0 < len(line.split()) <= 4)
    structure = Counter(i for i in benign if i in chat.tokens.structural_ids)
    return Frame(structure, benign[start:], benign[broken:], headings)


def places_of(part: tuple[int, ...], ids: tuple[int, ...]) -> list[int]:
    return [i for i in range(len(ids) - len(part) + 1) if ids[i : i + len(part)] == part]


def looks_like(line: str, heading: str) -> bool:
    """As one sees it who takes a quoted line for text, and knows neither accents nor what is invisible."""
    letters = r"[\W_]*".join(c for c in heading if c.isalnum())
    seen = re.match(rf"[\W_]*{letters}\s*([\W_]|$)", unicodedata.normalize("NFKD", line), re.IGNORECASE)
    return not is_quoted(line) and seen is not None and (not seen[1] or not seen[1].isspace())


def is_quoted(line: str) -> bool:
    return line.removeprefix(" ").startswith("> ")  # pieces of words are decoded with a space before them


def check_frame(encoder: PrincipleEncoder, first: str, second: str, question: str) -> None:
    chat, expected = encoder._chat, frame(encoder)
    prompt = (Message(role="user", content=question if question.strip() else "q"),)
    found = encoder.prompt(prompt, first, second).token_ids
    # What gives the chat its structure stands where the templates put it, and nowhere else.
    assert Counter(i for i in found if i in chat.tokens.structural_ids) == expected.structure
    # One label position: what opens the judge's answer stands at the end, and only there.
    end = len(found) - len(expected.opening)
    places = places_of(expected.opening, found)
    if not chat.tokens.structural_ids.isdisjoint(expected.opening):
        assert places == [end]
    else:
        # Marks of plain text. With the line break before them they are there once; without it as well, but for
        # quotations and the inside of lines. "A: " and the like are the template's, and no inside of a response.
        assert places_of(expected.opening_with_break, found) == [len(found) - len(expected.opening_with_break)]
        assert places[-1] == end
        for place in places[:-1]:
            line = chat.tokenizer.decode(found[:place]).rpartition("\n")[2]
            before = re.sub(r"^\w+: ", "", line)
            assert is_quoted(before + " ") or any(map(str.isalnum, before)), (line, chat.tokenizer.decode(found))
    # One heading of each kind.
    runs = groupby(found, lambda i: i in chat.tokens.structural_ids)
    text = "\n".join(chat.tokenizer.decode(list(run)) for structural, run in runs if not structural)
    text = text.replace("<unk>", "x")  # some letter
    for heading in expected.headings:
        alike = [line for line in re.split("[\n\r\v\f\x85\u2028\u2029]", text) if looks_like(line, heading)]
        assert len(alike) == 1, (heading, text)
