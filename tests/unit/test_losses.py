"""Losses against values derived by hand, a plain computation, and TRL's DPO trainer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from selfjudge.core.losses import LossName, Objective, length_regularised, log_ratio, preference_loss
from selfjudge.engines.responses import response_logprobs
from selfjudge.training.pairs import Pair, collate_pairs

NAMES: tuple[LossName, ...] = get_args(LossName)


def loss_of(margin: float, strength: float, loss: LossName, beta: float = 0.1) -> float:
    return float(preference_loss(torch.tensor([margin]), torch.tensor([strength]), loss=loss, beta=beta))


@pytest.mark.parametrize(
    ("loss", "margin", "expected"),
    [
        # beta = 0.1. sigmoid: log(1 + e^-0.2) = log 1.8187308 = 0.5981389; log(1 + e^0.3) = log 2.3498588 = 0.8543552
        ("sigmoid", 2.0, 0.5981389),
        ("sigmoid", -3.0, 0.8543552),
        ("sigmoid", 0.0, math.log(2)),
        # hinge: 1 - 0.1 * 2; 1 + 0.1 * 3; nothing beyond h = 1 / beta = 10
        ("hinge", 2.0, 0.8),
        ("hinge", -3.0, 1.3),
        ("hinge", 12.0, 0.0),
        # ipo: the wanted margin is 1 / (2 * 0.1) = 5: (2 - 5)^2; (-3 - 5)^2; 0 at 5
        ("ipo", 2.0, 9.0),
        ("ipo", -3.0, 64.0),
        ("ipo", 5.0, 0.0),
    ],
)
def test_hard_labels_by_hand(loss: LossName, margin: float, expected: float) -> None:
    assert loss_of(margin, 1.0, loss) == pytest.approx(expected, abs=1e-6)
    # Strength 0 says that the second is the better one: the same loss of the turned margin.
    assert loss_of(-margin, 0.0, loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # strength 0.75, h = 2: 3/4 of L(2) and 1/4 of L(-2)
        ("sigmoid", 0.75 * 0.5981389 + 0.25 * 0.7981389),  # log(1 + e^0.2) = 0.2 + log(1 + e^-0.2)
        ("hinge", 0.75 * 0.8 + 0.25 * 1.2),
        ("ipo", 0.75 * 9 + 0.25 * 49),
    ],
)
def test_soft_labels_by_hand(loss: LossName, expected: float) -> None:
    assert loss_of(2.0, 0.75, loss) == pytest.approx(expected, abs=1e-6)


def test_there_is_no_reduction() -> None:
    losses = preference_loss(torch.tensor([2.0, -3.0]), torch.tensor([1.0, 0.0]), loss="hinge", beta=0.1)
    assert losses.tolist() == pytest.approx([0.8, 0.7])  # 1 - 0.1 * 2; the second: L(+3) = 1 - 0.1 * 3


def gradient(margin: float, strength: float, loss: LossName, beta: float) -> float:
    h = torch.tensor(margin, dtype=torch.float64, requires_grad=True)
    preference_loss(h, torch.tensor(strength, dtype=torch.float64), loss=loss, beta=beta).backward()
    return float(h.grad)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("strength", [0.55, 0.75, 0.99, 0.2])
def test_the_soft_optimum_lies_at_logit_s_over_beta(strength: float, beta: float) -> None:
    optimum = math.log(strength / (1 - strength)) / beta
    assert gradient(optimum, strength, "sigmoid", beta) == pytest.approx(0, abs=1e-12)
    assert gradient(optimum - 1, strength, "sigmoid", beta) < 0 < gradient(optimum + 1, strength, "sigmoid", beta)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # d/dh, strength 0.75, h = 2, beta = 0.1.
        # sigmoid: beta (sigma(beta h) - s) = 0.1 (1 / 1.8187308 - 0.75)
        ("sigmoid", 0.1 * (0.5498340 - 0.75)),
        # hinge: beta (-s + (1 - s)) where neither side is flat
        ("hinge", 0.1 * (0.25 - 0.75)),
        # ipo: s 2(h - 5) + (1 - s) 2(h + 5)
        ("ipo", 0.75 * 2 * -3 + 0.25 * 2 * 7),
    ],
)
def test_gradients_by_hand(loss: LossName, expected: float) -> None:
    assert gradient(2.0, 0.75, loss, 0.1) == pytest.approx(expected, abs=1e-7)


def test_log_ratio_is_per_token_for_ipo_alone() -> None:
    policy, reference = torch.tensor([-6.0, -1.0]), torch.tensor([-9.0, -2.0])
    lengths = torch.tensor([3, 0])  # an empty response has no tokens to average over
    for loss in NAMES:
        ratio = log_ratio(policy, reference, lengths, loss=loss).tolist()
        assert ratio == ([1.0, 1.0] if loss == "ipo" else [3.0, 1.0]), loss


TEXTS = [  # of different lengths, so that both sides pad
    {"prompt": "Name two things.", "chosen": " oak, moss, fern", "rejected": " oak"},
    {"prompt": "And three things of the sea, with coral and tide?", "chosen": " tide", "rejected": " tide, coral"},
    {"prompt": "Why?", "chosen": " Because it rains here, said the owl.", "rejected": " No."},
    {"prompt": "What else is there to name", "chosen": " a", "rejected": " a b c"},
]
BETA = 0.3


@pytest.fixture
def policy_and_reference(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    policy, reference = tiny_llama(chatml_tokenizer, 1), tiny_llama(chatml_tokenizer, 1)
    with torch.no_grad():
        for weight, other in zip(policy.parameters(), tiny_llama(chatml_tokenizer, 2).parameters(), strict=True):
            weight += 0.05 * other  # near the reference, as in training
    return policy, reference


def plain_logprob(model: PreTrainedModel, prompt: list[int], response: list[int]) -> torch.Tensor:
    """The log-prob of a response, one row at a time and without any padding."""
    logprobs = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    steps = [logprobs[len(prompt) + i - 1, token] for i, token in enumerate(response)]
    return torch.stack(steps).sum()


def our_loss(
    policy: PreTrainedModel, reference: PreTrainedModel, rows: list[dict[str, Any]], strength: float, loss: LossName
) -> torch.Tensor:
    """The batch's mean loss, put together as SelfJudgeTrainer does."""
    pairs = [Pair(tuple(r["prompt_ids"]), tuple(r["chosen_ids"]), tuple(r["rejected_ids"]), strength) for r in rows]
    batch = collate_pairs(pairs, pad_id=0)
    with torch.no_grad():
        batch["reference"] = response_logprobs(reference, batch)
    ratio = log_ratio(response_logprobs(policy, batch), batch["reference"], batch["response_mask"].sum(-1), loss=loss)
    n = len(rows)
    return preference_loss(ratio[:n] - ratio[n:], batch["strength"], loss=loss, beta=BETA).mean()


def gradients(model: PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert max(float(g.abs().max()) for g in ours.values()) > 1e-2  # there is something to compare
    for name, gradient_ in ours.items():
        torch.testing.assert_close(gradient_, theirs[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize("loss", NAMES)
def test_loss_and_gradient_equal_a_plain_computation(
    loss: LossName,
    strength: float,
    policy_and_reference: tuple[LlamaForCausalLM, LlamaForCausalLM],
    chatml_tokenizer: PreTrainedTokenizerFast,
) -> None:
    policy, reference = policy_and_reference
    rows = [
        {f"{name}_ids": chatml_tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in row.items()}
        for row in TEXTS
    ]
    total = torch.zeros(())
    for row in rows:
        x, w, y = row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]
        with torch.no_grad():
            ref_w, ref_y = plain_logprob(reference, x, w), plain_logprob(reference, x, y)
        of_w, of_y = plain_logprob(policy, x, w) - ref_w, plain_logprob(policy, x, y) - ref_y
        if loss == "sigmoid":
            z = BETA * (of_w - of_y)
            total = total - strength * F.logsigmoid(z) - (1 - strength) * F.logsigmoid(-z)
        elif loss == "hinge":
            z = BETA * (of_w - of_y)
            total = total + strength * (1 - z).clamp(min=0) + (1 - strength) * (1 + z).clamp(min=0)
        else:
            h = of_w / len(w) - of_y / len(y)
            total = total + strength * (h - 0.5 / BETA) ** 2 + (1 - strength) * (h + 0.5 / BETA) ** 2
    expected = total / len(rows)
    ours = our_loss(policy, reference, rows, strength, loss)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(gradients(policy, ours), gradients(policy, expected))


@pytest.mark.parametrize("loss", NAMES)
def test_loss_and_gradient_equal_trl(
    loss: LossName,
    policy_and_reference: tuple[LlamaForCausalLM, LlamaForCausalLM],
    chatml_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    from trl import DPOConfig, DPOTrainer

    policy, reference = policy_and_reference
    theirs = copy.deepcopy(policy)  # TRL patches the model that it is given
    trainer = DPOTrainer(
        theirs,
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(
            output_dir=str(tmp_path),
            loss_type=loss,
            beta=BETA,
            bf16=False,
            use_cpu=True,
            report_to="none",
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(TEXTS),
        processing_class=chatml_tokenizer,
    )
    rows = [{k: r[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")} for r in trainer.train_dataset]
    assert len(rows) == len(TEXTS)
    expected = trainer.compute_loss(theirs, trainer.data_collator(rows))
    ours = our_loss(policy, reference, rows, 1.0, loss)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(gradients(policy, ours), gradients(theirs, expected))
    # Soft labels are what TRL gives for the pairs as they are and turned round, weighted by the belief in each.
    turned = [{**r, "chosen_ids": r["rejected_ids"], "rejected_ids": r["chosen_ids"]} for r in rows]
    flipped = trainer.compute_loss(theirs, trainer.data_collator(turned))
    soft = our_loss(policy, reference, rows, 0.7, loss)
    assert soft.item() == pytest.approx(0.7 * expected.item() + 0.3 * flipped.item(), abs=1e-5)


def test_a_length_penalty_by_hand() -> None:
    margin = length_regularised(torch.tensor([2.0, 2.0]), torch.tensor([3, -3]), penalty=0.01, beta=0.1)
    assert margin.tolist() == pytest.approx([2.3, 1.7])  # 2 +- 0.01 / 0.1 * 3


def test_a_length_penalty_pays_for_tokens() -> None:
    # R-DPO's policy is pi_ref exp((r - a |y|) / b) up to a constant: where two responses are equally good, the longer
    # by 5 tokens has a log-ratio smaller by a / b * 5.
    wanted = -0.02 / 0.1 * 5
    h = torch.tensor(wanted, dtype=torch.float64, requires_grad=True)
    margin = length_regularised(h, torch.tensor(5), penalty=0.02, beta=0.1)
    preference_loss(margin, torch.tensor(0.5, dtype=torch.float64), loss="sigmoid", beta=0.1).backward()
    assert float(h.grad) == pytest.approx(0, abs=1e-12)


def test_no_length_penalty_on_a_margin_per_token() -> None:
    # With beta 0.1, ipo wants a margin of 5 nats a token; a penalty of .02 and 100 tokens more would move it by 20.
    with pytest.raises(ValueError, match="length_penalty"):
        Objective("ipo", 0.1, length_penalty=0.02)
    for loss in NAMES:
        assert Objective(loss, 0.1, length_penalty=0.0, nll_weight=0.5).loss == loss


def test_the_objective_by_hand() -> None:
    policy, reference = torch.tensor([-4.0, -6.0, -5.0, -9.0]), torch.tensor([-5.0, -6.0, -4.0, -6.0])
    lengths, strength = torch.tensor([2, 3, 4, 1]), torch.tensor([1.0, 1.0])
    # h = (-4 + 5) - (-5 + 4) = 2 and (-6 + 6) - (-9 + 6) = 3
    losses, margin = Objective("hinge", 0.1)(policy, reference, lengths, strength)
    assert margin.tolist() == pytest.approx([2, 3])
    assert losses.tolist() == pytest.approx([0.8, 0.7])
    # + 0.5 * 4 / 2 and 0.5 * 6 / 3; a token costs 0.05: lengths differ by -2 and 2, so h is 2 - 1 and 3 + 1
    losses, margin = Objective("hinge", 0.1, 0.05, 0.5)(policy, reference, lengths, strength)
    assert margin.tolist() == pytest.approx([2, 3])
    assert losses.tolist() == pytest.approx([0.9 + 1.0, 0.6 + 1.0])
    # ipo counts per token: h = 1 / 2 + 1 / 4 = 0.75, and 0 + 3 = 3; (h - 5)^2
    losses, _ = Objective("ipo", 0.1)(policy, reference, lengths, strength)
    assert losses.tolist() == pytest.approx([4.25**2, 4.0])
    # An answer of one token has its own log-prob; an empty one has none to divide.
    short = torch.tensor([1, 0, 4, 1])
    losses, _ = Objective("hinge", 0.1, nll_weight=0.5)(policy, reference, short, strength)
    assert losses.tolist() == pytest.approx([0.8 + 2.0, 0.7 + 3.0])
