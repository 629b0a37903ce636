"""Every baseline trains; its ids, masks, references and labels are those of our own stages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import pytest
import torch
from stored_data import prepared_records
from trl import DPOTrainer

from selfjudge.baselines import rlhf, rounds, sft
from selfjudge.baselines.dpo import dpo_arguments, dpo_trainer
from selfjudge.baselines.pairs import response_ids, token_pair, token_pairs
from selfjudge.baselines.replay import Offline, OffPolicy, ReplayCollector
from selfjudge.baselines.run import METHODS, run_baseline
from selfjudge.baselines.scorer import RewardScorer, load_scorer
from selfjudge.data.collate import JsftCollator
from selfjudge.data.io import read_jsonl
from selfjudge.data.load import prepare_data
from selfjudge.data.rows import build_policy_rows
from selfjudge.data.store import Stored
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel, load_model
from selfjudge.errors import MissingExtraError, RunError
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Comparison, Message, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft import run_jsft
from selfjudge.training.rollout import Rollout
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training

STEPS = {"max_steps": 3, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "save_strategy": "no"}
SMALL = {
    "rso": {"candidates": 4, "accepted": 4},
    "raft": {"rounds": 2, "candidates": 2},
    "rest": {"rounds": 1, "candidates": 2},
}
Distance = Callable[..., float]


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe], reward_folder: Path, tiny_model_folder: Path) -> Callable[..., Recipe]:
    """Makes recipes whose SFT model is the tiny model and whose reward model is a random one."""

    def make(lora: dict[str, Any] | None = None, pairs: int = 24, **baselines: Any) -> Recipe:
        made = tiny_recipe(
            pairs, jsft={"lora": lora, "training": STEPS}, self_training={"lora": lora, "training": STEPS}
        )
        sections = {**SMALL, "start": str(tiny_model_folder), "reward": str(reward_folder), **baselines}
        return Recipe.model_validate({**made.model_dump(), "baselines": sections})

    return make


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(run.path / "metrics.jsonl")]


@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.0}], ids=["full", "lora"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(
    tmp_path: Path,
    recipe: Callable[..., Recipe],
    tiny_model_folder: Path,
    distance: Distance,
    method: Any,
    lora: dict[str, Any] | None,
) -> None:
    run = run_baseline(method, recipe(lora), tmp_path / "run")
    assert run.info["status"] == "finished"
    assert run.info["steps"] == (2 if method in ("raft", "rest") else 3)  # three steps do not divide into two parts
    assert run.info["start"]
    rows = metrics(run)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, run.info["steps"] + 1))
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    # Of the reward model the body alone has a counterpart.
    trained = load_scorer(run.path).model.model if method == "reward-model" else load_model(run.path).model
    before = load_model(tiny_model_folder).model
    assert distance(trained, before.model if method == "reward-model" else before) > 1e-4


def test_sft_trains_the_rows_of_jsft_and_ends_where_it_does(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, distance: Distance
) -> None:
    seen: list[Any] = []
    train = sft.train
    monkeypatch.setattr(sft, "train", lambda trainer, run: (seen.append(trainer), train(trainer, run)))
    made = recipe()
    run = run_baseline("sft", made, tmp_path / "sft")
    loaded = load_model(made.model.path)
    rows = build_policy_rows(prepare_data(made.data, made.seed).policy, loaded.chat, 128).rows
    # What reaches the model, batch by batch, against our own collator.
    ids = {tuple(r["input_ids"]): r["labels"] for r in seen[0].train_dataset}
    assert set(ids) == {row.ids for row in rows}
    for row in rows:
        assert ids[row.ids] == [i if t else -100 for i, t in zip(row.ids, row.is_target, strict=True)]
    batch = next(iter(seen[0].get_train_dataloader()))
    ours = {row.ids: row for row in rows}
    pad = loaded.chat.tokenizer.pad_token_id
    for i, mask in enumerate(batch["attention_mask"]):
        row = ours[tuple(batch["input_ids"][i][mask.bool()].tolist())]
        collated = JsftCollator(pad, 1.0)([{"rows": (row,)}])
        labelled = (batch["labels"][i][mask.bool()] != -100).nonzero().squeeze(-1)
        assert labelled.tolist() == collated["targets"].tolist()
    # JSFT on policy rows alone is plain SFT, so two trainers of two libraries must take the same steps.
    jsft = run_jsft(
        made.model_copy(update={"jsft": made.jsft.model_copy(update={"rows": "policy"})}), tmp_path / "jsft"
    )
    losses = [[row["loss"] for row in metrics(r) if "loss" in row] for r in (run, jsft)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert distance(load_model(run.path).model, load_model(jsft.path).model) < 1e-4


def test_pairs_have_the_ids_of_policy_rows(chatml_tokenizer: Any, plain_tokenizer: Any) -> None:
    for tokenizer in (chatml_tokenizer, plain_tokenizer):
        chat = ChatEncoder(tokenizer)
        prompt = tuple(
            Message(role=role, content=text)
            for role, text in (("user", "Hi there"), ("assistant", "Hello  "), ("user", "Go on <|im_end|>"))
        )
        record = PreferenceRecord(id="r", prompt=prompt, chosen=" one two", rejected="")
        pair = token_pair(record, chat)
        (row,) = build_policy_rows([record], chat, 512).rows
        assert (*pair.prompt_ids, *pair.chosen_ids) == row.ids
        assert all(row.is_target[len(pair.prompt_ids) :])
        assert not row.is_target[len(pair.prompt_ids) - 1]
        assert pair.rejected_ids == pair.chosen_ids[-1:]  # an empty response is the end of its turn
        assert (pair.prompt_ids, pair.chosen_ids) == response_ids(prompt, " one two", chat)


@pytest.mark.parametrize(
    ("loss", "start"), [("sigmoid", math.log(2)), ("hinge", 1.0), ("ipo", 25.0)], ids=["sigmoid", "hinge", "ipo"]
)
@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.0}], ids=["full", "lora"])
def test_dpo_starts_at_its_reference_which_stays(
    tmp_path: Path, recipe: Callable[..., Recipe], distance: Distance, loss: str, start: float, lora: Any
) -> None:
    made = recipe(lora, dpo={"loss": loss})
    loaded = load_model(made.baselines.start)
    # A model whose path holds other weights: the trainer's own reference would be those.
    with torch.no_grad():
        for p in loaded.model.parameters():
            p.mul_(1.1)
    initial = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    records = prepare_data(made.data, made.seed).judgment
    pairs, _ = token_pairs(records, loaded.chat, 128)
    args = dpo_arguments(made, "dpo", made.baselines.dpo, tmp_path)
    run = RunFolder.open(tmp_path / "run", "dpo", made)
    trainer = dpo_trainer(made, loaded, args, [p for _, p in pairs], run)
    batch = next(iter(trainer.get_train_dataloader()))
    ours = {(*p.prompt_ids, *p.chosen_ids): p.prompt_ids for _, p in pairs}
    ours |= {(*p.prompt_ids, *p.rejected_ids): p.prompt_ids for _, p in pairs}
    assert len(batch["input_ids"]) == 16
    first = [tuple(i[m.bool()].tolist()) for i, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)][:8]
    assert set(first) <= {(*p.prompt_ids, *p.chosen_ids) for _, p in pairs}
    for ids, mask, completion in zip(
        batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
    ):
        row = tuple(ids[mask.bool()].tolist())
        n = len(ours[row])
        assert completion[mask.bool()].tolist() == [0] * n + [1] * (len(row) - n)
    trainer.train()
    assert next(row["loss"] for row in metrics(run) if "loss" in row) == pytest.approx(start, rel=1e-4)
    if lora is None:
        frozen = dict(trainer.ref_model.named_parameters())
        assert all(torch.equal(p, initial[n]) for n, p in frozen.items())
        assert not any(p.requires_grad for p in frozen.values())
        assert distance(trainer.model, trainer.ref_model) > 1e-4
    else:
        assert trainer.ref_model is None
        assert "ref" not in trainer.model.peft_config
        weights = {n.replace(".base_layer", ""): p for n, p in trainer.model.get_base_model().named_parameters()}
        assert all(torch.equal(weights[n], p) for n, p in initial.items())


def _relabelled(records: Stored[PreferenceRecord]) -> Stored[PreferenceRecord]:
    return prepared_records([_longer_wins(record) for record in records]).judgment


def test_the_reward_model_learns_to_tell_the_longer(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(pairs=200, reward_model={"training": {"max_steps": 60, "learning_rate": 1e-2}})
    made.data.held_out = 0.3
    prepare = prepare_data

    def relabelled(*args: Any) -> Any:
        data = prepare(*args)
        return replace(data, judgment=_relabelled(data.judgment), held_out=_relabelled(data.held_out))

    monkeypatch.setattr("selfjudge.baselines.reward_model.prepare_data", relabelled)
    run = run_baseline("reward-model", made, tmp_path / "run")
    found = json.loads((run.path / "run.json").read_text())["held_out"]
    assert found["pairs"] == found["accuracy"]["n"] > 20
    assert found["longer_wins"]["rate"] > 0.85  # some are of equal length
    assert found["accuracy"]["rate"] > 0.65


def _longer_wins(record: PreferenceRecord) -> PreferenceRecord:
    shorter, longer = sorted((record.chosen, record.rejected), key=len)
    return record.model_copy(update={"chosen": longer, "rejected": shorter})


def test_rlhf_keeps_reference_prompts_and_rewards(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, distance: Distance
) -> None:
    seen: list[Any] = []
    scored: list[tuple[Any, str, float]] = []
    train, score = rlhf.train, RewardScorer.score

    def watched(self: RewardScorer, prompts: Any, responses: Any) -> list[float]:
        rewards = score(self, prompts, responses)
        scored.extend(zip(prompts, responses, rewards, strict=True))
        return rewards

    monkeypatch.setattr(RewardScorer, "score", watched)
    monkeypatch.setattr(rlhf, "train", lambda trainer, run: (seen.append(trainer), train(trainer, run)))
    made = recipe()
    run = run_baseline("rlhf", made, tmp_path / "run")
    trainer, start = seen[0], load_model(made.baselines.start)
    assert trainer.ref_model is not trainer.model
    assert distance(trainer.ref_model.cpu(), start.model) == 0
    assert (trainer.num_generations, trainer.beta, trainer.temperature) == (2, 0.1, 1.0)
    assert set(trainer.eos_token_ids) == set(start.chat.stop_ids)
    # 8 prompts a step, two samples each, three steps.
    assert len(scored) == 3 * 8 * 2
    assert len({response for _, response, _ in scored}) > 40
    prompts = {p for p, _, _ in scored}
    assert prompts <= set(prepare_data(made.data, made.seed).prompts)
    logged = [row["rewards/reward/mean"] for row in metrics(run) if "rewards/reward/mean" in row]
    rewards = [r for _, _, r in scored]
    assert logged == pytest.approx([sum(rewards[i : i + 16]) / 16 for i in (0, 16, 32)], abs=1e-4)


def test_prompts_that_trl_reads_otherwise_are_named(chatml_tokenizer: Any) -> None:
    chat = ChatEncoder(chatml_tokenizer)
    made = [
        rlhf.RolloutPrompt(
            name, (Message(role="user", content=text),), tuple(chat.prompt_ids([Message(role="user", content=text)]))
        )
        for name, text in (("plain", "Go on."), ("special", "Say <|im_end|> now."))
    ]
    same, dropped = rlhf.same_ids(made, chat)
    assert [p.id for p in same] == ["plain"]
    assert [(d.name, d.reason) for d in dropped] == [("special", "TRL tokenises this prompt otherwise than we do")]


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_offline_labels_are_the_judges(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, labels: str
) -> None:
    rollouts: list[Rollout] = []
    collect = ReplayCollector.collect
    monkeypatch.setattr(ReplayCollector, "collect", lambda *args: rollouts.append(collect(*args)) or rollouts[-1])
    made = recipe()
    made.self_training.labels = labels  # type: ignore[assignment]
    run_baseline("offline", made, tmp_path / "run")
    loaded = load_model(made.self_training.start)
    judge = _judge(loaded)
    records = {
        tuple(token_pair(r, loaded.chat).chosen_ids + token_pair(r, loaded.chat).rejected_ids): r
        for r in prepare_data(made.data, made.seed).judgment
    }
    pairs = [pair for rollout in rollouts for pair in rollout.pairs]
    assert len(pairs) == 24
    flipped = 0
    for pair in pairs:
        kept = records.get(pair.chosen_ids + pair.rejected_ids)
        record = kept or records[pair.rejected_ids + pair.chosen_ids]
        flipped += kept is None
        verdict = judge.judge(
            [Comparison(id="0", prompt=record.prompt, response_a=record.chosen, response_b=record.rejected)]
        )[0]
        assert verdict.preferred == ("A" if kept else "B")
        expected = max(verdict.strength, 1 - verdict.strength) if labels == "soft" else 1.0
        assert pair.strength == pytest.approx(expected, abs=1e-5)
    assert flipped  # an untrained judge does not always agree with the data


def test_off_policy_pairs_are_drawn_once_from_the_start(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts: list[Rollout] = []
    collect = ReplayCollector.collect
    monkeypatch.setattr(ReplayCollector, "collect", lambda *args: rollouts.append(collect(*args)) or rollouts[-1])
    made = recipe(pairs=12)
    made.self_training.training["max_steps"] = 4  # 12 prompts in steps of 8 and 4: two epochs
    run_baseline("off-policy", made, tmp_path / "run")
    samples: dict[str, set[Any]] = {}
    for rollout in rollouts:
        for judged in rollout.judged:
            samples.setdefault(judged.prompt.id, set()).add(tuple(s.ids for s in judged.samples))
    assert sum(len(r.judged) for r in rollouts) == 2 * len(samples)
    assert all(len(pairs) == 1 for pairs in samples.values())
    loaded = load_model(made.self_training.start)
    engine = TransformersEngine(loaded.model, loaded.chat)
    for rollout in rollouts:
        for judged in rollout.judged:
            rows = [(judged.prompt.ids, s.ids) for s in judged.samples]
            logprobs = [sum(s.logprobs or ()) for s in judged.samples]
            assert engine.response_logprobs(rows) == pytest.approx(logprobs, abs=1e-3)


def test_the_source_of_pairs_is_all_that_differs(tmp_path: Path, recipe: Callable[..., Recipe]) -> None:
    made = recipe()
    runs = [run_self_training(made, tmp_path / "on")]
    runs += [run_self_training(made, tmp_path / s.stage, source=s) for s in (Offline(), OffPolicy())]
    first = [metrics(run)[0] for run in runs]
    assert {r.info["steps"] for r in runs} == {3}
    assert len({tuple(sorted(row.keys() - {"own/length", "own/disagreement_rate"})) for row in first}) == 1
    assert all(row["kl"] == 0 for row in first)


@pytest.mark.parametrize("method", ["offline", "off-policy"])
def test_rounds_are_the_policys_own(tmp_path: Path, recipe: Callable[..., Recipe], method: Any) -> None:
    made = recipe()
    made.self_training.rounds = 2
    run = run_baseline(method, made, tmp_path / "run")
    assert run.info["steps"] == STEPS["max_steps"]
    assert not (tmp_path / "run" / "round-1").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "raft"])
def test_a_run_that_was_cut_off_ends_where_the_whole_one_does(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, distance: Distance, method: Any
) -> None:
    saving = {"training": {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}}
    made = recipe(dpo=saving, raft={**SMALL["raft"], **saving})
    whole = run_baseline(method, made, tmp_path / "whole")
    with monkeypatch.context() as patch:
        _interrupt_at(patch, method)
        with pytest.raises(KeyboardInterrupt):
            run_baseline(method, made, tmp_path / "cut")
    assert not (tmp_path / "cut" / "final").exists()
    with pytest.raises(RunError, match="--resume"):
        run_baseline(method, made, tmp_path / "cut")
    run = run_baseline(method, made, tmp_path / "cut", resume=True)
    assert distance(load_model(run.path).model, load_model(whole.path).model) < 1e-6
    assert [row["step"] for row in metrics(run)] == [row["step"] for row in metrics(whole)]


def _interrupt_at(patch: pytest.MonkeyPatch, method: str) -> None:
    """Ctrl-C in step 4 of DPO, or when RAFT's second round begins to train."""
    owner: Any = DPOTrainer if method == "dpo" else rounds
    name = "training_step" if method == "dpo" else "sft_trainer"
    call, inner = (4 if method == "dpo" else 2), getattr(owner, name)
    calls: list[int] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return inner(*args, **kwargs)

    patch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("offline", "off-policy")])
def test_without_trl_the_command_to_install_is_named(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    monkeypatch.setattr("selfjudge.baselines.run.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'selfjudge\[baselines\]'"):
        run_baseline(method, recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_is_reported_unless_asked(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked in (None, "0"):
        monkeypatch.setattr(hub, "HF_HUB_DISABLE_TELEMETRY", False)
        monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
        if asked:
            monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", asked)
        with pytest.raises(RunError):
            run_baseline("dpo", _unstarted(recipe()), tmp_path / "run")
        assert hub.HF_HUB_DISABLE_TELEMETRY is (asked is None)


def _unstarted(made: Recipe) -> Recipe:
    made.baselines.start = None
    made.name = "no-such-run"
    return made


def _judge(loaded: LoadedModel) -> Judge:
    engine = TransformersEngine(loaded.model, loaded.chat)
    return Judge(engine, JudgmentEncoder(load_templates("world"), loaded.chat))
