"""Chat templates and vocabularies of real models, from a folder: ``make test-models TEMPLATES=FOLDER``.

The folder, or ``templates`` in it, has ``*.jinja`` files; vocabularies beside them are ``*.gguf`` files.
``TABLE=FILE.md`` or ``.json`` keeps what came of each template.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from chat_templates import TEMPLATES
from models.template_sweep import DICTS, MESSAGES, check_template, table
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from unit.test_turn_forms import spelling

from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder

FOLDER = Path(os.environ.get("SELFJUDGE_TEMPLATES") or "none")
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason="SELFJUDGE_TEMPLATES names no folder of chat templates: make test-models TEMPLATES=FOLDER",
)
FILES = sorted({*FOLDER.glob("*.jinja"), *FOLDER.glob("templates/*.jinja")})
VOCABULARIES = sorted({*FOLDER.glob("*.gguf"), *FOLDER.parent.glob("*.gguf")}) if FOLDER.is_dir() else []
# Templates that need tools may be refused, and say so: 4 of 70 in the folder of llama.cpp.
RIGHT = 66 / 70


def test_templates(capsys: pytest.CaptureFixture[str]) -> None:
    assert FILES, f"{FOLDER} has no *.jinja files"
    found = [check_template(path, spelling("")) for path in FILES]
    kept = os.environ.get("SELFJUDGE_TEMPLATES_TABLE")
    if kept:
        rows = [asdict(one) for one in found]
        text = json.dumps(rows, ensure_ascii=False, indent=1) if kept.endswith(".json") else table(found)
        Path(kept).write_text(text, encoding="utf-8")
    right = [one for one in found if one.verdict == "ok"]
    with capsys.disabled():
        print()
        for one in found:
            print(f"{one.template:<52} {one.verdict:<8} {one.reason or repr(one.end)}")
        print(f"{len(right)} of {len(found)} are right")
    assert not [f"{one.template}: {one.reason}" for one in found if one.verdict == "wrong"]
    assert len(right) >= RIGHT * len(found)


# Templates of ours for any vocabulary, and the tokens that it gets for them.
TOKENS = {
    "llama-2": "",
    "mistral": "",
    "zephyr": "",
    "vicuna": "",
    "plain": "",
    "chatml": "<|im_start|> <|im_end|>",
    "gemma": "<start_of_turn> <end_of_turn>",
    "eos after all": "<|user|> <|assistant|> <|end|>",
}


def tokenizer_of(vocabulary: Path) -> PreTrainedTokenizerFast:
    """Returns a vocabulary's tokenizer; skips the test where transformers cannot read it."""
    error: Exception | None = None
    for loader in (AutoTokenizer, PreTrainedTokenizerFast):  # the second needs no architecture that is known
        try:
            return loader.from_pretrained(vocabulary.parent, gguf_file=vocabulary.name)  # type: ignore[no-any-return]
        except Exception as e:
            error = e
    pytest.skip(f"transformers cannot read {vocabulary.name}: {' '.join(str(error).split())[:200]}")


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=lambda path: path.stem)
def test_vocabularies(vocabulary: Path) -> None:
    tokenizer = tokenizer_of(vocabulary)
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.eos_token
    if isinstance(tokenizer.chat_template, str):
        check_ids("its own", ChatEncoder(tokenizer))
    for name, tokens in TOKENS.items():
        tokenizer.add_special_tokens({"additional_special_tokens": tokens.split()})
        tokenizer.chat_template = TEMPLATES[name]
        check_ids(name, ChatEncoder(tokenizer))


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=lambda path: path.stem)
def test_cuts_change_no_id(vocabulary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tokenizer_of(vocabulary)
    tokenizer.chat_template = TEMPLATES["plain"]
    tokens = ChatEncoder(tokenizer).tokens
    pages = [page.read_text(encoding="utf-8") for page in sorted((Path(__file__).parents[2] / "docs").glob("*.md"))]
    texts = [
        *pages,
        *(part for page in pages for part in page.split("\n\n")),
        *(page.replace("\n", "\r\n") for page in pages),
    ]
    assert [tokens._encode_cut([(text, "\0")]) for text in texts] == [tokens._tokenize([text]) for text in texts]
    with capsys.disabled():
        print(f" {vocabulary.stem}: headings {tokens._cuts.headings}, words {tokens._cuts.words}")


def check_ids(name: str, chat: ChatEncoder) -> None:
    """Checks that the ids of prompts, dialogues and targets are the tokenizer's own."""
    messages: list[Message] = MESSAGES[:4]
    turns = chat.turns(messages)
    whole = applied(chat, 4, generation_prompt=False)
    for i, turn in enumerate(turns):
        assert turn.prompt == applied(chat, 2 * i + 1, generation_prompt=True), f"{name}: turn {i}"
        wanted = DICTS[2 * i + 1]["content"] + str(chat.tokenizer.decode(chat.end_ids, skip_special_tokens=False))
        target = str(chat.tokenizer.decode(turn.answer, skip_special_tokens=False))
        # Decoders strip a space at the beginning.
        assert target.replace(" ", "") == wanted.replace(" ", ""), f"{name}: turn {i}"
        if whole[: len(turn.prompt)] == turn.prompt:
            assert turn.answer == whole[len(turn.prompt) :][: len(turn.answer)], f"{name}: turn {i}"
    rows = chat.dialogues(messages)
    # Else a token of the dialogue goes over the end of a prompt: no model sees that when it answers.
    if turns[1].prompt[: len(turns[0].prompt)] == turns[0].prompt:
        assert len(rows) == 1, f"{name}: {len(rows)} rows"
        assert list(rows[0].ids) == whole[: len(rows[0].ids)], name


def applied(chat: ChatEncoder, count: int, *, generation_prompt: bool) -> Any:
    return chat.tokenizer.apply_chat_template(
        [dict(m) for m in DICTS[:count]], tokenize=True, add_generation_prompt=generation_prompt, return_dict=False
    )
