"""The table of model families in docs/models.md, from what the sweep found."""

from __future__ import annotations

import re
from typing import Any

RESULTS = "docs/results/models.json"

# The models that people know, by the family that tests/families.py has a tiny one of.
MODELS = {
    "llama": "Llama 2 and 3, SmolLM 2, Yi, Vicuna, DeepSeek LLM, R1-Distill-Llama",
    "llama (dynamic rope)": "Llama with dynamic NTK",
    "qwen2": "Qwen2, Qwen2.5, R1-Distill-Qwen",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3 MoE",
    "qwen3_5_text": "Qwen3.5",
    "qwen3_next": "Qwen3-Next",
    "smollm3": "SmolLM3",
    "olmo2": "OLMo 2",
    "granite": "Granite 3",
    "glm4_moe": "GLM-4.5 to 4.7",
    "seed_oss": "Seed-OSS",
    "apertus": "Apertus",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
    "gemma4_text": "Gemma 4",
    "gpt_oss": "gpt-oss",
    "phi3 (longrope)": "Phi-3.5, Phi-4-mini",
    "deepseek_v3": "DeepSeek V3, R1, Kimi-K2",
    "cohere2": "Command R7B, Command A",
    "llama4_text": "Llama 4",
    "lfm2": "LFM2, LFM2.5",
    "lfm2_moe": "LFM2 MoE",
    "granitemoehybrid": "Granite 4",
    "bamba": "Bamba",
    "jamba": "Jamba",
    "falcon_h1": "Falcon-H1",
    "nemotron": "Nemotron 4, Minitron",
    "diffllama": "DiffLlama",
    "nemotron_h": "Nemotron-H, Nemotron Nano",
    "zamba2": "Zamba2",
    "olmo_hybrid": "OLMo Hybrid",
    "kimi_linear": "Kimi Linear",
    "minimax": "MiniMax-Text-01, M1",
    "mamba": "Mamba",
    "mamba2": "Mamba 2",
    "falcon_mamba": "Falcon Mamba",
    "recurrent_gemma": "RecurrentGemma",
    "rwkv": "RWKV-4",
    "gpt2": "GPT-2",
    "opt": "OPT",
    "bloom": "BLOOM",
    "mpt": "MPT",
    "falcon": "Falcon",
}
# What nearly all names of classes end in: it says nothing, and makes the table too wide for a page.
_CLASS_END = re.compile(r"(ForCausalLM|LMHeadModel)$")
# Without the numbers, which are those of tiny models.
_NUMBERS = re.compile(r"\b\d+ (?=[a-z])| of \d+ tokens( in \d+ of \d+ layers)?")
_MARK = {True: "yes", False: "no", None: "not looked up"}


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Returns the table, a row for each family in the order of ``MODELS``."""
    head = ["Models", "transformers", "Keeps of a text", "Policy", "Judge", "Shared prefixes", "Recorded", "vLLM"]
    rows = [head, ["---"] * len(head)]
    for name, models in MODELS.items():
        row = found[name]
        policy = row["policy"] if isinstance(row["policy"], str) else _MARK[row["policy"]]
        architecture = _CLASS_END.sub("", row["architecture"])
        marks = [_MARK[row[key]] for key in ("judge", "prefix_sharing", "recorded_sampling", "vllm")]
        rows.append([models, f"`{architecture}`", _NUMBERS.sub("", row["cache"]), policy, *marks])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
