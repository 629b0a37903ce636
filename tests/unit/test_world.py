"""The small world: its truth by hand, its people's noise, its splits and its tokenizer."""

import math
import random
from collections import Counter
from itertools import combinations
from statistics import fmean, stdev
from typing import get_args

import pytest
import torch

from selfjudge.errors import DataError
from selfjudge.records import PreferenceRecord
from selfjudge.world.grammar import (
    COUNTS,
    FILLERS,
    NAMES,
    TOPICS,
    Ask,
    Split,
    every_prompt,
    parse,
    render,
    split_of,
    task_of,
)
from selfjudge.world.model import SPECIAL_TOKENS, build_model, build_tokenizer
from selfjudge.world.people import preference_records, prompts, respond, unlabelled
from selfjudge.world.truth import CLEAR_DIFFERENCE, clearly_different, label, utility

SPLITS = get_args(Split)
PROMPT = "Name four things of the sea and the farm for Ada."


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("coral tide cow hay", 1.0 + 0.5),  # perfect
        ("Coral, tide; cow. HAY!", 1.0 + 0.5),  # case and punctuation do not matter
        ("coral tide wave shell", 1.0 + 0.25),  # one of two topics covered
        ("coral tide cow oak", 3 / 4 + 0.5),  # a forest word
        ("coral um cow hay", 3 / 4 + 0.5),  # a filler belongs to no topic
        ("coral cow cow hay", 1.0 + 0.5 - 1 / 4),  # one of four words repeated
        ("coral tide cow", 1.0 + 0.5 - 1 / 4),  # one too few
        ("coral tide cow hay barn", 1.0 + 0.5 - 1 / 4),  # one too many costs the same
        ("um stuff oak fern", 0.0),  # nothing right but the amount
        ("", -1.0),  # no words, four missing
        ("coral tide wave shell anchor whale crab cow hay barn pig hen goat", 1.0 + 0.5 - 2.0),  # the amount is capped
    ],
)
def test_utility_by_hand(response, expected):
    assert utility(PROMPT, response) == pytest.approx(expected)


def test_utility_needs_a_prompt_of_the_grammar():
    with pytest.raises(DataError, match="not a prompt of the small world"):
        utility("What is the capital of France?", "Paris")


def test_clearly_different():
    assert clearly_different(1.0, 1.0 + CLEAR_DIFFERENCE)
    assert clearly_different(1.0 + CLEAR_DIFFERENCE, 1.0)
    assert not clearly_different(1.0, 1.0 + CLEAR_DIFFERENCE / 2)


def test_label_follows_a_large_difference_and_flips_a_coin_on_none():
    rng = random.Random(0)
    assert all(label(50.0, 0.0, rng) for _ in range(100))
    assert not any(label(-50.0, 0.0, rng) for _ in range(100))
    assert 0.45 < sum(label(1.0, 1.0, rng) for _ in range(4000)) / 4000 < 0.55


def test_vocabulary_is_distinct():
    words = [*(word for words in TOPICS.values() for word in words), *FILLERS, *TOPICS, *COUNTS, *NAMES]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("phrasing", range(4))
def test_prompts_parse_back(phrasing):
    ask = Ask(("farm", "sea"), 4, "Ida")
    assert parse(render(ask, phrasing)) == ask


def tasks(prompts_):
    return {(ask.count, frozenset(ask.topics)) for ask in map(parse, prompts_)}


def test_no_task_is_in_two_splits():
    of_split = {split: tasks(every_prompt(split)) for split in SPLITS}
    for a, b in combinations(SPLITS, 2):
        assert not of_split[a] & of_split[b], (a, b)
    assert {split: len(found) for split, found in of_split.items()} == {
        "train": 72, "tuning": 16, "curves": 16, "results": 40
    }  # fmt: skip
    assert sum(len(set(every_prompt(split))) for split in SPLITS) == 16_384
    assert split_of(Ask(("sea", "farm"), 3, "Ada")) == split_of(Ask(("farm", "sea"), 3, "Ben"))
    assert task_of(parse("List three words for the sea and the farm to help Ada.")) == "3 farm+sea"


def test_splits_are_alike_and_training_knows_the_parts_of_every_task():
    for split in SPLITS:
        found = tasks(every_prompt(split))
        assert {count for count, _ in found} == {*COUNTS.values()}
        # In equal numbers; of a task with one topic there are 8 for each count, with two 28.
        kinds = Counter((count, len(topics)) for count, topics in found)
        assert len({kinds[count, 1] for count in COUNTS.values()}) == 1
        assert len({kinds[count, 2] for count in COUNTS.values()}) == 1
    trained = tasks(every_prompt("train"))
    for count, topics in tasks(every_prompt("results")):
        for topic in topics:
            assert any(topic in known and count == n for n, known in trained), (count, topic)


@pytest.mark.parametrize("split", SPLITS)
def test_prompts_are_distinct_and_seeded(split):
    drawn = prompts(500, 3, split)
    assert len(set(drawn)) == 500
    assert set(drawn) <= set(every_prompt(split))
    assert prompts(500, 3, split) == drawn
    assert prompts(500, 4, split) != drawn


def test_seeds_share_no_prompt_while_there_are_enough():
    drawn = [prompt for seed in range(5) for prompt in prompts(800, seed, "results")]
    assert len(set(drawn)) == 4000
    assert len(prompts(len(every_prompt("curves")), 1, "curves")) == len(set(every_prompt("curves")))


def test_prompts_say_what_is_wrong():
    with pytest.raises(DataError, match="unknown split"):
        prompts(1, 0, "validation")
    with pytest.raises(DataError, match="results prompts"):
        prompts(10**6, 0, "results")


def test_text_without_labels_tells_nothing_of_what_people_prefer():
    texts = unlabelled(4000, 1)
    assert texts == unlabelled(4000, 1)
    assert texts[0] != unlabelled(1, 2)[0]
    train = set(every_prompt("train"))
    assert all(text.prompt in train and text.pair[0] != text.pair[1] for text in texts)
    rng = random.Random(0)
    people = [utility(text.prompt, respond(parse(text.prompt), rng)) for text in texts]
    # One person's answers, and neither side of a pair is better on the whole: three standard errors of a difference.
    error = 3 * math.sqrt(2) * stdev(people) / math.sqrt(len(texts))
    for written in (lambda text: text.answer, lambda text: text.pair[0], lambda text: text.pair[1]):
        found = fmean(utility(text.prompt, written(text)) for text in texts)
        assert abs(found - fmean(people)) < error
    preferred = fmean(utility(r.prompt[-1].content, r.chosen) for r in preference_records(4000, 1))
    assert preferred > fmean(people) + 3 * error


def test_preference_records():
    records = preference_records(6000, 1)
    assert records[:200] == preference_records(6000, 1)[:200]
    assert len({record.id for record in records}) == 6000
    train = set(every_prompt("train"))
    for record in records:
        assert record.prompt[-1].content in train
        assert record.chosen != record.rejected
        assert record.chosen.strip()
        assert record.rejected.strip()
    assert PreferenceRecord.model_validate_json(records[0].model_dump_json()) == records[0]
    assert records[0] != preference_records(1, 2)[0]


def test_labels_are_as_noisy_as_people_and_length_is_no_proxy():
    records = preference_records(6000, 5)
    gaps = [utility(r.prompt[-1].content, r.chosen) - utility(r.prompt[-1].content, r.rejected) for r in records]
    told = [gap for gap in gaps if abs(gap) > 1e-9]
    assert 0.15 <= sum(gap < 0 for gap in told) / len(told) <= 0.25
    lengths = [(len(r.chosen.split()), len(r.rejected.split())) for r in records]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    assert 0.45 <= sum(unequal) / len(unequal) <= 0.60


def test_people_are_mostly_careful_or_careless():
    rng = random.Random(0)

    def on_topic(ask):
        words = respond(ask, rng).split()
        return sum(any(word in TOPICS[topic] for topic in ask.topics) for word in words) / len(words), len(words)

    shares = [share for share, n in (on_topic(parse(p)) for p in prompts(4000, 0, "train")) if n >= 3]
    # With care drawn evenly it would be 38 % (44 % here): all of the words or none.
    assert sum(share in (0, 1) for share in shares) / len(shares) > 0.41


def test_people_leave_room_above_them():
    rng = random.Random(0)
    scores = [utility(prompt, respond(parse(prompt), rng)) for prompt in prompts(2000, 0, "train")]
    assert 0.05 < sum(score > 1.4999 for score in scores) / len(scores) < 0.4


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("text", ["", " ", "Ünïcödé 漢字 🙂\n\n\ttab  x", "{context} {}", " Apple", "a\u0000b", PROMPT])
def test_any_text_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_every_prompt_is_spelt_in_whole_words(tokenizer):
    # "forest" begins like " for": a phrase must not cut a word into pieces.
    prompts_ = [prompt for split in SPLITS for prompt in every_prompt(split)]
    for prompt, ids in zip(prompts_, tokenizer(prompts_, add_special_tokens=False).input_ids, strict=True):
        assert len(ids) == (7 if len(parse(prompt).topics) == 1 else 9), prompt


def test_words_and_labels_are_single_tokens(tokenizer):
    words = [*(word for words in TOPICS.values() for word in words), *FILLERS]
    for text in [*words, *(f" {word}" for word in words), "A", "B", " A", " B", *SPECIAL_TOKENS]:
        assert len(tokenizer(text, add_special_tokens=False).input_ids) == 1, text
    chat = [{"role": "user", "content": PROMPT}]
    prefix = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prefix, add_special_tokens=False).input_ids
    for name in "AB":
        assert tokenizer(prefix + name, add_special_tokens=False).input_ids == [
            *ids,
            tokenizer.convert_tokens_to_ids(name),
        ]


def test_chat_template_and_special_tokens(tokenizer):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "coral"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\ncoral<|im_end|>\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_tokenizer_is_deterministic(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_model_depends_on_its_seed_alone(tokenizer):
    state = torch.random.get_rng_state()
    a, b, c = build_model(tokenizer, 0), build_model(tokenizer, 0), build_model(tokenizer, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    assert all(torch.equal(x, y) for x, y in pairs)
    assert not torch.equal(a.model.embed_tokens.weight, c.model.embed_tokens.weight)
    assert sum(p.numel() for p in a.parameters()) < 800_000
    assert a.dtype == torch.float32
    assert a.model.embed_tokens.weight is a.lm_head.weight
