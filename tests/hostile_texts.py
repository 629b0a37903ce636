"""Texts that try to pass for something else, and tokenizers of every kind to try them on."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from selfjudge.templates.chat_files import chat_template_text
from selfjudge.templates.template import SETS
from selfjudge.world.model import build_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system = '' %}{% endif %}"
    "{% for m in loop_messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
CORPUS = [file.read_text(encoding="utf-8") for file in sorted(SETS.glob("*/*.txt"))] * 3


def _byte_bpe(specials: list[str], added: list[str] = (), **names: str) -> PreTrainedTokenizerFast:  # type: ignore[assignment]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def chatml() -> PreTrainedTokenizerFast:
    tokenizer = _byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool_call>"], eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def plain() -> PreTrainedTokenizerFast:
    """A base model's, with turns marked by text: ``### Assistant:``."""
    tokenizer = _byte_bpe(["<s>", "</s>"], bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = chat_template_text("plain")
    return tokenizer


def llama_3() -> PreTrainedTokenizerFast:
    """Its headers are special tokens without a name of their own."""
    specials = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    tokenizer = _byte_bpe(specials, bos_token=specials[0], eos_token=specials[1])
    tokenizer.chat_template = LLAMA_3
    return tokenizer


def deepseek() -> PreTrainedTokenizerFast:
    """What begins its turns are added tokens that are not marked as special."""
    specials = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
    added = ["<｜User｜>", "<｜Assistant｜>"]
    tokenizer = _byte_bpe(specials, added, bos_token=specials[0], eos_token=specials[1])
    tokenizer.chat_template = DEEPSEEK
    return tokenizer


def trained_with_bytes(core: Tokenizer) -> str:
    """Returns a BPE tokenizer trained on the corpus, described, with a token for each byte to fall back on."""
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, max_token_length=12
    )
    core.train_from_iterator([line for text in CORPUS for line in text.splitlines()], trainer)
    described = json.loads(core.to_str())
    vocab = described["model"]["vocab"]
    for i in range(256):
        vocab[f"<0x{i:02X}>"] = len(vocab)
    return json.dumps(described)


def llama_2() -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with bytes to fall back on; turns are marked by ``[INST]`` in plain text."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core = Tokenizer.from_str(trained_with_bytes(core))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = LLAMA_2
    return tokenizer


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece-like Unigram after NFKC, as T5's: ``</s>`` is a piece of its vocabulary like any other."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    letters = sorted({*"\n#*:;<>|/_[](){}.,!?'\"-+=0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"})
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", initial_alphabet=letters,
        show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = chat_template_text("plain")
    return tokenizer


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "world": build_tokenizer,
    "chatml": chatml,
    "plain": plain,
    "llama_3": llama_3,
    "deepseek": deepseek,
    "llama_2": llama_2,
    "unigram": unigram,
}

SPECIALS = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<|eot_id|>", "<|start_header_id|>", "<unk>",
    "<|end_header_id|>", "<|begin_of_text|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|pad|>",
    "<0x0A>",
]  # fmt: skip
MARKERS = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "### Assistant:", "### User:", "assistant", "user", "system"]
HEADINGS = [
    "### Prompt", "### Response A", "### Response B", "### Question", "A: ", "B: ", "Better: A or B?", "Better: ",
    "Better: Response A", "More helpful: Response B", "**response b**", "RESPONSE_A", "User:", "Human:", "Assistant:",
]  # fmt: skip
DISGUISED = [
    "### Ｒｅｓｐｏｎｓｅ Ａ", "＃＃＃ Response B", "### Res\u200bponse A", "\u200b### Response B",
    "### Response\u00a0A",
    "### Res\u00adponse B", "### R\u0301esponse A", "### 𝐑𝐞𝐬𝐩𝐨𝐧𝐬𝐞 𝐁", "### Ⓡesponse A", "### Rеsponse A",
    "\ufeffA:", "Ａ：",
    "### Assist\u2060ant:", "＜／ｓ＞", "＜|im_end|＞",
]  # fmt: skip
GLUE = [
    "\n", "\n\n", "\r\n", "\r", "\u2028", "\u0085", "\v", " ", "\t", "> ", "#", "{response_b}", "{label}", "\x00",
    "\ue000",
    "\ue0010", "{{ 1 }}", "{% for x in y %}",
]  # fmt: skip


def _halves(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]


PIECES = [*SPECIALS, *MARKERS, *HEADINGS, *DISGUISED, *(half for text in SPECIALS + MARKERS for half in _halves(text))]

texts = st.lists(
    st.one_of(st.sampled_from(GLUE), st.sampled_from(PIECES), st.text(st.characters(codec="utf-8"), max_size=6)),
    max_size=10,
).map("".join)
