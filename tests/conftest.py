"""What the tests share: small tokenizers and models, built in code. Nothing here touches the network."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mutation.order import quickest_first
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from selfjudge.recipes.schema import Recipe
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.chat_files import chat_template_text
from selfjudge.templates.template import SETS
from selfjudge.world.model import build_tokenizer

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "MUTANT_UNDER_TEST" in os.environ:  # `make mutants`
        quickest_first(items)
        gc.freeze()  # Else pytest's collections of garbage at its end take longer than most of the tests.


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level(core: Tokenizer, specials: list[str]) -> Tokenizer:
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return core


@pytest.fixture(scope="session")
def world_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def world_chat(world_tokenizer: PreTrainedTokenizerFast) -> ChatEncoder:
    return ChatEncoder(world_tokenizer)


@pytest.fixture
def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """A trained byte-level BPE tokenizer like those of real models: ChatML, and an eos that does not end turns."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core = byte_level(Tokenizer(BPE()), [])
    corpus = [file.read_text(encoding="utf-8") for file in sorted(SETS.glob("*/*.txt"))]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([*corpus, "Response A and Response B. Answer with A or B.\n" * 50], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        name_or_path="tiny-chatml",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def plain_tokenizer(chatml_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A base model's tokenizer (bos and eos, no chat template of its own) with the shipped ``plain`` template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(chatml_tokenizer.backend_tokenizer.to_str()),
        bos_token="<|im_start|>",
        eos_token="<|endoftext|>",
        name_or_path="tiny-plain",
    )
    tokenizer.chat_template = chat_template_text("plain")
    return tokenizer


@pytest.fixture
def spelling_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Makes tokenizers that spell bytes but for the given merges, with ``</s>`` as eos."""

    def make(merges: list[tuple[str, str]], chat_template: str) -> PreTrainedTokenizerFast:
        tokens = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
        core = Tokenizer(BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
        core = byte_level(core, ["</s>"])
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", name_or_path="tiny-speller")
        tokenizer.chat_template = chat_template
        return tokenizer

    return make


@pytest.fixture
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """Makes tiny random Llamas in eval mode, with weights large enough for their predictions to differ."""
    return _tiny_llama


def _tiny_llama(tokenizer: PreTrainedTokenizerBase, seed: int = 0, context: int = 512) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny_gpt2() -> Callable[..., GPT2LMHeadModel]:
    """Makes tiny random GPT-2s: their absolute positions show a wrong ``position_ids`` that rotary ones hide."""

    def make(tokenizer: PreTrainedTokenizerBase, seed: int = 0, context: int = 512) -> GPT2LMHeadModel:
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=context,
            n_embd=32,
            n_layer=2,
            n_head=4,
            initializer_range=0.2,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return GPT2LMHeadModel(config).eval()

    return make


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory, world_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A saved tiny Llama with the small world's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    _tiny_llama(world_tokenizer, context=256).save_pretrained(folder)
    world_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny_model_folder: Path) -> Callable[..., Recipe]:
    """Makes recipes for a few steps of the tiny model in the small world; arguments are ``stage -> section``."""

    def make(pairs: int = 24, **sections: dict[str, Any]) -> Recipe:
        training = {"use_cpu": True, "logging_steps": 1, "disable_tqdm": True, "per_device_train_batch_size": 8}
        jsft, self_training = sections.get("jsft", {}), sections.get("self_training", {})
        return Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"path": str(tiny_model_folder), "dtype": "float32"},
                "data": {"sources": [{"path": "builtin:world", "limit": pairs}], "max_length": 128}
                | sections.get("data", {}),
                "templates": {"set": "world"},
                "jsft": {**jsft, "training": {**training, **jsft.get("training", {})}},
                "self_training": {
                    "start": str(tiny_model_folder),
                    "labels": "soft",
                    "rollout": {"top_p": 1.0, "max_new_tokens": 8},
                    **self_training,
                    "training": {**training, **self_training.get("training", {})},
                },
            }
        )

    return make


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A saved reward model with random weights."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def distance() -> Callable[[PreTrainedModel, PreTrainedModel], float]:
    """Gives the largest difference between two models' weights."""

    def largest(a: PreTrainedModel, b: PreTrainedModel) -> float:
        other = dict(b.named_parameters())
        return max(float((p - other[name]).detach().abs().max()) for name, p in a.named_parameters())

    return largest
