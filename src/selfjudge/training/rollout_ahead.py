"""Rollouts beside training: the next one is drawn in a thread while the last one is trained on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.rollout import Rollout, RolloutCollector


@dataclass(frozen=True)
class RolloutPlan:
    """What a rollout is made of.

    ``places``: of the prompts among those of all processes. ``batches``: micro-batches that the pairs are dealt out
    into.
    """

    prompts: Sequence[RolloutPrompt]
    places: tuple[int, ...]
    batches: int
    seed: int


class _Stopped(Exception):
    """Ends a rollout that nobody waits for any more."""


class RolloutAhead:
    """At most one rollout under way, by the policy as it was when it was started.

    The thread samples and judges. What touches the model in training - handing its weights over, reference log-probs
    and the KL - is done by the caller's thread, and while nothing is under way.
    """

    def __init__(self, collector: RolloutCollector) -> None:
        """Takes a collector whose policy and judge share nothing with the model in training."""
        self._collector = collector
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollout")
        self._under_way: tuple[RolloutPlan, int, Future[Rollout]] | None = None
        self._stop = threading.Event()

    def start(self, plan: RolloutPlan, now: int) -> None:
        """Hands the weights over as they are ``now`` (optimisation step) and begins to sample from them."""
        self._collector.hand_over()
        drawing = self._thread.submit(self._collector.draw, plan.prompts, plan.seed, self._go_on, plan.places)
        self._under_way = plan, now, drawing

    def take(self) -> tuple[RolloutPlan, int, Rollout] | None:
        """Waits for the rollout; returns its plan, the step whose weights sampled it, and itself.

        None where none was started since the last call.

        Raises:
            Exception: whatever sampling or judging raised.
        """
        if self._under_way is None:
            return None
        plan, sampled_at, drawing = self._under_way
        drawn = drawing.result()
        self._under_way = None
        rollout = self._collector.with_kl(self._collector.with_reference(drawn), plan.places)
        return plan, sampled_at, rollout

    def close(self) -> None:
        """Ends a rollout that is still under way, as soon as a prompt of it is finished; its errors are dropped."""
        if self._under_way is not None:
            self._stop.set()
            self._under_way[2].exception()  # waits
            self._stop.clear()
            self._under_way = None

    def _go_on(self, finished: int) -> None:
        if self._stop.is_set():
            raise _Stopped
