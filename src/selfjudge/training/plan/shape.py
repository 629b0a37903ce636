"""The sizes of a model, from its config alone: no weights are downloaded or allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from selfjudge.engines.context import context_of
from selfjudge.engines.load import pretrained, resolve_model
from selfjudge.errors import MissingExtraError, ModelError, SelfJudgeError
from selfjudge.recipes.schema import LoraSection
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.training.lora import put_adapter


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder-only transformer in numbers.

    ``parameters`` counts tied weights once. ``matrices`` are the parameters of the layers alone, without embeddings and
    output matrix. ``gated``: the MLP multiplies two projections of its input, as in Llama.
    """

    parameters: int
    matrices: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    gated: bool
    largest: int
    """Elements of the largest weight."""

    @property
    def query(self) -> int:
        """Features of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Features of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def output(self) -> int:
        """Elements of the output matrix (the embeddings again, where tied)."""
        return self.vocab * self.hidden


@dataclass(frozen=True)
class AdapterShape:
    """A LoRA adapter in numbers: its parameters, and per token what its layers take in (``inputs``, features summed
    over all adapted matrices; ``distinct_inputs`` counts an input that several share once; ``widest`` is that of one
    matrix) and their inner features (``ranks``).
    """

    parameters: int
    inputs: int
    distinct_inputs: int
    ranks: int
    widest: int
    dropout: bool


def read_config(path: str | Path) -> PreTrainedConfig:
    """Returns the config of a Hub id, folder, run folder, .gguf file or ``builtin:world``.

    Raises:
        ModelError: if it is not there or cannot be read.
        MissingExtraError: for a .gguf file without the package that reads it.
    """
    local = Path(path)
    try:
        if str(path) == BUILTIN_WORLD:
            from selfjudge.world.model import build_model, build_tokenizer

            with torch.device("meta"):
                return build_model(build_tokenizer(), 0).config
        if local.suffix == ".gguf":
            return _gguf_config(local)
        found: PreTrainedConfig = pretrained(AutoConfig, resolve_model(path))
        return found
    except SelfJudgeError:
        raise
    except Exception as e:  # whatever a library raises at a damaged file
        reason = " ".join(str(e).split())[:300]
        raise ModelError(f"The config of the model {str(path)!r} could not be read: {reason}") from e


def _gguf_config(file: Path) -> PreTrainedConfig:
    if not file.is_file():
        raise ModelError(f"There is no file {file}: check the path.")
    try:
        import gguf  # noqa: F401
    except ImportError as e:
        raise MissingExtraError("Reading a .gguf model", "gguf") from e
    return AutoConfig.from_pretrained(str(file.resolve().parent), gguf_file=file.name, trust_remote_code=False)


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns the model without storage: every weight on the ``meta`` device.

    Raises:
        ModelError: if transformers has no causal LM for the config.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, ImportError, KeyError) as e:
        raise ModelError(f"No causal language model can be built from the config: {' '.join(str(e).split())}") from e
    model.tie_weights()
    return model


def model_shape(model: PreTrainedModel) -> ModelShape:
    """Returns the sizes of a model on any device.

    Raises:
        ModelError: if its config does not name the sizes of a decoder-only transformer.
    """
    config = model.config.get_text_config(decoder=True)
    try:
        hidden, layers, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    except AttributeError as e:
        raise ModelError(f"The config of a {config.model_type!r} model does not say its sizes: {e}") from e
    intermediate = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    output = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    # parameters() gives a tied weight once.
    sizes = [p.numel() for p in model.parameters()]
    return ModelShape(
        parameters=sum(sizes),
        matrices=sum(sizes) - embedding.numel() - (0 if output is embedding else output.numel()),
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        vocab=output.shape[0],
        context=context_of(config).length or 2**31,
        tied=output is embedding,
        gated=_widened(model, intermediate) >= 2 * layers,
        largest=max(sizes),
    )


def adapter_shape(model: PreTrainedModel, lora: LoraSection) -> AdapterShape:
    """Returns the sizes of a LoRA adapter on ``model``, by letting peft inject it; ``model`` is changed by that.

    Raises:
        RecipeError: as :func:`selfjudge.training.lora.put_adapter`.
    """
    with torch.device("meta"):
        adapted = put_adapter(model, lora)
    layers = {name: m for name, m in adapted.named_modules() if isinstance(m, LoraLayer)}
    return AdapterShape(
        parameters=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        inputs=sum(layer.in_features for layer in layers.values()),
        distinct_inputs=_distinct_inputs(layers),
        ranks=lora.r * len(layers),
        widest=max(layer.in_features for layer in layers.values()),
        dropout=lora.dropout > 0,
    )


def _distinct_inputs(layers: dict[str, Any]) -> int:
    """Sums the features of the adapted matrices' inputs: those of a block (q, k, v; gate, up) share theirs but for its
    last matrix, which takes what the block made.
    """
    shared: dict[str, int] = {}
    last: dict[str, int] = {}
    for name, layer in layers.items():
        block = name.rpartition(".")[0]
        if block in last:
            shared[block] = last[block]
        last[block] = layer.in_features
    return sum(shared.values()) + sum(last.values())


def _widened(model: nn.Module, intermediate: int) -> int:
    """Returns how many linear layers lead into the MLPs' inner features: two a layer where the MLP is gated."""
    return sum(m.out_features == intermediate for m in model.modules() if isinstance(m, nn.Linear))
