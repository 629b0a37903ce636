"""What is said where vLLM is not installed or cannot serve, before anything is written or started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from selfjudge.engines import vllm_engine
from selfjudge.engines.load import LoadedModel
from selfjudge.engines.vllm_engine import VllmCore
from selfjudge.errors import MissingExtraError, ModelError, RecipeError
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.training.rollout_engine import rollout_engine
from selfjudge.training.self_training import run_self_training


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: name)


@pytest.mark.usefixtures("missing")
def test_a_missing_vllm_is_named_with_the_command(tiny_model_folder: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'selfjudge\[vllm\]'"):
        VllmCore(tiny_model_folder)


@pytest.mark.usefixtures("missing")
def test_self_training_writes_nothing_without_it(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(self_training={"engine": "vllm", "training": {"max_steps": 1}})
    with pytest.raises(MissingExtraError, match="vllm"):
        run_self_training(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("installed")
def test_what_vllm_cannot_serve_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="train it first"):
        VllmCore(BUILTIN_WORLD)
    with pytest.raises(ModelError, match="no model folder"):
        VllmCore(tmp_path / "nowhere")


def test_several_processes_are_refused(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(self_training={"engine": "vllm"})
    loaded: LoadedModel = None  # type: ignore[assignment]
    with pytest.raises(RecipeError, match="one process, not in 2"), rollout_engine(recipe, "m", loaded, [], 2):
        pass
    with rollout_engine(tiny_recipe(), "m", loaded, [], 2) as engine:  # transformers can
        assert engine is None
