"""A model's generation_config.json: what it says ends a sample, and a form of it that can be saved again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from selfjudge.errors import ModelError

FILE = "generation_config.json"


def read_eos_ids(path: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Returns what ends a sample as a model's generation_config.json says, or nothing where it has none.

    Args:
        path: Hub id or folder.
        tokenizer: the model's.

    Raises:
        ModelError: if the file is damaged, or names an id that the tokenizer does not have.
    """
    try:
        file = cached_file(path, FILE)
    except (OSError, ValueError):
        file = None
    if file is None:
        return ()
    named = str(Path(path) / FILE) if Path(path).is_dir() else f"{FILE} of {path!r}"
    try:
        content: Any = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        GenerationConfig.from_dict(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ModelError(f"{named} cannot be read ({reason}): correct it, or remove it.") from e
    return _checked(content.get("eos_token_id"), tokenizer, path, named)


def _checked(value: Any, tokenizer: PreTrainedTokenizerBase, path: str, named: str) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise ModelError(
            f"The eos_token_id in {named} is {repr(value)[:100]}, which is neither a token id nor a list of them: "
            f"correct eos_token_id in {FILE}."
        )
    known = {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder}
    strange = [i for i in ids if i not in known]
    if strange:
        raise ModelError(
            f"The model {path!r} cannot be used: it ends texts with id {strange[0]}, which its tokenizer of "
            f"{len(known)} tokens does not have: correct eos_token_id in {FILE}, or save it with the tokenizer it was "
            "trained with."
        )
    return tuple(ids)


def set_eos_ids(model: PreTrainedModel, ids: tuple[int, ...]) -> None:
    """Makes a model end its samples with these ids, and its generation config one that can be saved.

    transformers saves none that has flags of sampling without ``do_sample``, as Vicuna and early Llama 2 have, once
    anything in it was changed. It is then made one that samples; where that does not help, nothing but ids is kept.
    """
    config = model.generation_config
    config.eos_token_id = list(ids)
    if _can_be_saved(config):
        return
    # A temperature of 0 asks for greedy decoding, which sampling would turn into an error.
    if config.temperature is None or (isinstance(config.temperature, int | float) and config.temperature > 0):
        config.do_sample = True
    if not _can_be_saved(config):
        kept = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**kept)


def _can_be_saved(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except (ValueError, TypeError):
        return False
    return True
