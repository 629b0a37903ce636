"""Copies of pairs with people exchanged: what they say, which are not made, and that none leaks what is held out."""

import pytest
from stored_data import prepared_records

from selfjudge.data.counterfactual import counterfactuals
from selfjudge.data.rows import DroppedRow
from selfjudge.data.sources import split_by_prompt
from selfjudge.errors import RecipeError
from selfjudge.recipes.load import changed, load_recipe
from selfjudge.records import Message, PreferenceRecord
from selfjudge.training.jsft import judgment_pairs


def record(key: str, prompt: str, chosen: str, rejected: str, **more: str) -> PreferenceRecord:
    messages = (Message(role="user", content=prompt),)
    return PreferenceRecord(id=key, prompt=messages, chosen=chosen, rejected=rejected, **more)


ADA = record("a", "Is Ada here?", "She is.", "Ask Maria.", chosen_rationale="She answers.", source="s")
BEN = record("a:swapped", "Is Ben here?", "He is.", "Ask John.", chosen_rationale="He answers.", source="s")
NOBODY = record("n", "What is it?", "A fox.", "An owl.")
TWO_READINGS = record("t", "What did she do?", "She told him stories.", "Nothing.")


def test_a_copy_has_the_same_label_and_all_texts_exchanged() -> None:
    assert counterfactuals([ADA, NOBODY]) == ([BEN], [])


def test_a_copy_that_would_not_come_back_is_named_instead() -> None:
    reason = "exchanging people again gives another text"
    assert counterfactuals([TWO_READINGS]) == ([], [DroppedRow("judgment", "t:swapped", reason)])


def test_the_recipe_decides_and_policy_rows_have_no_copies() -> None:
    data = prepared_records([ADA, TWO_READINGS])
    recipe = load_recipe("demo")
    assert judgment_pairs(recipe, data) == ([ADA, TWO_READINGS], [])
    pairs, dropped = judgment_pairs(changed(recipe, ["jsft.counterfactual=true"]), data)
    assert pairs == [ADA, TWO_READINGS, BEN]
    assert [row.name for row in dropped] == ["t:swapped"]
    assert data.policy == [ADA, TWO_READINGS]


def test_a_copy_whose_prompt_is_held_out_is_not_trained_on() -> None:
    names = ("Ada", "Maria", "Aisha", "Mei", "Fatima", "Anna", "Emily", "Sarah", "Laura", "Linda", "Susan", "Karen")
    every = [record(name, f"Is {name} here?", "Yes.", "No.") for name in names]
    train, held_out = split_by_prompt(every, 0.5, 0)
    recipe = changed(load_recipe("demo"), ["jsft.counterfactual=true", "data.held_out=0.5"])
    pairs, _ = judgment_pairs(recipe, prepared_records(train))
    copies = list(pairs)[len(train) :]
    kept, away = split_by_prompt(counterfactuals(train)[0], 0.5, 0)
    assert min(map(len, (held_out, away, kept))) > 0  # else there is nothing to see
    assert copies == list(kept)


def test_policy_rows_alone_have_nothing_to_copy() -> None:
    with pytest.raises(RecipeError, match="set rows to both or judgment"):
        changed(load_recipe("demo"), ["jsft.counterfactual=true", "jsft.rows=policy"])
