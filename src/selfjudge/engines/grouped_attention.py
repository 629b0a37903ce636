"""Attention of one new token per row where heads share keys and values, without copies of these for every head.

torch's kernels with a mask want as many keys as heads; older versions of transformers repeat them, at each token and in
each layer. The heads of a group are given as so many tokens instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfjudge.engines.causal_lm import attention

_NAME = "selfjudge_grouped"


@contextmanager
def grouped_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model, whose attention is torch's, takes one token per row; the mask is added to the scores.

    A model whose heads have keys and values of their own stays as it is: torch's kernel is faster for them.
    """
    config = model.config.get_text_config()
    if getattr(config, "num_key_value_heads", None) in (None, config.num_attention_heads):
        yield
        return
    with attention(model, _NAME):
        yield


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Args:
        module: the layer's attention.
        query: [rows, heads, 1, head size].
        key: [rows, groups, columns, head size]; ``value`` likewise. Neighbouring heads share a group.
        value: see ``key``.
        attention_mask: [rows, 1, 1, columns], added to the scores.
        scaling: of the scores.
        kwargs: what other attention functions take.

    Returns:
        [rows, 1, heads, head size], and no weights.
    """
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, size)
    found = functional.scaled_dot_product_attention(grouped, key, value, attention_mask, scale=scaling)
    return found.reshape(rows, 1, heads, -1), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
