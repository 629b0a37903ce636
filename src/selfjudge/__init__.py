"""SELF-JUDGE: one language model as policy and judge (ACL 2024, arXiv 2402.11253).

The public API. Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from selfjudge.baselines.run import run_baseline as run_baseline
    from selfjudge.baselines.scorer import RewardScorer as RewardScorer
    from selfjudge.baselines.scorer import best_of as best_of
    from selfjudge.baselines.scorer import load_scorer as load_scorer
    from selfjudge.client import AsyncClient as AsyncClient
    from selfjudge.core.losses import preference_loss as preference_loss
    from selfjudge.data.formats.messages import Reject as Reject
    from selfjudge.data.sources import load_preferences as load_preferences
    from selfjudge.engines.base import Engine as Engine
    from selfjudge.engines.base import SamplingParams as SamplingParams
    from selfjudge.engines.hf import TransformersEngine as TransformersEngine
    from selfjudge.engines.load import LoadedModel as LoadedModel
    from selfjudge.engines.load import load_model as load_model
    from selfjudge.engines.openai_server import OpenAIEngine as OpenAIEngine
    from selfjudge.engines.vllm_engine import VllmCore as VllmCore
    from selfjudge.engines.vllm_engine import VllmEngine as VllmEngine
    from selfjudge.errors import SelfJudgeError as SelfJudgeError
    from selfjudge.judge import Judge as Judge
    from selfjudge.recipes.load import load_recipe as load_recipe
    from selfjudge.records import Bracket as Bracket
    from selfjudge.records import Comparison as Comparison
    from selfjudge.records import Completion as Completion
    from selfjudge.records import Match as Match
    from selfjudge.records import Message as Message
    from selfjudge.records import PreferenceRecord as PreferenceRecord
    from selfjudge.records import Verdict as Verdict
    from selfjudge.sampler import TournamentSampler as TournamentSampler
    from selfjudge.templates.chat import ChatEncoder as ChatEncoder
    from selfjudge.templates.encode import JudgmentEncoder as JudgmentEncoder
    from selfjudge.templates.template import load_templates as load_templates
    from selfjudge.tournament import Answer as Answer
    from selfjudge.tournament import play as play
    from selfjudge.tournament import self_reject as self_reject
    from selfjudge.training.jsft import run_jsft as run_jsft
    from selfjudge.training.jsft_trainer import JsftTrainer as JsftTrainer
    from selfjudge.training.self_judge_trainer import SelfJudgeTrainer as SelfJudgeTrainer
    from selfjudge.training.self_training import run_self_training as run_self_training

_HOME = {
    "baselines.run": ("run_baseline",),
    "baselines.scorer": ("RewardScorer", "best_of", "load_scorer"),
    "client": ("AsyncClient",),
    "core.losses": ("preference_loss",),
    "data.formats.messages": ("Reject",),
    "data.sources": ("load_preferences",),
    "engines.base": ("Engine", "SamplingParams"),
    "engines.hf": ("TransformersEngine",),
    "engines.load": ("LoadedModel", "load_model"),
    "engines.openai_server": ("OpenAIEngine",),
    "engines.vllm_engine": ("VllmCore", "VllmEngine"),
    "errors": ("SelfJudgeError",),
    "judge": ("Judge",),
    "recipes.load": ("load_recipe",),
    "records": ("Bracket", "Comparison", "Completion", "Match", "Message", "PreferenceRecord", "Verdict"),
    "sampler": ("TournamentSampler",),
    "templates.chat": ("ChatEncoder",),
    "templates.encode": ("JudgmentEncoder",),
    "templates.template": ("load_templates",),
    "tournament": ("Answer", "play", "self_reject"),
    "training.jsft_trainer": ("JsftTrainer",),
    "training.self_judge_trainer": ("SelfJudgeTrainer",),
    "training.jsft": ("run_jsft",),
    "training.self_training": ("run_self_training",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name == "__version__":
        return version("selfjudge")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'selfjudge' has no attribute {name!r}")
    return getattr(import_module(f"selfjudge.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """Lists the public names."""
    return __all__
