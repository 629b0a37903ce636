"""A tiny config of every family of causal LMs that the tests know, by transformers' name of it (``model_type``)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from selfjudge.templates.chat import Reading

WINDOW = 8
"""Tokens of a sliding window, or of a chunk."""
BORDER = 24
"""The longest row that longrope and dynamic rope rotate as a short one."""

_BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.15,  # large, so that predictions differ
}
_GPT: dict[str, Any] = {"n_embd": 64, "n_head": 4, "n_layer": 4, "n_positions": 512}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "head_dim": 8,
}
_WINDOW: dict[str, Any] = {"sliding_window": WINDOW}
_EVERY_OTHER: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"] * 2}
_DELTA: dict[str, Any] = {
    **_EVERY_OTHER,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16}
_CONVOLUTION: dict[str, Any] = {"layer_types": ["conv", "full_attention"] * 2}
_LONGROPE: dict[str, Any] = {
    "original_max_position_embeddings": BORDER,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0 + i for i in range(8)],
        "original_max_position_embeddings": BORDER,
        "factor": 512 / BORDER,
    },
}
_DYNAMIC: dict[str, Any] = {
    "max_position_embeddings": BORDER,
    "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
}

FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "bloom": {"n_head": 4, "n_layer": 4},
    "cohere2": {**_WINDOW, "logit_scale": 1.0},
    "deepseek_v3": {**_EXPERTS, **_LATENT},
    "diffllama": {},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True, "head_dim": None},
    "falcon_h1": {**_MAMBA, "mamba_n_heads": 4, "mamba_d_ssm": 64},
    "falcon_mamba": {"state_size": 8, "conv_kernel": 4},
    "gemma2": _WINDOW,
    "gemma3_text": {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_text": {
        **_WINDOW,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 96,
    },
    "glm4_moe": _EXPERTS,
    "gpt2": _GPT,
    "gpt_oss": {**_EXPERTS, **_WINDOW},
    "granite": {},
    "granitemoehybrid": {
        **_EXPERTS,
        **_MAMBA,
        "layer_types": ["mamba", "attention"] * 2,
        "shared_intermediate_size": 32,
    },
    "jamba": {
        **_EXPERTS,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
        "mamba_d_state": 8,
    },
    "kimi_linear": {**_EXPERTS, **_LATENT, **_EVERY_OTHER, "linear_num_heads": 2, "linear_head_dim": 16},
    "lfm2": _CONVOLUTION,
    "lfm2_moe": {**_EXPERTS, **_CONVOLUTION},
    "llama": {},
    "llama (dynamic rope)": _DYNAMIC,
    "llama4_text": {**_EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 64},
    "mamba": {"state_size": 8, "conv_kernel": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    "minimax": {**_EXPERTS, **_EVERY_OTHER, "block_size": 8},
    "mistral": _WINDOW,
    "mixtral": _EXPERTS,
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 512},
    "nemotron": {"initializer_range": 0.3},
    "nemotron_h": {
        **_EXPERTS,
        "moe_shared_expert_intermediate_size": 32,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
        "hybrid_override_pattern": "M*M-",
    },
    "olmo2": {},
    "olmo_hybrid": _DELTA,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 64},
    "phi3 (longrope)": _LONGROPE,
    "qwen2": {},
    "qwen3": {},
    "qwen3_5_text": _DELTA,
    "qwen3_moe": _EXPERTS,
    "qwen3_next": {**_EXPERTS, **_DELTA},
    "recurrent_gemma": {
        "lru_width": 64,
        "attention_window_size": WINDOW,
        "block_types": ["recurrent", "attention"],
        "conv1d_width": 4,
    },
    "rwkv": {"attention_hidden_size": 64, "context_length": 512},
    "seed_oss": {},
    "smollm3": {},
    "zamba2": {
        "mamba_d_state": 8,
        "mamba_headdim": 16,
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "chunk_size": 16,
        "attention_head_dim": 32,
        "num_mem_blocks": 1,
        "layers_block_type": ["mamba", "hybrid"] * 2,
    },
}


def tiny_config(name: str, vocab_size: int = 96, **settings: Any) -> PreTrainedConfig:
    """Returns the config of a family; the test is skipped where the installed transformers does not have it."""
    given = {**_BASE, "vocab_size": vocab_size, **FAMILIES[name], **settings}
    model_type = name.split(" ")[0]
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"the installed transformers has no {model_type}")
    return AutoConfig.for_model(model_type, **{key: value for key, value in given.items() if value is not None})


def tiny_model(name: str, vocab_size: int = 96, dtype: torch.dtype = torch.float32, **settings: Any) -> PreTrainedModel:
    """Returns a model of a family in eval mode, with random weights that are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(tiny_config(name, vocab_size, **settings), dtype=dtype).eval()


def bare_chat(stop: int) -> Any:
    """What an engine needs of a chat encoder where texts do not matter: ``stop`` ends a sample."""
    tokenizer = SimpleNamespace(pad_token_id=0)
    return SimpleNamespace(tokenizer=tokenizer, stop_ids=(stop,), read=lambda ids, prompt: Reading(str(ids)))
