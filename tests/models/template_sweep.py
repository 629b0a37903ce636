"""What a foreign chat template is held to: its own rendering, by another way than the one of the package.

Everything here is found in whole renderings by ``tokenizer.apply_chat_template``; the package is asked for turns, rows
and readings alone.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from selfjudge.errors import ModelError
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder, Reading

TEXTS = ("Which way, pilgrim?", "Westward, friend.", "How far, pilgrim?", "Nine leagues, friend.", "And then?")
THOUGHT = "Consider the compass."
DICTS = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(TEXTS)]
MESSAGES = [Message.model_validate(message) for message in DICTS]
# What looks like a token of a chat template.
MARK = re.compile(r"<[|｜/]?[^<>\s'\"{}=]+?>|〈[^〈〉\s]+〉|\[/?[A-Z_]+\]|\]~!b\[|\]~b\]|\[e~\[")
# What may stand around thoughts, or in the place of one. A prompt may have it, and the rendered dialogue not.
AROUND_THOUGHTS = re.compile(
    r"</?(?:mm:|seed:)?think(?::\w+)?>|<\|(?:START|END)_THINKING\|>|<\|channel>thought|<channel\|>|<\|(?:START|END)_TEXT\|>"
    r"|<\|inner_(?:prefix|suffix)\|>|Here are my (?:reasoning )?steps:|\[(?:BEGIN )?FINAL RESPONSE\]"
    r"|<seed:cot_budget_reflect>.*?</seed:cot_budget_reflect>|<\|START_RESPONSE\|>|\s+"
)


@dataclass(frozen=True)
class Found:
    """What came of one template. ``verdict``: ok, refused or wrong; ``thought``: whether a rendered one was read."""

    template: str
    verdict: str
    reason: str = ""
    end: str = ""
    lead: str = ""
    switch: str = ""
    rows: int = 0
    thought: str = ""


def check_template(path: Path, tokenizer: PreTrainedTokenizerFast) -> Found:
    """Returns what comes of a template. The tokenizer gets it, and the marks that are in it as special tokens."""
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    marks = {
        *MARK.findall(tokenizer.chat_template),
        *(m for text in _renderings(tokenizer) for m in MARK.findall(text)),
    }
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(marks)})
    try:
        chat = ChatEncoder(tokenizer)
    except ModelError as e:
        return Found(path.name, "refused", str(e))
    shown = {"end": _text(chat, chat.end_ids), "lead": chat.form.lead, "switch": str(chat.switch or "")}
    try:
        for count in (1, 2):
            _check_turns(chat, count)
        rows = _check_rows(chat)
        thought = _check_thought(tokenizer)
    except AssertionError as e:
        return Found(path.name, "wrong", str(e).split("\nassert")[0], **shown)
    return Found(path.name, "ok", rows=rows, thought=thought, **shown)


def _check_turns(chat: ChatEncoder, count: int) -> None:
    turns = chat.turns(MESSAGES[: 2 * count])
    assert len(turns) == count, f"{len(turns)} turns of {count}"
    for i, turn in enumerate(turns):
        prompt, target, answer = _text(chat, turn.prompt), _text(chat, turn.answer), TEXTS[2 * i + 1]
        own = _render(chat.tokenizer, DICTS[: 2 * i + 1], True, chat.switch)
        assert prompt.startswith(own), f"turn {i}: the prompt is not the template's own: {prompt[-200:]!r}"
        assert turn.prompt == _ids(chat, prompt), f"turn {i}: the prompt's ids are not the tokenizer's own"
        assert target.lstrip(" ").startswith(answer), f"turn {i}: the target is not the answer: {target!r}"
        shown = _render(chat.tokenizer, DICTS[: 2 * i + 2], False, chat.switch)
        assert _bare(shown).startswith(_bare(prompt + target.split(answer)[0]) + _bare(answer)), (
            f"turn {i}: the answer stands behind other text than in the dialogue: {prompt[-200:]!r}"
        )
        _check_end(chat, target.split(answer, 1)[1], i)
        assert turn.answer[-1] in chat.stop_ids, f"turn {i}: the model does not stop at its end"
        assert not {*turn.answer[:-1]} & {*chat.stop_ids}, f"turn {i}: the model stops within its end"
        assert chat.read(turn.answer, turn.prompt) == Reading(answer), f"turn {i}: the answer is not read back"


def _check_end(chat: ChatEncoder, end: str, i: int) -> None:
    """Checks that a target goes to the end of its turn, and not into what comes after it."""
    tokenizer, answer = chat.tokenizer, TEXTS[2 * i + 1]
    final = _render(tokenizer, DICTS[: 2 * i + 2], False, chat.switch).rpartition(answer)[2]
    later = (
        _render(tokenizer, DICTS[: 2 * i + 3], False, chat.switch).rpartition(answer)[2].partition(TEXTS[2 * i + 2])[0]
    )
    prompt = _render(tokenizer, DICTS[:1], True, chat.switch).partition(TEXTS[0])[2]
    first_turn = _render(tokenizer, DICTS[:1], False, chat.switch).partition(TEXTS[0])[0]
    if final.startswith(end):
        rest = final[len(end) :].strip()
        # Behind it may stand the end of the whole dialogue, or the prompt of an answer.
        assert rest in ("", tokenizer.eos_token) or rest in prompt, f"turn {i}: the end goes on: {rest!r}"
    elif later.startswith(end):
        assert not MARK.search(final), f"turn {i}: the last turn ends otherwise: {final!r}"
    else:
        assert end == tokenizer.eos_token, f"turn {i}: the end is made up: {end!r}"
        assert not MARK.search(final), f"turn {i}: the last turn has an end: {final!r}"
        assert not MARK.match(later.strip()) or later.strip().startswith(tokenizer.bos_token), f"turn {i}: {later!r}"
    if later.startswith(end):
        # What is left begins the next turn, as it begins the first, or is what ends no turn but the last.
        rest = later[len(end) :].strip()
        assert rest == "" or rest in first_turn or MARK.sub("", rest) != rest, f"turn {i}: the end is cut: {rest!r}"
        alike = next((n for n, (a, b) in enumerate(zip(final, later, strict=False)) if a != b), len(final))
        missed = [m for m in MARK.findall(final[len(end) : alike]) if m not in first_turn]
        assert not missed, f"turn {i}: the end lacks {missed}"


def _check_rows(chat: ChatEncoder) -> int:
    """Checks that two turns share a row where the rendering of the second begins with the first."""
    first, second = (_text(chat, [*turn.prompt, *turn.answer]) for turn in chat.turns(MESSAGES[:4]))
    rows = chat.dialogues(MESSAGES[:4])
    assert len(rows) == (1 if second.startswith(first) else 2), f"{len(rows)} rows"
    assert [_text(chat, row.ids) for row in rows] == ([second] if len(rows) == 1 else [first, second]), "other rows"
    targets = [sum(row.is_target) for row in rows]
    assert sum(targets) == sum(len(turn.answer) for turn in chat.turns(MESSAGES[:4])), "other targets"
    return len(rows)


def _check_thought(tokenizer: PreTrainedTokenizerFast) -> str:
    """Checks that an answer is read from what the template itself writes around a thought, thinking on."""
    try:
        chat = ChatEncoder(tokenizer, thinking="on")
    except ModelError:
        return "knows none"
    ids = chat.prompt_ids(MESSAGES[:1])
    prompt = _text(chat, ids)
    assert prompt == _render(tokenizer, DICTS[:1], True, chat.switch), f"thinking: not the template's own: {prompt!r}"
    thoughtful = {**DICTS[1], **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), THOUGHT)}
    shown = _render(tokenizer, [DICTS[0], thoughtful], False, chat.switch)
    if THOUGHT not in shown:
        return "not shown"
    # The prompt may open the thought with words that are not in the rendered dialogue.
    begin = len(prompt) if shown.startswith(prompt) else shown.find(THOUGHT)
    found = chat.read(_ids(chat, shown[begin:]), ids)
    end = found.text.removeprefix(TEXTS[1])
    assert found.reasoning == THOUGHT, f"thinking: {found}"
    assert found.text.startswith(TEXTS[1]), f"thinking: {found}"
    assert not end.strip(), f"thinking: {found}"
    cut_off = chat.read(_ids(chat, shown[begin : shown.find(THOUGHT) + 8]), ids)
    assert cut_off == Reading("", THOUGHT[:8], complete=False), f"thinking: a thought that does not end is {cut_off}"
    return "read"


def _renderings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    dialogues = (DICTS[:1], DICTS[:2], DICTS[:3], DICTS[:4])
    return [_render(tokenizer, dialogue, prompt, {}) for dialogue in dialogues for prompt in (False, True)]


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], generation_prompt: bool, switch: dict[str, Any]
) -> str:
    """Returns a rendered dialogue, or nothing where the template refuses it."""
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=generation_prompt, **switch
            )
        )
    except Exception:
        return ""


def _bare(text: str) -> str:
    """Returns a text without white space and what may stand around thoughts."""
    return AROUND_THOUGHTS.sub("", text)


def _text(chat: ChatEncoder, ids: Any) -> str:
    return str(chat.tokenizer.decode(list(ids), skip_special_tokens=False))


def _ids(chat: ChatEncoder, text: str) -> list[int]:
    return list(chat.tokenizer(text, add_special_tokens=False)["input_ids"])


def table(found: list[Found]) -> str:
    """Returns what came of templates as Markdown."""
    names = list(asdict(found[0]))
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    for one in found:
        cells = (str(value).replace("\n", "\\n").replace("|", "\\|") for value in asdict(one).values())
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines) + "\n"
