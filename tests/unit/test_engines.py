"""All engines speak one protocol."""

from __future__ import annotations

import inspect

import pytest

from selfjudge.engines.base import Engine
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.engines.openai_servers import OpenAIServers
from selfjudge.engines.vllm_engine import VllmEngine
from selfjudge.training.served_rollout import ServedPolicy
from selfjudge.training.vllm_rollout import HandedOverPolicy


@pytest.mark.parametrize(
    "engine", [TransformersEngine, OpenAIEngine, OpenAIServers, VllmEngine, HandedOverPolicy, ServedPolicy]
)
@pytest.mark.parametrize("name", [name for name in vars(Engine) if not name.startswith("_")])
def test_every_engine_has_every_member(engine: type, name: str) -> None:
    ours, theirs = inspect.getattr_static(engine, name), inspect.getattr_static(Engine, name)
    if isinstance(theirs, property):
        assert isinstance(ours, property)
    else:
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
