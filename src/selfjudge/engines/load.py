"""Loading models: Hub id, folder, run folder, .gguf file or the built-in world's model from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed

from selfjudge.engines.adapter_load import with_adapter
from selfjudge.engines.context import context_of
from selfjudge.engines.damaged_files import load_failure, memory_ran_out, without_warnings
from selfjudge.engines.fit import refuse, tokenizer_problems, weight_problems
from selfjudge.engines.generation import read_eos_ids, set_eos_ids
from selfjudge.engines.gguf_files import converted_gguf
from selfjudge.engines.judging_way import judging_way
from selfjudge.engines.safe_files import check_adapter, check_weights
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.engines.save import TEMPLATES_FOLDER
from selfjudge.errors import ModelError
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.chat_files import chat_template_text
from selfjudge.templates.self_check import findings
from selfjudge.templates.thinking import Thinking

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM on its device, in eval mode, with its tokenizer's chat encoder.

    ``templates``: the judgment templates it was trained with (kept in its folder), else ``general``.
    """

    model: PreTrainedModel | PeftModel
    chat: ChatEncoder
    templates: str = "general"

    @property
    def context(self) -> int:
        """The tokens the model can take, or a very large number where its config does not say."""
        return context_length(self.model)


def load_model(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: DtypeName = "auto",
    chat_template: str | None = None,
    attn_implementation: str | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    thinking: Thinking = "off",
    today: date | None = None,
) -> LoadedModel:
    """Loads a model and its tokenizer.

    Args:
        path: Hub id, model folder, run folder of ours, .gguf file, or ``builtin:world`` (random weights by ``seed``).
        adapter: a PEFT adapter folder (or run folder) to put on top.
        dtype: of the weights; ``auto`` is bfloat16 on a GPU and float32 on a CPU.
        chat_template: replaces the tokenizer's: ``plain`` or a Jinja file.
        attn_implementation: passed to from_pretrained.
        device: by default a GPU where there is one.
        seed: of the random weights of ``builtin:world``.
        thinking: whether the policy thinks before it answers.
        today: the date that the chat template writes; by default that of today.

    Raises:
        ModelError: if it is not there, cannot be read, or its tokenizer cannot express a chat; if weights are missing,
            tokenizer and model do not belong together, or the adapter was trained on another model.
    """
    device = torch.device(device or default_device())
    chat = load_tokenizer(path, chat_template, thinking=thinking, today=today)
    if str(path) == BUILTIN_WORLD:
        from selfjudge.world.model import build_model

        model: PreTrainedModel | PeftModel = build_model(chat.tokenizer, seed)
    else:
        extra = {"attn_implementation": attn_implementation} if attn_implementation else {}
        model = whole_pretrained(AutoModelForCausalLM, path, dtype=torch_dtype(dtype, device), **extra)
    refuse(path, tokenizer_problems(chat, model))
    # Every end of a turn ends a sample for others too, not only the tokenizer's end of sequence.
    set_eos_ids(model, chat.stop_ids)
    if adapter is not None:
        model = with_adapter(model, resolve_model(path), adapter_folder(Path(adapter)))
    model = model.to(device).eval()
    sampling_way(model)
    judging_way(model)
    return LoadedModel(model, chat, model_templates(path))


def context_length(model: PreTrainedModel | PeftModel) -> int:
    """Returns the most tokens a model can take, or a very large number where its config does not say."""
    return context_of(model.config).length or 2**31


def load_tokenizer(
    path: str | Path, chat_template: str | None = None, *, thinking: Thinking = "off", today: date | None = None
) -> ChatEncoder:
    """Loads the tokenizer of a model alone. Arguments and errors as :func:`load_model`."""
    if str(path) == BUILTIN_WORLD:
        from selfjudge.world.model import build_tokenizer

        tokenizer: PreTrainedTokenizerBase = build_tokenizer()
    else:
        tokenizer = pretrained(AutoTokenizer, _tokenizer_folder(path))
    if chat_template:
        tokenizer.chat_template = chat_template_text(chat_template)
    eos_ids = () if str(path) == BUILTIN_WORLD else read_eos_ids(_tokenizer_folder(path), tokenizer)
    chat = ChatEncoder(tokenizer, thinking=thinking, eos_ids=eos_ids, today=today)
    refuse(path, [finding.problem for finding in findings(chat) if finding.problem])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return chat


def _tokenizer_folder(path: str | Path) -> str:
    """Returns what a tokenizer is loaded from; a folder needs no model for that."""
    alone = Path(path).is_dir() and (Path(path) / "tokenizer_config.json").is_file()
    return str(path) if alone else resolve_model(path)


def model_templates(path: str | Path) -> str:
    """Returns the judgment templates a model was trained with (kept in its folder), else ``general``.

    A name or folder for :func:`~selfjudge.templates.template.load_templates`.

    Raises:
        ModelError: if a local path is not there or holds no model.
    """
    if str(path) == BUILTIN_WORLD:
        return "world"
    folders = (Path(resolve_model(path)) / TEMPLATES_FOLDER).glob("*")
    return next((str(folder) for folder in folders if folder.is_dir()), "general")


def default_device() -> str:
    """Returns the accelerator's name where torch finds one, else ``cpu``."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def resolve_model(path: str | Path) -> str:
    """Returns what from_pretrained takes: a Hub id, or a folder (a run folder's ``final``, a converted .gguf file).

    Raises:
        ModelError: if a local path is not there or holds no model.
    """
    local = Path(path)
    if local.suffix == ".gguf":
        return str(converted_gguf(local))
    if local.is_dir():
        for folder in (local, local / "final"):
            if (folder / "config.json").is_file():
                return str(folder)
        raise ModelError(f"{path} holds no model (no config.json): name a model folder or a finished run folder.")
    looks_local = local.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1
    if looks_local or local.exists():
        raise ModelError(f"There is no model folder at {path}: check the path.")
    return str(path)


def pretrained_model(auto_class: Any, path: str | Path, **kwargs: Any) -> Any:
    """Returns a model, read from safetensors alone. Arguments and errors as :func:`pretrained`."""
    found = resolve_model(path)
    if Path(found).is_dir():
        check_weights(Path(found))
    return pretrained(auto_class, found, use_safetensors=True, **kwargs)


def whole_pretrained(auto_class: Any, path: str | Path, **kwargs: Any) -> Any:
    """Returns :func:`pretrained_model`, each of whose weights comes from its files.

    Raises:
        ModelError: as :func:`pretrained`; if weights are missing, or do not fit the config.
    """
    model, loading = pretrained_model(
        auto_class, path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    refuse(path, weight_problems(model, loading))
    return model


def pretrained(auto_class: Any, path: str, **kwargs: Any) -> Any:
    """Returns ``auto_class.from_pretrained(path)``, with what goes wrong there as a ModelError.

    Code that comes with a model is never run.
    """
    try:
        with _whole(), without_warnings():
            return auto_class.from_pretrained(path, trust_remote_code=False, **kwargs)
    except Exception as e:  # a damaged file can raise anything
        if memory_ran_out(e):
            raise
        if "trust_remote_code" in str(e):
            raise ModelError(
                f"The model {path!r} comes with code of its own, which is never run here (trust_remote_code is off): "
                "use a model whose architecture transformers has."
            ) from e
        raise ModelError(f"The model {path!r} could not be loaded: {load_failure(path, e)}") from e


@contextmanager
def _whole() -> Iterator[None]:
    """Within it weights are loaded whole under ZeRO-3 too, as a judge and a reference need them.

    transformers would share them out while it loads, which takes all processes at once; accelerate's zero3_init_flag
    does not keep it from that.
    """
    held = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held


def torch_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Returns the dtype of weights on ``device``; ``auto`` is bfloat16, on a CPU float32."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def adapter_folder(path: Path) -> Path:
    """Returns the folder of a PEFT adapter: ``path`` itself, or ``adapter`` in a run folder.

    Raises:
        ModelError: if neither holds one.
    """
    folder = next((f for f in (path, path / "adapter") if (f / "adapter_config.json").is_file()), None)
    if folder is None:
        raise ModelError(f"{path} holds no adapter (no adapter_config.json): name an adapter or a LoRA run folder.")
    check_adapter(folder)
    return folder
