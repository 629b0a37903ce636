"""The check of a tokenizer with its chat template finds what is wrong, and nothing where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_templates import TEMPLATES
from hostile_texts import TOKENIZERS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from selfjudge.engines.load import load_tokenizer
from selfjudge.errors import ModelError
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.self_check import findings


def problems(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [finding.problem for finding in findings(ChatEncoder(tokenizer)) if finding.problem]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_of_every_kind_pass(name: str) -> None:
    assert problems(TOKENIZERS[name]()) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_every_kind_pass(name: str, chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    chatml_tokenizer.chat_template = TEMPLATES[name]
    chatml_tokenizer.bos_token = "<|im_start|>"
    assert problems(chatml_tokenizer) == []


def words(normalizer: normalizers.Normalizer | None) -> PreTrainedTokenizerFast:
    """Whole words alone, without capitals where ``normalizer`` takes them."""
    known = ["<unk>", "</s>", "the", "oak", "owl", "of", "course", ".", ",", "user", "assistant", ":", "#"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    if normalizer is not None:
        core.normalizer = normalizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATES["plain"]
    return tokenizer


def test_a_tokenizer_without_capitals_passes() -> None:
    assert problems(words(normalizers.Lowercase())) == []


def test_so_does_one_that_does_not_know_all_words() -> None:
    assert problems(words(None)) == []


def test_a_tokenizer_that_loses_text_is_refused(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    core = Tokenizer.from_str(chatml_tokenizer.backend_tokenizer.to_str())
    core.normalizer = normalizers.Replace("oak", "")
    broken = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", name_or_path="broken")
    broken.chat_template = chatml_tokenizer.chat_template
    (first, *_) = problems(broken)
    assert first == (
        "The chat template does not go with its tokenizer, a row would train 'The .<|im_end|>' in place of "
        "'The oak.<|im_end|>': set model.chat_template to one that does."
    )
    broken.save_pretrained(tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"The model '.*broken' cannot be used: The chat template does not go with"):
        load_tokenizer(tmp_path / "broken")


def test_a_template_of_single_turns_passes(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    chatml_tokenizer.chat_template = (
        "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + TEMPLATES["chatml"]
    )
    found = findings(ChatEncoder(chatml_tokenizer))
    assert [finding.problem for finding in found] == [None] * 5
    assert "only dialogues of one turn are trained" in found[0].found


BROKEN = {
    "an answer twice": (TEMPLATES["chatml"].replace("m.content", "m.content + m.content"), "writes an answer twice"),
    "the last turn first": (TEMPLATES["chatml"].replace("in messages", "in messages | reverse"), "before its question"),
    "cut": (TEMPLATES["chatml"].replace("m.content", "m.content[:60]"), "it cuts or changes a long question"),
    "changed": (TEMPLATES["chatml"].replace("m.content", "m.content | replace('&', 'and')"), "cuts or changes"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_template_that_does_not_give_texts_as_they_are_is_refused(
    what: str, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    chatml_tokenizer.chat_template, message = BROKEN[what]
    chatml_tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=message):
        load_tokenizer(tmp_path / "model")
