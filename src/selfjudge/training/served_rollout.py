"""Rollouts by vLLM servers, shared by all processes, which load the adapter in training before each."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from peft import PeftModel
from transformers import PreTrainedModel

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.engines.openai_servers import OpenAIServers
from selfjudge.errors import EngineError, ModelError
from selfjudge.recipes.schema import ServersSection
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.processes import is_main, main_first, on_main, process_index
from selfjudge.training.rollout import Reference
from selfjudge.training.served_judge import server_engines

_MOST_KL = 0.05
"""Nats a token. Weights in bfloat16 are about 0.001 from themselves in float32; another model is further away."""
PROBED_PROMPTS, _PROBES = 8, SamplingParams(n=4, max_new_tokens=32)
_logger = logging.getLogger(__name__)


class ServedPolicy(OpenAIServers):
    """The policy in training, run by servers of the weights it started from with the adapter of the last hand-over."""

    def __init__(self, engines: Sequence[OpenAIEngine], model: PeftModel, folder: Path) -> None:
        """Takes the servers' engines.

        Args:
            engines: of this policy alone.
            model: what is trained.
            folder: where adapters are written for the servers, which must see it.
        """
        super().__init__(engines, first=process_index())
        self.model = model
        self._folder = folder.resolve()
        # Not the name of a step: a server may still have the adapters of a run that this one resumes.
        self._run = on_main(lambda: uuid4().hex[:8])
        self._hand_overs = 0

    def hand_over(self) -> None:
        """Has the servers load the adapter as it is now; one that is gone gets it when it is back.

        Raises:
            EngineError: if no server takes it.
        """
        # All processes are here, so none samples any more.
        on_main(self.drop)
        self._hand_overs += 1
        for engine in self.engines:
            engine.use_adapter(self._name, self._folder / self._name)
        on_main(self._load)

    def drop(self) -> None:
        """Has the servers forget the adapter, and removes it."""
        if self._hand_overs:
            for engine in self.engines:
                engine.drop_adapter(self._name)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _name(self) -> str:
        return f"selfjudge-{self._run}-{self._hand_overs}"

    def _load(self) -> None:
        self.model.save_pretrained(str(self._folder / self._name))
        taken, failed = 0, None
        for engine in self.engines:
            try:
                engine.load_adapter()
                taken += 1
            except EngineError as e:
                failed = e
                if len(self.engines) > 1:
                    _logger.warning("%s", e)
        if failed and not taken:
            raise failed


class ServedRollouts:
    """Servers of the start as what samples rollouts."""

    def __init__(
        self, section: ServersSection, chat: ChatEncoder, start: Reference, prompts: Sequence[Sequence[int]]
    ) -> None:
        """Connects to the servers, and sees to it that they serve ``start``: they sample from some of the ``prompts``.

        Raises:
            EngineError: if one cannot be reached, does not have the model, or gives no ids with what it samples.
            ModelError: if one serves other weights.
        """

        def connected() -> list[OpenAIEngine]:
            return main_first(lambda: server_engines(section.url, chat, section.served_model))

        self._engines = connected()
        self.start = OpenAIServers(connected(), first=process_index())
        on_main(lambda: [_check(engine, start, prompts) for engine in self.start.engines])
        self._policy: ServedPolicy | None = None
        self.record: dict[str, object] = {"servers": [engine.base_url for engine in self._engines]}

    def policy(self, model: PreTrainedModel | PeftModel, folder: Path) -> ServedPolicy:
        """Returns the policy with the adapter of ``model``."""
        assert isinstance(model, PeftModel)  # as the recipe's validator has seen to
        self._policy = ServedPolicy(self._engines, model, folder)
        return self._policy

    def close(self) -> None:
        """Has the servers forget the last adapter."""
        if self._policy is not None and is_main():
            self._policy.drop()


def _check(engine: OpenAIEngine, start: Reference, prompts: Sequence[Sequence[int]]) -> None:
    """Estimates KL(server || start) from the server's own samples; raises ModelError where it is too large."""
    drawn = engine.sample(prompts, _PROBES)
    rows = [(prompt, sample) for prompt, samples in zip(prompts, drawn, strict=True) for sample in samples]
    if any(sample.logprobs is None for _, sample in rows):
        raise EngineError(
            f"The server at {engine.base_url} gives no token ids with its samples, which training needs: use vLLM."
        )
    served = sum(sum(sample.logprobs or ()) for _, sample in rows)
    ours = sum(start.response_logprobs([(prompt, sample.ids) for prompt, sample in rows]))
    kl = (served - ours) / sum(len(sample.ids) for _, sample in rows)
    if not kl <= _MOST_KL:
        raise ModelError(
            f"The server at {engine.base_url} serves other weights under {engine.model!r} than training starts from: "
            f"its samples are {kl:.2f} nats a token from them. Start it with the model that self_training.start names."
        )
