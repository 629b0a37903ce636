"""The reward model's scores are those of each row alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from families import BORDER, tiny_config
from transformers import AutoModelForSequenceClassification

from selfjudge.baselines.pairs import response_ids
from selfjudge.baselines.scorer import RewardScorer, best_of, load_scorer
from selfjudge.engines.load import load_tokenizer
from selfjudge.errors import ModelError
from selfjudge.judge import as_messages
from selfjudge.records import Message


@pytest.mark.parametrize("token_budget", [None, 40], ids=["one batch", "several"])
def test_the_scorer_is_the_model_row_by_row(reward_folder: Path, token_budget: int | None) -> None:
    scorer = load_scorer(reward_folder, token_budget=token_budget)
    prompts = ["Name a fox.", "Name two things of the sea for Ada.", "Name a fox.", "Name a fox."]
    responses = ["fox", "coral tide", "", "fox owl oak"]
    rewards = scorer.score(prompts, responses)
    alone = [scorer.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert rewards == pytest.approx(alone, abs=1e-5)
    assert len(set(rewards)) == 4
    ids = [
        i for part in response_ids((Message(role="user", content=prompts[1]),), responses[1], scorer.chat) for i in part
    ]
    hidden = scorer.model.model(torch.tensor([ids])).last_hidden_state[0, -1]
    assert rewards[1] == pytest.approx(float((hidden @ scorer.model.score.weight[0]).detach()), abs=1e-5)
    order = sorted(range(3), key=lambda i: scorer.score(["Name a fox."] * 3, ["fox", "", "fox owl oak"])[i])
    assert best_of(scorer, ["Name a fox."], [["fox", "", "fox owl oak"]]) == [order[-1]]


def test_a_causal_model_is_no_reward_model(tiny_model_folder: Path) -> None:
    with pytest.raises(ModelError, match="no reward model"):
        load_scorer(tiny_model_folder)


@pytest.mark.parametrize("family", ["phi3 (longrope)", "llama (dynamic rope)"])
def test_a_short_row_has_its_own_reward_beside_a_long_one(tiny_model_folder: Path, family: str) -> None:
    chat = load_tokenizer(tiny_model_folder)
    config = tiny_config(family, len(chat.tokenizer), num_labels=1, pad_token_id=chat.tokenizer.pad_token_id)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    prompts, responses = ["Name a fox."] * 2, ["fox", "fox owl oak " * 12]
    parts = [response_ids(as_messages(x), y, chat) for x, y in zip(prompts, responses, strict=True)]
    rows = [[*prompt, *response] for prompt, response in parts]
    assert len(rows[0]) < BORDER < len(rows[1])
    with torch.no_grad():  # by a model that has seen nothing else
        alone = [float(copy.deepcopy(model)(input_ids=torch.tensor([row])).logits) for row in rows]
    found = RewardScorer(model, chat).score(prompts, responses)
    assert found == pytest.approx(alone, abs=1e-5)
