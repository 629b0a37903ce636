"""Cut texts have the ids of whole ones; where a cut could change one, there is none."""

from __future__ import annotations

import re

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from selfjudge.templates import exact_cuts
from selfjudge.templates.exact_cuts import LONG, NO_CUTS, Cuts, find_cuts
from selfjudge.templates.tokens import StructuredTokenizer

TEXTS = [
    "### Response A\nOne, two.\n\n### Response B\n  two one\n\n### Question\nWhich?",
    "# A\n## B\nA B one two 你好 🙂 é e\u0301\n#A\n###\n# \n",
    "<|end|># A<|end|>\nB<|end|>  two",
] * 20

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT_4O = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(pattern: str, **options: object) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(**options))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return trained(
        tokenizer,
        trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )


def trained(tokenizer: Tokenizer, trainer: object, end: AddedToken | str = "<|end|>") -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama 2: no words, spaces are characters, one is put before the text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = sorted({c for text in TEXTS for c in text.replace(" ", "▁")})
    return trained(
        tokenizer,
        trainers.BpeTrainer(vocab_size=200, show_progress=False, special_tokens=["<unk>"], initial_alphabet=alphabet),
    )


def unigram() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return trained(
        tokenizer,
        trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False),
    )


KINDS = {
    "GPT-2": lambda: byte_level(GPT_2),
    "Qwen 2": lambda: byte_level(QWEN_2),
    "GPT-4o": lambda: byte_level(GPT_4O),
    "whole words": lambda: byte_level(QWEN_2, ignore_merges=True),
    "SentencePiece": sentence_piece,
    "unigram": unigram,
}
# Pieces of which any text is made: what headings and special tokens consist of, and what could be taken with them.
PIECES = st.sampled_from(
    [
        *"#A .:/-5éx\n\t\x0b\u2003Ａ🙂",
        "### ",
        "# ",
        "Response A",
        "\n\n",
        "  ",
        "'s",
        "one",
        " two",
        " a b",
        "e\u0301",
        "<|end|>",
        "你好",
        "\r\n",
        "**",
    ]
)


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_changes_no_id(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = KINDS[name]()
    tokens = StructuredTokenizer(tokenizer, {"<|end|>": tokenizer.eos_token_id})
    monkeypatch.setattr(exact_cuts, "LONG", 4)

    @settings(max_examples=400, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.lists(PIECES, min_size=1, max_size=14))
    def tried(pieces: list[str]) -> None:
        text = "".join(pieces)
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokens._encode_cut([(text, "\0")]) == [whole]

    tried()


def test_headings_are_cut_where_a_vocabulary_allows_it() -> None:
    for name in ("GPT-2", "Qwen 2", "GPT-4o"):
        tokenizer = KINDS[name]()
        tokens = StructuredTokenizer(tokenizer, {"<|end|>": tokenizer.eos_token_id})
        assert list(tokens._cuts.pieces(TEXTS[0]))[:4] == ["###", " Response A", "\nOne, two.\n\n###", " Response B"]


def test_a_heading_that_is_a_token_is_left_whole() -> None:
    tokenizer = byte_level(r"\n|[^\n]+\n?")  # whole lines are words, and become tokens
    assert any("AĊ" in token or "#Ġ" in token for token in tokenizer.get_vocab())
    assert not find_cuts(tokenizer, tokenizer._tokenizer, re.compile("x")).headings


@pytest.mark.parametrize("pattern", [r"(?<=A)\n|\S+|\s+", r"\S+(?=\nX)|\S+|\s"])
def test_a_pattern_that_looks_around_is_left_whole(pattern: str) -> None:
    tokenizer = byte_level(pattern)
    assert not find_cuts(tokenizer, tokenizer._tokenizer, re.compile("x")).headings


@pytest.mark.parametrize("flag", ["lstrip", "single_word"])
def test_a_token_that_minds_what_stands_before_it_is_no_place_to_cut(flag: str) -> None:
    tokenizer = byte_level(GPT_2)
    end = AddedToken("<|stop|>", special=True, **{flag: True})
    tokenizer.add_special_tokens({"additional_special_tokens": [end]})
    assert find_cuts(tokenizer, tokenizer._tokenizer, re.compile("<")).before is None


def test_a_tokenizer_in_python_is_not_cut(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    assert find_cuts(chatml_tokenizer, None, re.compile("x")) == NO_CUTS


def test_pieces_are_the_text() -> None:
    cuts = Cuts(re.compile("<e>"), headings=True, words=True)
    text = "<e># A\n<e>x<e>\n## B c\n# \n#D\n### E"
    found = list(cuts.pieces(text))
    assert "".join(found) == text
    assert found == ["<e># A\n", "<e>x", "<e>\n##", " B c", "\n# \n#D\n###", " E"]
    assert list(cuts.pieces("")) == [""]


def test_the_outer_words_of_long_pieces_are_apart() -> None:
    cuts = Cuts(re.compile("<e>"), headings=True, words=True)
    bulk = " b, c." * 50 + " d"
    for before, behind in (("<e>\nA", " e."), ("\n\n(x) A", " e\n\n###")):
        assert list(cuts.pieces(f"{before}{bulk}{behind}")) == [before, bulk, behind]
    assert list(cuts.pieces("1 " * LONG + "a b" + " 2" * LONG)) == ["1 " * LONG + "a", " b" + " 2" * LONG]
    for whole in ("a b c", "a" * LONG, "1 " * LONG, "é é " * LONG, "a  b" * LONG):
        assert list(cuts.pieces(whole)) == [whole]


def test_a_vocabulary_in_which_a_token_goes_over_words_has_them_together() -> None:
    tokenizer = byte_level(r"[^\n]+|\n")  # lines are words, and parts of them become tokens
    assert any(re.search("[A-Za-z]Ġ", token) for token in tokenizer.get_vocab())
    assert not find_cuts(tokenizer, tokenizer._tokenizer, re.compile("x")).words
    for name in KINDS:
        tokenizer = KINDS[name]()
        tokens = StructuredTokenizer(tokenizer, {"<|end|>": tokenizer.eos_token_id})
        joined = any(re.search("[A-Za-z][Ġ▁ ]", token) for token in tokenizer.get_vocab())
        assert tokens._cuts.words != joined, name
