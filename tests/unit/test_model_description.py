"""What a config alone says of a model: what its layers keep of tokens, and how many tokens it takes."""

from __future__ import annotations

from typing import Any

import pytest
from families import tiny_config
from transformers import (
    AutoConfig,
    BloomConfig,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    PreTrainedConfig,
    RwkvConfig,
)

from selfjudge.engines.cache_kind import cache_kind
from selfjudge.engines.context import Context, context_of


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", "full attention"),
        ("bloom", "full attention"),
        ("mistral", "sliding window of 8 tokens"),
        ("gemma2", "sliding window of 8 tokens in 2 of 4 layers"),
        ("cohere2", "sliding window of 8 tokens in 3 of 4 layers"),
        ("llama4_text", "chunks of 8 tokens in 3 of 4 layers"),
        ("qwen3_next", "hybrid: 2 linear-attention, 2 full-attention layers"),
        ("bamba", "hybrid: 3 linear-attention, 1 full-attention layers"),
        ("falcon_h1", "hybrid: 4 linear- and full-attention layers"),
        ("lfm2", "hybrid: 2 convolution, 2 full-attention layers"),
        ("nemotron_h", "hybrid: 2 linear-attention, 1 full-attention layers"),
        ("mamba", "recurrent"),
        ("mamba2", "recurrent"),
        ("rwkv", "recurrent"),
    ],
)
def test_what_layers_keep(family: str, kind: str) -> None:
    assert cache_kind(tiny_config(family)) == kind


def test_a_multimodal_models_text_part_counts() -> None:
    text = {"num_hidden_layers": 6, "sliding_window": 512, "max_position_embeddings": 4096}
    config = Gemma3Config(text_config=text)
    assert cache_kind(config) == "sliding window of 512 tokens in 5 of 6 layers"
    assert context_of(config) == Context(4096, "max_position_embeddings of Gemma3TextConfig")


def test_a_config_that_does_not_say_is_unknown() -> None:
    assert cache_kind(PreTrainedConfig()) == "unknown"


@pytest.mark.parametrize(
    ("config", "length", "source"),
    [
        (LlamaConfig(max_position_embeddings=77), 77, "max_position_embeddings"),
        (GPT2Config(n_positions=78), 78, "n_positions"),
        (MptConfig(max_seq_len=79), 79, "max_seq_len"),
        (RwkvConfig(context_length=80), 80, "context_length"),
        (BloomConfig(seq_length=81), 81, "seq_length"),
        (PreTrainedConfig(n_ctx=82), 82, "n_ctx"),
        (PreTrainedConfig(max_sequence_length=83), 83, "max_sequence_length"),
        (MambaConfig(), None, "the config names no limit"),
        (BloomConfig(), None, "the config names no limit"),
        (LlamaConfig(max_position_embeddings=-1), None, "the config names no limit"),
    ],
)
def test_the_context_length_and_where_it_stands(config: PreTrainedConfig, length: int | None, source: str) -> None:
    assert context_of(config) == Context(length, source)


@pytest.mark.parametrize("name", ["kimi_linear", "qwen3_5", "gemma3"])
def test_every_config_has_an_answer(name: str) -> None:
    try:
        config: Any = AutoConfig.for_model(name)
    except ValueError:
        pytest.skip(f"the installed transformers has no {name}")
    assert (context_of(config).length or 0) > 1000
    assert cache_kind(config) != "unknown"


def test_dynamic_rope_goes_beyond_the_length_that_a_config_names() -> None:
    config = tiny_config("llama (dynamic rope)")
    named, factor = config.max_position_embeddings, config.rope_parameters["factor"]
    assert factor > 1
    assert context_of(config) == Context(int(named * factor), f"max_position_embeddings × {factor:g} (dynamic rope)")
