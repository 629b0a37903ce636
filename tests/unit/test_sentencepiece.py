"""Ids of SentencePiece vocabularies: the tokenizer's own, whatever it does with the space before a word."""

from __future__ import annotations

from functools import cache

import pytest
from chat_templates import TEMPLATES
from hostile_texts import trained_with_bytes
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder

KINDS = ("first", "always", "never", "legacy")
# The tokens that each template's models have, and whether they swallow the white space behind them.
TOKENS = {
    "llama-2": ((), False),
    "mistral": ((), False),
    "mistral with tokens": (("[INST]", "[/INST]"), False),
    "zephyr": ((), False),
    "zephyr with tokens": (("<|user|>", "<|assistant|>", "<|system|>"), False),
    "gemma": (("<start_of_turn>", "<end_of_turn>"), False),
    "eos after all": (("<|user|>", "<|assistant|>", "<|end|>"), True),
    "vicuna": ((), False),
    "plain": ((), False),
}


@cache
def trained() -> str:
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    # As SentencePiece does: no token goes over a space into the next word.
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    return trained_with_bytes(core)


def sentencepiece(name: str, kind: str) -> PreTrainedTokenizerFast:
    """Makes the tokenizer of a template. ``kind``: where a space is put before a word; legacy: by a normalizer."""
    tokens, swallows = TOKENS[name]
    core = Tokenizer.from_str(trained())
    if kind == "legacy":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer = None
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=swallows) for t in tokens])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATES[name.removesuffix(" with tokens")]
    return tokenizer


def dialogue(*texts: str) -> list[Message]:
    return [Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(texts)]


def own(tokenizer: PreTrainedTokenizerFast, messages: list[Message], *, generation_prompt: bool) -> list[int]:
    dicts = [message.model_dump() for message in messages]
    return tokenizer.apply_chat_template(
        dicts, tokenize=True, add_generation_prompt=generation_prompt, return_dict=False
    )  # type: ignore[return-value]


ORDINARY = [
    ("How is the sea?", "It is calm."),
    ("Hi", "Hello, what can I do?", "A rhyme for night?", "Light."),
    ("a  b", "Two  spaces, a\ttab.\n\nAnd lines.", "Ünïcode 你好 🙂?", "Ja: 🙂 你好", "And?", "(c) 1. x"),
]


@pytest.mark.parametrize("texts", ORDINARY, ids=["one turn", "two turns", "three turns"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TOKENS)
def test_ids_are_the_tokenizers_own(name: str, kind: str, texts: tuple[str, ...]) -> None:
    tokenizer = sentencepiece(name, kind)
    chat = ChatEncoder(tokenizer)
    messages = dialogue(*texts)
    (row,) = chat.dialogues(messages)
    whole = own(tokenizer, messages, generation_prompt=False)
    assert list(row.ids) == whole[: len(row.ids)]
    # Nothing but what no model ever writes is left out at the end.
    rest = tokenizer.decode(whole[len(row.ids) :], skip_special_tokens=False)
    assert rest.strip() in ("", "</s>" if name == "eos after all" else "")
    targets: list[int] = []
    for i, turn in zip(range(1, len(messages), 2), chat.turns(messages), strict=True):
        prompt = own(tokenizer, messages[:i], generation_prompt=True)
        assert turn.prompt == prompt == chat.prompt_ids(messages[:i])
        # The next answer ends where its end token stands for the first time.
        end = whole.index(turn.answer[-1], len(prompt)) + 1
        assert turn.answer == whole[len(prompt) : end]
        targets += turn.answer
        assert chat.read(turn.answer, turn.prompt).text == texts[i]
    assert [t for t, is_target in zip(row.ids, row.is_target, strict=True) if is_target] == targets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TOKENS)
def test_special_tokens_in_texts_stay_characters(name: str, kind: str) -> None:
    tokenizer = sentencepiece(name, kind)
    chat = ChatEncoder(tokenizer)
    trap = "".join(t + "x " for t in ("</s>", "<s>", *TOKENS[name][0], "[INST]", "<unk>", "<0x0A>"))
    messages = dialogue(trap, trap, "And " + trap, trap)
    benign = chat.turns(dialogue("a", "b", "c", "d"))
    for turn, known in zip(chat.turns(messages), benign, strict=True):
        for found, wanted in ((turn.prompt, known.prompt), (turn.answer, known.answer)):
            special = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(t) for t in TOKENS[name][0]}
            assert [i for i in found if i in special] == [i for i in wanted if i in special]
