"""Replay: which JSFT rows a step goes over again, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from selfjudge.data.collate import JsftCollator
from selfjudge.data.rows import Row
from selfjudge.training.arguments import training_arguments
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.replay import Replay, ReplayBatch, replay_loss
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer, _micro_batch


def row(first: int, kind: str = "policy", pair: str | None = None) -> Row:
    return Row(kind, str(first), (first, first + 1, first + 2), (False, True, True), pair)  # type: ignore[arg-type]


EXAMPLES = [(row(i),) for i in range(10, 30)] + [(row(i, "judgment", "p"), row(i + 1, "judgment", "p")) for i in (40,)]
REPLAY = Replay(EXAMPLES, JsftCollator(0, judgment_weight=4.0), weight=0.5)


def firsts(replay: Replay, sizes: list[int], seed: str) -> list[list[int]]:
    return [batch["input_ids"][:, 0].tolist() for batch in replay.batches(sizes, seed)]


def test_the_draw_depends_on_the_seed_and_not_on_the_micro_batches() -> None:
    (whole,) = firsts(REPLAY, [8], "a")
    for sizes in ([1] * 8, [3, 5]):
        assert list(chain.from_iterable(firsts(REPLAY, sizes, "a"))) == whole
    assert firsts(REPLAY, [8], "b") != [whole]


def test_both_orders_of_a_pair_stay_together_and_few_rows_are_drawn_again() -> None:
    replay = Replay(EXAMPLES[-1:], REPLAY.collator, 1.0)
    assert firsts(replay, [1, 2], "a") == [[40, 41], [40, 41, 40, 41]]
    # Two targets a row, each of weight 4.
    assert [batch["weight"] for batch in replay.batches([1, 2], "a")] == [16.0, 32.0]


def test_the_loss_is_the_weighted_cross_entropy(
    world_tokenizer: PreTrainedTokenizerBase, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(world_tokenizer)
    rows = [row(10), row(40, "judgment")]
    batch = REPLAY.collator([{"rows": (r,)} for r in rows])
    with torch.no_grad():
        expected = 0.0
        for r, weight in zip(rows, (1.0, 4.0), strict=True):
            logprobs = model(torch.tensor([r.ids])).logits[0].log_softmax(-1)
            expected -= weight * float(logprobs[0, r.ids[1]] + logprobs[1, r.ids[2]])
        assert float(replay_loss(model, batch)) == pytest.approx(expected, rel=1e-5)


def test_a_process_takes_its_part_of_a_steps_draw() -> None:
    def ids(batches: list[ReplayBatch]) -> list[list[list[int]]]:
        return [batch["input_ids"].tolist() for batch in batches]

    whole = ids(REPLAY.batches([3, 1, 2], "a"))
    assert ids(REPLAY.batches([1, 2], "a", before=3)) == whole[1:]
    assert ids(REPLAY.batches([3], "a")) == whole[:1]
    assert REPLAY.batches([0], "a", before=6)[0]["weight"] == 0.0  # a process without prompts


def test_a_micro_batch_without_pairs_still_replays(
    tmp_path: Path, world_tokenizer: PreTrainedTokenizerBase, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(world_tokenizer)
    args = training_arguments("self_training", {"use_cpu": True}, tmp_path, seed=0)
    prompts = [RolloutPrompt("p", (), ())]
    trainer = SelfJudgeTrainer(model, args, prompts=prompts, collector=None, pad_id=0, replay=REPLAY)  # type: ignore[arg-type]
    (batch,) = REPLAY.batches([3], "a")
    total = torch.tensor(2 * batch["weight"])  # another micro-batch has the other half
    inputs = {**_micro_batch([], 3, 0), "replay": {**batch, "total": total}}
    with torch.no_grad():
        expected = 0.5 * replay_loss(model, batch) / total
        assert float(trainer.compute_loss(model, inputs, num_items_in_batch=torch.tensor(5.0))) == pytest.approx(
            float(expected)
        )
