"""How many tokens a model can take, by its config."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "context_length",
    "model_max_length",
)
"""What configs call it, the usual name first."""


@dataclass(frozen=True)
class Context:
    """The most tokens a model can take, None without a limit; ``source``: what in the config says so."""

    length: int | None
    source: str


def context_of(config: PreTrainedConfig) -> Context:
    """Returns the context length of a causal LM from its config alone; of a multimodal model that of its text part."""
    text = config.get_text_config(decoder=True)
    for name in _NAMES:
        length = getattr(text, name, None)
        if isinstance(length, int) and length > 0:
            own = text.attribute_map.get(name, name)
            return Context(length, own if text is config else f"{own} of {type(text).__name__}")
    return Context(None, "the config names no limit")
