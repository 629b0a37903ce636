""".gguf models: converted to a model folder on first use."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from selfjudge.engines.damaged_files import memory_ran_out, without_warnings
from selfjudge.engines.fit import refuse, weight_problems
from selfjudge.engines.safe_files import check_gguf
from selfjudge.engines.save import save_model
from selfjudge.errors import MissingExtraError, ModelError


def converted_gguf(file: Path) -> Path:
    """Returns the folder of the file's safetensors conversion, made on first use and kept in the cache.

    Raises:
        ModelError: if the file is not there, cannot be read, or does not hold all weights.
        MissingExtraError: without the package that reads it.
    """
    if not file.is_file():
        raise ModelError(f"There is no file {file}: check the path.")
    check_gguf(file)
    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = cache_folder() / "gguf" / f"{file.stem}-{key}"
    if folder.is_dir():
        return folder
    try:
        import gguf  # noqa: F401
    except ImportError as e:
        raise MissingExtraError("Reading a .gguf model", "gguf") from e
    parent, name = str(file.resolve().parent), file.name
    transformers_logging.get_logger(__name__).warning("Converting %s to safetensors, once.", file)
    try:
        with without_warnings():
            tokenizer = AutoTokenizer.from_pretrained(parent, gguf_file=name, trust_remote_code=False)
            model, loading = AutoModelForCausalLM.from_pretrained(
                parent, gguf_file=name, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except Exception as e:  # a damaged file can raise anything
        if memory_ran_out(e):
            raise
        reason = " ".join(str(e).split())[:300]
        raise ModelError(f"{file} could not be read as GGUF ({reason}): fetch it again, or take another.") from e
    refuse(file, weight_problems(model, loading))
    # The weights are plain after loading; transformers refuses to save a model that still says they are not.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, tokenizer, folder)
    return folder


def cache_folder() -> Path:
    """Returns where converted models are kept: $SELFJUDGE_CACHE, else ~/.cache/selfjudge."""
    return Path(os.environ.get("SELFJUDGE_CACHE", Path.home() / ".cache" / "selfjudge"))
