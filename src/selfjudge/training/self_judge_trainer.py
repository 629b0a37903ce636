"""Self-training by on-policy judgment, on transformers.Trainer (SELF-JUDGE, arXiv 2402.11253)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from selfjudge.core.losses import Objective
from selfjudge.engines.eval_mode import EvalMode
from selfjudge.engines.fast_kernels import FastKernels
from selfjudge.engines.responses import response_logprobs
from selfjudge.engines.target_logprobs import try_head
from selfjudge.training.dropout import OwnDropout
from selfjudge.training.even import EvenRows, even_sampler
from selfjudge.training.measures import Measures
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.pairs import Pair, collate_pairs, deal
from selfjudge.training.replay import Replay, ReplayBatch, replay_loss
from selfjudge.training.rollout import Collector, Rollout, rollout_seed
from selfjudge.training.rollout_ahead import RolloutAhead, RolloutPlan
from selfjudge.training.rollout_buffer import MicroBatch, Progress, load_buffer, save_buffer
from selfjudge.training.signals import interruptible
from selfjudge.training.stop import StepMeasure, StopRule
from selfjudge.training.whole_weights import check_layout, whole_weights


class SelfJudgeTrainer(Trainer):
    """Optimises a preference loss on the policy's own samples, labelled by the frozen judge.

    A batch of the Trainer is a batch of prompts. When an optimisation step begins, the prompts of that step (or of the
    next ``rollout_steps`` steps) are sampled from the current policy and judged; the sampled ids are trained on as
    they are. The policy's own dropout is off, as the reference has none. The loss of a step is the mean over its pairs,
    however they fall into micro-batches and processes.

    With a replay, the weighted mean of JSFT's loss over as many JSFT examples as the step has prompts is added.
    """

    _resumed: Sequence[MicroBatch] = ()

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        prompts: Sequence[RolloutPrompt],
        collector: Collector,
        pad_id: int,
        objective: Objective | None = None,
        rollout_steps: int = 1,
        ahead: bool = False,
        replay: Replay | None = None,
        stop: StopRule | None = None,
        on_rollout: Callable[[int, Rollout], None] | None = None,
        twin: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes a policy and a collector that samples from it.

        Args:
            model: the policy; with LoRA a PEFT model, whose base weights are reference and judge.
            args: as for transformers.Trainer; batch sizes count prompts.
            prompts: what the policy answers.
            collector: samples, judges and computes reference log-probs.
            pad_id: id that fills short rows.
            objective: what a pair costs; by default DPO's loss with beta 0.1.
            rollout_steps: optimisation steps taken on one rollout; 1 is strictly on-policy.
            ahead: draw the next rollout in a thread meanwhile; policy and judge must share nothing with ``model``.
            replay: JSFT examples to go over again.
            stop: says when to end.
            on_rollout: called with step and rollout, before the rollout is trained on.
            twin: where ``model`` is sharded, what the collector samples from: see :func:`whole_weights`.
            kwargs: as for transformers.Trainer.
        """
        super().__init__(model, args, train_dataset=EvenRows(range(len(prompts))), data_collator=_positions, **kwargs)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the pairs of the step itself.
        self.stop_reason: str | None = None
        self._prompts, self._collector = prompts, collector
        self._objective, self._rollout_steps = objective or Objective(), rollout_steps
        self._ahead = RolloutAhead(collector) if ahead else None
        self._replay, self._stop, self._pad_id = replay, stop, pad_id
        self._on_rollout, self._twin = on_rollout, twin
        self._seen = {"kl": 0.0, "length": 0.0, "agreement": 1.0}
        self._buffer: deque[MicroBatch] = deque()
        self._logged, self._of_rollout = Measures(), Measures()
        self.add_callback(_StepCallback(self))
        check_layout(self.accelerator)
        try_head(self.model)
        self._kernels, self._dropout = FastKernels(self.model), OwnDropout(self.model)
        self._evaluating = EvalMode(self.model).in_use

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as transformers.Trainer does; however it ends, no rollout is left under way."""
        resumed = kwargs.get("resume_from_checkpoint")
        self._resumed = load_buffer(Path(resumed), self.args.process_index) if resumed else ()
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._ahead:
                self._ahead.close()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The Trainer's, evened out for several processes."""
        return even_sampler(self, super()._get_train_sampler(train_dataset))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Returns the step's micro-batches of pairs and the number of its pairs over all processes."""
        if self._resumed:
            # Their prompts come from batches that the data's position, which counts steps, has not reached yet.
            super().get_batch_samples(epoch_iterator, len(self._resumed), device)
            self._buffer.extend(self._resumed)
            self._resumed = ()
        if not self._buffer:
            self._fill(epoch_iterator, device)
        batches = [self._buffer.popleft() for _ in range(min(num_batches, len(self._buffer)))]
        counts = [[sum(len(b["strength"]) for b in batches), sum(b["prompts"] for b in batches)]]
        pairs, prompts = self.accelerator.gather(torch.tensor(counts, device=device)).unbind(-1)
        if self._replay and batches:
            index = self.accelerator.process_index
            before = int(prompts[:index].sum()) if index else 0
            self._add_replay(batches, self._replay, before, device)
        return batches, pairs.sum().clamp(min=1)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's; the backward is part of it, which may compute the forward again."""
        with self._kernels.in_use(), self._dropout.off():
            loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Returns this micro-batch's share of the step's loss: sum over its pairs / pairs of the step."""
        loss, margin = self._preference_loss(model, inputs, num_items_in_batch)
        if self._replay:
            loss = loss + self._replay.weight * self._replay_share(model, inputs["replay"])
        return (loss, {"margin": margin}) if return_outputs else loss

    def _preference_loss(
        self, model: PreTrainedModel, inputs: dict[str, Any], num_items_in_batch: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the share of the micro-batch's pairs in the step's mean, and their margins, [pairs]."""
        n = len(inputs["strength"])
        if n == 0:
            # All pairs of the micro-batch were identical or tied: no gradient, but a graph for backward, through the
            # whole model, because the other processes wait for each weight's gradient.
            return response_logprobs(model, inputs).sum() * 0.0, inputs["strength"]
        policy = response_logprobs(model, inputs)
        lengths = inputs["response_mask"].sum(-1)
        losses, margin = self._objective(policy, inputs["reference"], lengths, inputs["strength"])
        self._log_pairs(policy.detach(), inputs["reference"], lengths, margin.detach())
        total = n if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        return losses.sum() / total, margin

    def _add_replay(self, batches: list[dict[str, Any]], replay: Replay, before: int, device: torch.device) -> None:
        """Gives each micro-batch as many JSFT examples as it has prompts, and the weight of all in the step.

        ``before``: prompts of the step that earlier processes have; their examples come first.
        """
        seed = f"replay:{rollout_seed(self.args.seed, self.state.global_step)}"
        replayed = replay.batches([batch["prompts"] for batch in batches], seed, before)
        total = self.accelerator.gather(torch.tensor(sum(b["weight"] for b in replayed), device=device)).sum()
        for batch, rows in zip(batches, replayed, strict=True):
            batch["replay"] = {**rows, "total": total}

    def _replay_share(self, model: PreTrainedModel, batch: ReplayBatch) -> Tensor:
        """Returns the share of the micro-batch's JSFT examples in the step's weighted mean."""
        loss = replay_loss(model, batch)
        if batch["weight"]:
            self._logged.note("replay/loss", loss.detach() / batch["weight"], batch["weight"])
        return loss / batch["total"] * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of what was measured since the last log, by all processes: they log at the same steps."""
        logs |= {name: round(mean, 6) for name, mean in self._logged.take().items()}
        super().log(logs, start_time)

    def check_stop(self) -> bool:
        """Tells the stop rule about the step that just ended; returns True, and keeps the reason, once it says stop.

        All processes see the same measures, and so stop together.
        """
        if self._stop is not None and self._stop.active:
            self._seen |= self._of_rollout.take()  # those of the last rollout until there is another
            self.stop_reason = self._stop.add(StepMeasure(**self._seen))
        return self.stop_reason is not None

    def progress(self) -> Progress:
        """Returns what a step leaves for those after it, besides weights; to be called when it has ended."""
        rule = self._stop.state() if self._stop is not None else None
        stop = {"reason": self.stop_reason, "rule": rule}
        return Progress([dict(batch) for batch in self._buffer], stop, self._logged.noted(), dict(self._seen))

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back ``Progress.state()``; the buffer is restored by :meth:`train`."""
        self.stop_reason = state["stop"]["reason"]
        if self._stop is not None and state["stop"]["rule"]:
            self._stop.restore(state["stop"]["rule"])
        self._seen |= state["seen"]
        if self.is_world_process_zero():  # whose measures they are
            self._logged.restore(state["logged"])

    def _fill(self, epoch_iterator: Iterator[Any], device: torch.device) -> None:
        """Cuts the rollout that is due into micro-batches; where rollouts run ahead, begins the next one."""
        step = self.state.global_step
        due = None
        if self._ahead:
            with interruptible(), whole_weights(self, self._twin):
                due = self._ahead.take()
        if due is None:
            plan, sampled_at = self._plan(epoch_iterator, step, device), step
            with interruptible(), whole_weights(self, self._twin), self._evaluating():
                rollout = self._collector.collect(plan.prompts, plan.seed, plan.places)
        else:
            plan, sampled_at, rollout = due
        self._log_rollout(rollout)
        self._logged.note("rollout/staleness", float(step - sampled_at), 1)
        if self._on_rollout:
            self._on_rollout(step, rollout)
        dealt = deal(rollout.pairs, plan.batches)
        prompts = [len(plan.prompts[i :: plan.batches]) for i in range(plan.batches)]
        self._buffer.extend(_micro_batch(pairs, n, self._pad_id) for pairs, n in zip(dealt, prompts, strict=True))
        following = step + self._rollout_steps
        if self._ahead and following < self.state.max_steps:
            plan = self._plan(epoch_iterator, following, device)
            if plan.batches:  # else the epoch ends here, and the next one draws its prompts anew
                with whole_weights(self, self._twin):
                    self._ahead.start(plan, step)

    def _plan(self, epoch_iterator: Iterator[Any], step: int, device: torch.device) -> RolloutPlan:
        """Takes this process's prompts of the rollout for ``step`` from the epoch: fewer at its end, maybe none."""
        num_batches = self.args.gradient_accumulation_steps * self._rollout_steps
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)[0]
        rows, processes, index = self._train_batch_size, self.accelerator.num_processes, self.accelerator.process_index
        # A batch of one process would be these of all processes, one behind the other.
        starts = [(number * processes + index) * rows for number in range(len(batches))]
        found = [(i, start + place) for start, b in zip(starts, batches, strict=True)
                 for place, i in enumerate(b["index"].tolist())]  # fmt: skip
        seed = rollout_seed(self.args.seed, step)
        places = tuple(place for _, place in found)
        return RolloutPlan([self._prompts[i] for i, _ in found], places, len(batches), seed)

    def _log_rollout(self, rollout: Rollout) -> None:
        stats, note = rollout.stats, self._logged.note
        for name in ("identical_rate", "unjudgeable_rate", "tie_rate"):
            note(f"rollout/{name}", getattr(stats, name), stats.matches)
        for name in ("disagreement_rate", "first_shown_rate", "label_mass", "strength"):
            note(f"rollout/{name}", getattr(stats, name), stats.verdicts)
        note("rollout/truncated_rate", stats.truncated_rate, stats.samples)
        note("rollout/length", stats.response_length, stats.samples)
        # A mean over processes, which work at the same time.
        note("rollout/samples_per_second", self.accelerator.num_processes * stats.samples / stats.seconds, 1)
        self._log_policy(rollout)

    def _log_policy(self, rollout: Rollout) -> None:
        """Notes what the policy's own samples say: for the log, and for the stop rule."""
        own = rollout.of_policy
        self._logged.note("kl", own.kl, own.kl_responses)
        if rollout.own is not None:
            self._logged.note("own/length", own.response_length, own.samples)
            self._logged.note("own/disagreement_rate", own.disagreement_rate, own.verdicts)
        self._of_rollout.note("kl", own.kl, own.kl_responses)
        self._of_rollout.note("length", own.response_length, own.samples)
        self._of_rollout.note("agreement", 1 - own.disagreement_rate, own.verdicts)

    def _log_pairs(self, policy: Tensor, reference: Tensor, lengths: Tensor, margin: Tensor) -> None:
        n = len(margin)
        ratio = policy - reference
        measures = {
            "rewards/chosen": self._objective.beta * ratio[:n].mean(),
            "rewards/rejected": self._objective.beta * ratio[n:].mean(),
            "rewards/margins": self._objective.beta * margin.mean(),
            "rewards/accuracies": (margin > 0).float().mean(),
            "logps/chosen": policy[:n].mean(),
            "logps/rejected": policy[n:].mean(),
            "length/chosen": lengths[:n].float().mean(),
            "length/rejected": lengths[n:].float().mean(),
        }
        for name, value in measures.items():
            self._logged.note(name, value, n)


def _positions(positions: list[int | None]) -> dict[str, Tensor]:
    """A batch of positions, without the places that hold none."""
    return {"index": torch.tensor([i for i in positions if i is not None], dtype=torch.long)}


class _StepCallback(TrainerCallback, ExportableState):
    """Ends training when the stop rule says so, and keeps what a checkpoint needs for a resumed run to end alike."""

    def __init__(self, trainer: SelfJudgeTrainer) -> None:
        self._trainer = trainer
        self._end = trainer.progress()

    def state(self) -> dict[str, Any]:
        """Returns what the Trainer writes into a checkpoint."""
        return {"args": {}, "attributes": self._end.state()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes it back from the checkpoint of a resumed run."""
        before = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes")
        if before:
            self._trainer.restore(before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks after each optimisation step."""
        if self._trainer.check_stop():
            control.should_training_stop = True
        self._end = self._trainer.progress()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What was logged is not kept."""
        self._end = replace(self._end, logged={})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds this process's rest of the rollout to the checkpoint."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        save_buffer(self._end.buffer, folder, args.process_index)


def _micro_batch(pairs: list[Pair], prompts: int, pad_id: int) -> dict[str, Any]:
    """Returns the pairs as tensors, and the number of ``prompts``. Without pairs ``strength`` is empty, and the rows
    are those of a stand-in.
    """
    stand_in = {**collate_pairs([Pair((pad_id,), (pad_id,), (pad_id,), 1.0)], pad_id), "strength": torch.zeros(0)}
    return {**(collate_pairs(pairs, pad_id) if pairs else stand_in), "prompts": prompts}
