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
            source = own if text is config else f"{own} of {type(text).__name__}"
            factor = _dynamic_factor(text)
            return Context(int(length * factor), source if factor == 1 else f"{source} × {factor:g} (dynamic rope)")
    return Context(None, "the config names no limit")


def _dynamic_factor(config: PreTrainedConfig) -> float:
    """Returns by how much dynamic rope goes beyond the length that a config names: 1 where there is none."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "dynamic":
        return 1.0
    factor = rope.get("factor", 1.0)
    return max(1.0, float(factor)) if isinstance(factor, int | float) else 1.0
