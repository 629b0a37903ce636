"""A tiny model that thinks: the small world's tokenizer with marks of thoughts, weights that may end one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from families import tiny_model
from tokenizers import AddedToken
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from selfjudge.world.model import build_tokenizer

OPEN, CLOSE = "<think>", "</think>"
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% if not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)
"""A chat template that opens a thought in the prompt, and closes it there where it is told not to think."""


def thinking_tokenizer() -> PreTrainedTokenizerFast:
    """The marks are tokens but not special ones, as those of most models that think."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in (OPEN, CLOSE)])
    tokenizer.chat_template = THINKING
    return tokenizer


def thinking_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random weights, in eval mode. At each place one token of six ends a thought, and one of six a turn."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model: Any = tiny_model("llama", len(tokenizer), **sizes, **ids, max_position_embeddings=256, initializer_range=0.1)
    with torch.no_grad():
        # A large first feature of every token makes a bias of the head's first column.
        model.model.embed_tokens.weight[:, 0] = 4
        head = model.lm_head.weight
        head[:, 0] = 0
        head[[tokenizer.convert_tokens_to_ids(CLOSE), tokenizer.eos_token_id], 0] = 0.85
    return model


def save_thinking_model(folder: Path) -> Path:
    """Saves both into a folder, and returns it."""
    tokenizer = thinking_tokenizer()
    thinking_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
