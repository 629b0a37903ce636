"""What a model keeps of the tokens it has read, in words."""

from __future__ import annotations

from collections import Counter

from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

from selfjudge.engines.stepwise import cache_name

_WITHOUT_A_CACHE = {"moe", "mlp", "dummy"}
_RECURRENT = {"recurrent"}
"""Layers that have a state in themselves, and none in a cache."""
_WORDS = {
    "conv": "convolution",
    "attention": "full-attention",
    "sliding_attention": "sliding-window",
    "hybrid": "linear- and full-attention",
    "hybrid_sliding": "linear-attention and sliding-window",
}


def cache_kind(config: PreTrainedConfig) -> str:
    """Returns what layers a causal LM has by what they keep of tokens, from its config alone.

    Such as "full attention", "sliding window of 512 tokens in 3 of 4 layers", "hybrid: 24 linear-attention,
    8 full-attention layers" or "recurrent"; "unknown" where the config does not say.
    """
    config = config.get_text_config(decoder=True)
    model_class = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if model_class is not None and cache_name(model_class) != "past_key_values":
        return "recurrent"
    try:
        layers = _layers(config)
    except (AttributeError, ValueError, KeyError):
        return "unknown"
    recurrent = sum(isinstance(layer, LinearAttentionCacheLayerMixin) or name in _RECURRENT for name, layer in layers)
    if recurrent and len({name for name, _ in layers}) == 1 and not hasattr(layers[0][1], "get_seq_length"):
        return "recurrent"
    if recurrent:
        counts = Counter(_WORDS.get(name, name.replace("_", "-")) for name, _ in layers)
        return f"hybrid: {', '.join(f'{n} {word}' for word, n in counts.items())} layers"
    windows = [(name, layer.sliding_window) for name, layer in layers if hasattr(layer, "sliding_window")]
    if windows:
        name, size = windows[0]
        what = f"chunks of {size} tokens" if name == "chunked_attention" else f"sliding window of {size} tokens"
        return what + (f" in {len(windows)} of {len(layers)} layers" if len(windows) < len(layers) else "")
    return " and ".join(dict.fromkeys(name.replace("_", " ") for name, _ in layers))


def _layers(config: PreTrainedConfig) -> list[tuple[str, CacheLayerMixin]]:
    """Returns name and cache of each layer that keeps anything; the last ones may use what others keep."""
    caches = DynamicCache(config=config).layers
    named = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    names = named or ["sliding_attention" if hasattr(c, "sliding_window") else "full_attention" for c in caches]
    return [(name, cache) for name, cache in zip(names, caches, strict=False) if name not in _WITHOUT_A_CACHE]
